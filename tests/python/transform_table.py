"""Writes the table of transforms and parallel forms into README.md, from the tests that prove its cells.

    python tests/python/transform_table.py [--check]

A test that carries ``@pytest.mark.cell(transform, form)`` proves that cell; nothing else makes one. ``--check`` writes nothing and fails
where the README is out of date.
"""

from __future__ import annotations

import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).parent
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- transforms -->\n", "<!-- /transforms -->\n"

# Why the cells of a form that no test proves are empty.
WITHOUT = {
    "grad of shard_map": "takes the gradient around the map; what takes no gradient, or one per example, is in the row *shard_map*",
    "members over devices": "is an ensemble whose members are split over devices, while each is whole, as on one device",
}
LEGEND = """
Rows are the ways to spread a program over devices, columns are what it does. Every ✓ is a test of its own (`pytest -m cell` runs
them) that compares with one device, integers bit for bit, on the oldest supported jax and on the newest. *compact* drops the score
leaves, *reuse* uses a layer several times without `tx.bind`, *microbatches* adds up gradients, *vote* is `reduce="vote"`.
"""


class _Collector:
    """Plugin that keeps the cells of the collected tests, in their order."""

    def __init__(self) -> None:
        self.cells: list[tuple[str, str]] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Called once all tests are known."""
        self.cells = [mark.args for item in session.items for mark in item.iter_markers("cell")]


def collect() -> list[tuple[str, str]]:
    """The (transform, form) pairs that tests prove."""
    collector = _Collector()
    modules = sorted(str(path) for path in HERE.glob("test_*.py") if "mark.cell(" in path.read_text())
    modules.sort(key=lambda path: not path.endswith("test_transforms.py"))  # its order of rows and columns comes first
    if pytest.main(["--collect-only", "-qq", "--no-header", "--no-summary", *modules], plugins=[collector]) != pytest.ExitCode.OK:
        raise SystemExit("the tests cannot be collected")
    return collector.cells


def table(cells: list[tuple[str, str]]) -> str:
    """The Markdown table, with the reasons of its empty cells."""
    transforms, forms = (list(dict.fromkeys(cell[k] for cell in cells)) for k in range(2))
    lines = ["| | " + " | ".join(transforms) + " |", "|---" * (len(transforms) + 1) + "|"]
    empty = []
    for form in forms:
        row = [(transform, form) in cells for transform in transforms]
        if not all(row):
            empty.append(form)
        lines.append("| " + " | ".join([form, *("✓" if proved else "–" for proved in row)]) + " |")
    unexplained = [form for form in empty if form not in WITHOUT]
    if unexplained:
        raise SystemExit(f"cells of {unexplained} are empty and transform_table.py does not say why")
    reasons = ["Empty cells (–):", "", *(f"- *{form}* {WITHOUT[form]}." for form in empty)]
    return "\n".join(lines) + "\n" + LEGEND + "\n" + "\n".join(reasons) + "\n"


def main() -> None:
    """Writes the table, or checks it."""
    before, found, rest = README.read_text().partition(BEGIN)
    if not found or END not in rest:
        raise SystemExit(f"README.md has no {BEGIN.strip()} ... {END.strip()}")
    text = before + BEGIN + table(collect()) + END + rest.partition(END)[2]
    if "--check" not in sys.argv[1:]:
        README.write_text(text)
    elif README.read_text() != text:
        raise SystemExit("the table of transforms in README.md is out of date: run python tests/python/transform_table.py")


if __name__ == "__main__":
    main()
