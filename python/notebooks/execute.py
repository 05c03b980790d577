"""Executes ``parity.ipynb`` from top to bottom and fails if a cell does.

    python python/notebooks/execute.py [--save]

The executed notebook goes to ``out/parity.ipynb``; with ``--save`` over the committed one, free of what belongs to one run:
execution counts, times, and warnings of this machine.
"""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("parity.ipynb")
ROOT = NOTEBOOK.parents[2]


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with what a reader needs: no counts, no times, no text of standard error."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                output.pop("execution_count", None)
    return notebook


def refuse_paths(text: str) -> None:
    """Exits if the notebook's text names a folder of this machine."""
    for folder in (ROOT, Path.home()):
        if str(folder) in text:
            raise SystemExit(f"the executed notebook names {folder}: it must not be committed")


def main() -> None:
    parser = argparse.ArgumentParser(description="Executes the notebook.")
    parser.add_argument("--save", action="store_true", help="replace the committed notebook")
    options = parser.parse_args()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    text = nbformat.writes(cleaned(notebook))
    refuse_paths(text)
    path = NOTEBOOK if options.save else ROOT / "out" / NOTEBOOK.name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n")
    print(f"{sum(cell.cell_type == 'code' for cell in notebook.cells)} cells executed: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
