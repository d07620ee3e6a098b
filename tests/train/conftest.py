"""A small dataset, an uninterrupted run on it, and compiling without the cache."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from configs import GeneratedSudoku
from data.build import prepare
from tests.runs import finish, start_trm


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4x4 Sudoku: 64 training puzzles, 16 test puzzles."""
    folder = tmp_path_factory.mktemp("data") / "sudoku-4x4"
    prepare(GeneratedSudoku(size=4, train=64, test=16), folder)
    return folder


@pytest.fixture(scope="session")
def puzzles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4x4 Sudoku: 40 training puzzles, 8 test puzzles."""
    folder = tmp_path_factory.mktemp("data") / "sudoku-4x4"
    prepare(GeneratedSudoku(size=4, train=40, test=8), folder)
    return folder


@pytest.fixture(scope="session")
def complete(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an uninterrupted run, with its output in `out` and `err`."""
    folder = tmp_path_factory.mktemp("complete") / "run"
    out, err = finish(start_trm(dataset, folder))
    (folder / "out").write_text(out)
    (folder / "err").write_text(err)
    return folder


@pytest.fixture(scope="module")
def no_persistent_cache() -> Iterator[None]:
    """Programs of devices that are not here cannot be read back from the cache."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()
