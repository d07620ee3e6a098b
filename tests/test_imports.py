"""The order of the packages: a file imports from its own and from those before it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ("configs", "data", "gpt", "trm", "train")
# What a package may not import, beside what comes after it.
FORBIDDEN = {
    "configs": {"numpy", "jax", "equinox", "optax", "orbax", "tyro"},
    "data": {"jax", "equinox", "optax", "orbax"},
    "gpt": {"optax", "orbax", "tyro"},
    "trm": {"optax", "orbax", "tyro"},
    "train": set(),
}
# `train` knows no model: these train or evaluate one.
RECIPES = {
    "train/evaluate.py",
    "train/export.py",
    "train/gpt.py",
    "train/models.py",
    "train/solving.py",
    "train/card.py",
    "train/tradeoff.py",
    "train/trm.py",
    "train/trm_weights.py",
}
# Entry scripts stand above all packages.
SCRIPTS = {
    "data/prepare.py",
    "gpt/arc.py",
    "gpt/evaluate.py",
    "gpt/export.py",
    "gpt/sample.py",
    "trm/convert.py",
    "trm/solve.py",
}
SOURCES = [
    path
    for name in ORDER
    for path in (
        [ROOT / f"{name}.py"] if name == "configs" else (ROOT / name).rglob("*.py")
    )
]


def imports(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_import_order(path: Path) -> None:
    relative = path.relative_to(ROOT)
    package = relative.parts[0].removesuffix(".py")
    later = set(ORDER[ORDER.index(package) + 1 :])
    used = imports(path)
    assert "__future__" not in used, "it would switch the shape checks off"
    if str(relative) not in SCRIPTS:
        assert not used & later
        assert not used & FORBIDDEN[package]
    if package == "train" and str(relative) not in RECIPES:
        assert "trm" not in used, "the recipes alone know the models"


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] != "train"
        and str(path.relative_to(ROOT)) not in SCRIPTS
    ],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_only_train_knows_meshes(path: Path) -> None:
    """No mesh and no collective outside of `train`; what decodes is compiled too."""
    known = {"shard_map", "psum", "all_gather", "Mesh", "pcast"}
    if path != ROOT / "gpt" / "decode.py":
        known |= {"jit", "filter_jit"}
    tree = ast.parse(path.read_text())
    names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    names |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert not names & known


@pytest.mark.parametrize("name", ["configs", "data"])
def test_a_file_that_hides_a_module_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").touch()
    code = "import sys\nsys.path[:0] = sys.argv[1:]\nimport train.trm"
    command = [sys.executable, "-c", code, str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert f"{name}.py` hides the module `{name}`" in last
    assert "Rename" in last
