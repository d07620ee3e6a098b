"""What a run records of the code that trains."""

import subprocess
from pathlib import Path

import jax

from train.runs.provenance import LIBRARIES, code, commit


def test_versions() -> None:
    found = code()
    assert found["libraries"].keys() == set(LIBRARIES)
    assert found["libraries"]["jax"] == jax.__version__
    assert found["version"]


def test_the_commit_of_a_checkout_alone(tmp_path: Path) -> None:
    assert commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert commit(tmp_path) is None, "there is none yet"
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = (tmp_path / ".git" / "HEAD").read_text().split()[1]
    assert commit(tmp_path) == (tmp_path / ".git" / head).read_text().strip()
