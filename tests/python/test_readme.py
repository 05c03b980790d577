"""The README tells the truth: its program runs as printed."""

import pathlib
import re
import subprocess
import sys

import pytest

README = pathlib.Path(__file__).parents[2] / "README.md"


def test_the_example_of_the_readme_runs_as_printed_and_learns(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(program, str(README), "exec"), scope)
    printed = re.fullmatch(r"loss (\d+\.\d+), (\d+\.\d+) bits per weight\n", capsys.readouterr().out)
    assert printed, "the example prints its loss and its size"
    assert float(printed[1]) < 2.25, "ten classes by guessing cost log(10) = 2.30"


def test_the_table_of_transforms_is_what_the_tests_prove() -> None:
    script = pathlib.Path(__file__).parent / "transform_table.py"
    result = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
