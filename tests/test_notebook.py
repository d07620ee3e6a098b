"""The notebooks in `docs/` run from top to bottom, without Jupyter."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data.puzzles.sudoku.board import BOXES
from data.puzzles.sudoku.solver import count_solutions
from tests.runs import ROOT, environment

NOTEBOOKS = {
    name: [
        cell
        for cell in json.loads((ROOT / "docs" / name).read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    for name in ("solve.ipynb", "colab.ipynb")
}
CODE = {
    name: ["".join(cell["source"]) for cell in cells]
    for name, cells in NOTEBOOKS.items()
}


def execute(
    code: list[str], folder: Path, temporary: Path
) -> subprocess.CompletedProcess[str]:
    """Execute cells in a new process in a folder, with a folder for temporary files."""
    return subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=folder,
        env=environment(TMPDIR=str(temporary)),
        timeout=600,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_compile(name: str) -> None:
    for source in CODE[name]:
        compile(source, name, "exec")


def test_outputs_are_of_one_execution_and_name_no_path_of_its_machine() -> None:
    cells = NOTEBOOKS["solve.ipynb"]
    counts = [cell["execution_count"] for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    outputs = json.dumps([cell["outputs"] for cell in cells])
    assert not re.search(r"/tmp|/home|/root|Error", outputs)
    assert outputs.count("image/png") == 3
    assert not any(cell["outputs"] for cell in NOTEBOOKS["colab.ipynb"])


def test_the_first_puzzle_has_one_solution_and_the_last_has_none() -> None:
    found = re.findall(r'solve\(run, "([.1-4]{16})"', "\n".join(CODE["solve.ipynb"]))
    first, last = ([int(sign) for sign in text.replace(".", "0")] for text in found)
    assert count_solutions(first, BOXES[4]) == 1
    assert last[0] == last[1] == 1  # in a row


def test_without_a_checkout_an_address_is_needed(tmp_path: Path) -> None:
    done = execute(CODE["colab.ipynb"][:2], tmp_path, tmp_path)
    assert done.returncode == 1
    assert "ValueError: `REPOSITORY` must be this repository's address" in done.stderr


@pytest.mark.slow
def test_solve_trains_a_model_that_solves(tmp_path: Path) -> None:
    check = "assert (~faults(inputs, thought.answers[-1]).any(1)).mean() > 0.8"
    done = execute([*CODE["solve.ipynb"], check], ROOT / "docs", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("puzzle.*"))) == 3


@pytest.mark.slow
def test_colab_runs_on_a_cpu(tmp_path: Path) -> None:
    """In a checkout of its own: a folder with links to the code."""
    for name in ("configs.py", "data", "gpt", "trm", "train"):
        (tmp_path / name).symlink_to(ROOT / name)
    parameters, *rest = CODE["colab.ipynb"]
    done = execute([parameters, "EPOCHS = 2.0", *rest], tmp_path, tmp_path)
    assert done.returncode == 0, done.stderr
    solution, report = done.stdout.split("building")[0], done.stdout[-600:]
    assert "the rules hold; givens kept" in solution
    assert "1 x cpu (cpu)" in report
    (line,) = re.findall(r"^\| quickstart .*", report, re.M)
    _, batch, depth, speed, mfu, steps, solved = line.strip("| ").split(" | ")
    assert (batch, depth, mfu) == ("16, float32", "1 x 1", "peak not known")
    assert float(speed.replace(",", "")) > 0
    assert steps == "500"
    assert solved.endswith("%")
    assert len(list(tmp_path.glob("runs/*/quickstart/metrics.jsonl"))) == 1
