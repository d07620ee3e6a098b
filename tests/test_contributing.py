"""The recipes of CONTRIBUTING.md, followed literally in a copy of the project."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import runs

BLOCK = re.compile(r"^```(python|diff)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def follow(recipe: str, root: Path) -> None:
    """Write the files and change the lines of a section in the project at `root`.

    A file's name is the last one in backquotes before its text. Lines of a diff that
    stay or go must occur in the file once.
    """
    before = 0
    for block in BLOCK.finditer(recipe):
        kind, text = block.groups()
        if kind == "python":
            name = re.findall(r"`(\S+\.py)`", recipe[before : block.start()])[-1]
            assert not (root / name).exists()
            (root / name).write_text(text, encoding="utf-8")
        else:
            for part in text.split("--- ")[1:]:
                change(root, *part.split("\n", 1))
        before = block.end()


def change(root: Path, name: str, hunk: str) -> None:
    """Change the lines of a hunk in the file `name`."""
    lines = hunk.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    text = (root / name).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{name} must have this once:\n{old}"
    (root / name).write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A copy of the project with both recipes followed."""
    root = tmp_path_factory.mktemp("project")
    for name in ("data", "gpt", "trm", "train", "tests"):
        skip = shutil.ignore_patterns("__pycache__", "golden")
        shutil.copytree(runs.ROOT / name, root / name, ignore=skip)
    for name in ("configs.py", "pyproject.toml"):
        shutil.copy(runs.ROOT / name, root / name)
    text = (runs.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## )", text, re.S | re.M))
    for title in ("Add a variant", "Add a mixer"):
        follow(sections[title], root)
    return root


@pytest.mark.slow
def test_recipes_keep_the_contract_of_variants(root: Path) -> None:
    """(A mixer of one matrix need not memorize.)"""
    tests = "(twice or linear) and not memorised"
    words = ["-q", "-p", "no:cacheprovider", "-k", tests, "-m", ""]
    subprocess.run(
        [sys.executable, "-m", "pytest", "tests/trm/test_variants.py", *words],
        cwd=root,
        env=runs.environment(PYTHONPATH=str(root)),
        check=True,
    )


def test_recipes_are_formatted(root: Path) -> None:
    for command in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "configs.py", "trm"]
        subprocess.run(ruff, cwd=root, check=True)
