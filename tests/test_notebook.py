"""The notebook in `docs/` runs from top to bottom, without Jupyter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT, environment

PATH = ROOT / "docs" / "solve.ipynb"


def code() -> list[str]:
    cells = json.loads(PATH.read_text())["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def test_cells_are_python_without_outputs() -> None:
    cells = json.loads(PATH.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    for source in code():
        compile(source, "cell", "exec")


@pytest.mark.slow
def test_cells_run_one_after_another(tmp_path: Path) -> None:
    """From the folder of the notebook; last expressions are pictures."""
    show = """
import ast
def run(source, space):
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), space)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), space)
        print("shown:", type(value).__name__)
space = {}
"""
    calls = "".join(f"run({source!r}, space)\n" for source in code())
    done = subprocess.run(
        [sys.executable, "-c", show + calls],
        cwd=PATH.parent,
        env=environment(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    shown = [line for line in done.stdout.splitlines() if line.startswith("shown:")]
    assert [
        line.split()[1] for line in shown if "None" not in line and "int" not in line
    ] == [
        "Image",
        "Image",
        "Figure",
    ]
    after = [line for line in done.stdout.splitlines() if line.startswith("after step")]
    assert len(after) == 16
    assert float(after[-1].split()[3]) > 0.8, "the model has learned to solve"
    assert "its givens contradict each other" in done.stdout
    assert len(list(tmp_path.rglob("puzzle.*"))) == 3
