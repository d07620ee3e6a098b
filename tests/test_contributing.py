"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the project."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import runs
from tests.trm.test_variants import MIXERS, VARIANTS

BLOCK = re.compile(r"^```(python|diff)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def follow(recipe: str, root: Path) -> None:
    """Do in `root` what a section says: files to make, then lines to change.

    A file's name is the last one in backquotes before its text. Of a diff, the lines
    that stay or go must stand in the file once.
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
    """Change the lines of a hunk in a file."""
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
    for title in ("Adding a variant", "Adding a mixer"):
        follow(sections[title], root)
    return root


@pytest.mark.parametrize(
    "which",
    [
        "twice-linear",
        # A mixer of one matrix need not learn anything by heart.
        pytest.param("(twice or linear) and not memorised", marks=pytest.mark.slow),
    ],
)
def test_what_the_recipes_make_keeps_the_contract(root, which, request):
    quick = "not slow" if request.node.get_closest_marker("slow") is None else ""
    words = [
        "-m",
        "pytest",
        "-q",
        "tests/trm/test_variants.py",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [sys.executable, *words, "-k", which, "-m", quick],
        cwd=root,
        env=runs.environment(PYTHONPATH=str(root)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])  # pyright: ignore
    # One variant with all mixers and a new one; all others with the new mixer.
    assert passed == 3 * (1 if quick else len(MIXERS) + 1 + len(VARIANTS))


def test_code_is_written_as_all_of_it(root):
    """Formatted, and free of what ruff minds."""
    for command in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "configs.py", "trm"]
        subprocess.run(ruff, cwd=root, check=True)
