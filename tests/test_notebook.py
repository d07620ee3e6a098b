"""The notebook in `docs/` runs from top to bottom, without Jupyter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT, environment

CELLS = json.loads((ROOT / "docs" / "solve.ipynb").read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_cells_compile_and_have_no_outputs() -> None:
    assert not any(cell.get("outputs") for cell in CELLS)
    for source in CODE:
        compile(source, "cell", "exec")


@pytest.mark.slow
def test_cells_train_a_model_that_solves(tmp_path: Path) -> None:
    check = "assert (~faults(inputs, thought.answers[-1]).any(1)).mean() > 0.8"
    subprocess.run(
        [sys.executable, "-c", "\n".join([*CODE, check])],
        cwd=ROOT / "docs",
        env=environment(TMPDIR=str(tmp_path)),
        timeout=300,
        check=True,
    )
    assert len(list(tmp_path.rglob("puzzle.*"))) == 3
