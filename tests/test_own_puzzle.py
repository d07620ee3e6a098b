"""The code of `docs/own-puzzle.md`, as a reader would run it."""

import importlib.util
import re
import sys

import numpy as np
import pytest

from data.puzzles.dataset import PuzzleDataset
from tests import runs


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """The file that the document tells to make, and it as a module."""
    text = (runs.ROOT / "docs" / "own-puzzle.md").read_text(encoding="utf-8")
    pieces = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    path = tmp_path_factory.mktemp("own") / "nonograms.py"
    path.write_text("\n\n".join(pieces), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("nonograms", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return path, module


def test_questions_have_one_answer(code):
    _, nonograms = code
    cross = np.array([[0, 0, 1, 0, 0]] * 2 + [[1] * 5] + [[0, 0, 1, 0, 0]] * 2)
    assert nonograms.is_unique(cross)
    assert not nonograms.is_unique(np.eye(5, dtype=int))
    questions, answers = nonograms.to_tokens(nonograms.make(50))
    assert nonograms.is_solution(questions, answers).all()
    answers[:, 7] = nonograms.EMPTY + nonograms.FILLED - answers[:, 7]
    assert not nonograms.is_solution(questions, answers).any()
    question, answer = nonograms.to_tokens(cross[None])
    assert list(nonograms.draw(question[0], answer[0])) == [
        "",
        "",
        "       1 1 5 1 1",
        "    1  . . # . .",
        "    1  . . # . .",
        "    5  # # # # #",
        "    1  . . # . .",
        "    1  . . # . .",
    ]


def test_a_list_is_read(code, tmp_path):
    _, nonograms = code
    questions, answers = nonograms.to_tokens(nonograms.make(3))
    text = lambda tokens: "".join(nonograms.SIGNS[token] for token in tokens)
    pairs = zip(questions, answers, strict=True)
    lines = [f"mine,{text(q)},{text(a)},0" for q, a in pairs]
    path = tmp_path / "list.csv"
    path.write_text("\n".join(["source,question,answer,rating", *lines]))
    for ours, theirs in zip(nonograms.read(path), (questions, answers), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_it_trains_solves_and_draws(code, tmp_path):
    """As a program, for a few steps."""
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
    assert len(out.rstrip().split("the first:\n")[1].splitlines()) == 8
    folder = tmp_path / "nonograms" / "data"
    splits = [PuzzleDataset([folder], s, batch_size=12) for s in ("train", "test")]
    assert [split.num_examples for split in splits] == [60, 12]
    labels = splits[1].test_batch(0).labels
    assert ((labels == -100).sum(axis=1) == 11).all()
