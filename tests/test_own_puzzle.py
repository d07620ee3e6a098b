"""The code of `docs/own-puzzle.md`."""

import importlib.util
import re
import sys
from itertools import islice

import numpy as np
import pytest

from data.puzzles.dataset import PuzzleDataset
from data.puzzles.kinds import KINDS, kind_of
from tests import runs


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """Return the file of the page and its module."""
    text = (runs.ROOT / "docs" / "own-puzzle.md").read_text(encoding="utf-8")
    pieces = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    path = tmp_path_factory.mktemp("own") / "nonograms.py"
    path.write_text("\n\n".join(pieces), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("nonograms", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield path, module
    del KINDS["nonogram"]


def test_questions_have_one_answer(code):
    _, nonograms = code
    cross = np.array([[0, 0, 1, 0, 0]] * 2 + [[1] * 5] + [[0, 0, 1, 0, 0]] * 2)
    assert nonograms.is_unique(cross)
    assert not nonograms.is_unique(np.eye(5, dtype=int))
    kind = kind_of("nonogram", 36, nonograms.FILLED + 1)
    questions, answers = nonograms.to_tokens(nonograms.make(50))
    assert kind.is_solution(questions, answers).all()
    for symmetry in islice(kind.symmetries(np.random.default_rng(0)), 3):
        seen = [symmetry.apply(boards) for boards in (questions, answers)]
        assert kind.is_solution(*seen).all()
        np.testing.assert_array_equal(symmetry.inverse().apply(seen[1]), answers)
    answers[:, 7] = nonograms.EMPTY + nonograms.FILLED - answers[:, 7]
    assert not kind.is_solution(questions, answers).any()
    question, answer = nonograms.to_tokens(cross[None])
    lines = kind.render(answer[0], kind.faults(question, answer)[0])
    assert [line.split() for line in lines] == [
        [".", "1", "1", "5", "1", "1"],
        ["1", ".", ".", "#", ".", "."],
        ["1", ".", ".", "#", ".", "."],
        ["5", "#", "#", "#", "#", "#"],
        ["1", ".", ".", "#", ".", "."],
        ["1", ".", ".", "#", ".", "."],
    ]


@pytest.mark.slow
def test_it_trains_solves_and_draws(code, tmp_path):
    """Run it as a program for a few steps."""
    path, _ = code
    process = runs.subprocess.Popen(
        [sys.executable, str(path), "60", "20"],
        cwd=tmp_path,
        env=runs.environment(PYTHONPATH=str(runs.ROOT)),
        stdout=runs.subprocess.PIPE,
        stderr=runs.subprocess.PIPE,
        text=True,
    )
    out, _ = runs.finish(process)
    assert re.search(r"\d+ of 12 test puzzles solved; the first:", out)
    assert "by_the_rules" in out
    folder = tmp_path / "nonograms" / "data"
    splits = [PuzzleDataset([folder], s, batch_size=12) for s in ("train", "test")]
    assert [split.num_examples for split in splits] == [60, 12]
