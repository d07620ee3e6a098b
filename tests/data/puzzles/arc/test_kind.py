import json

import numpy as np
import pytest

from configs import UserError
from data.puzzles.arc.grid import to_grid, to_tokens
from data.puzzles.kinds import kind_of

ARC = kind_of("arc", 900, 12)
TASK = {
    "train": [],
    "test": [
        {"input": [[1, 2], [3, 0]], "output": [[9]]},
        {"input": [[5]], "output": None},
    ],
}


def test_reading_a_task_and_many():
    first, second = ARC.read(json.dumps(TASK), "0a1b")
    assert (first.name, first.identifier) == ("0a1b, test[0]", "0a1b")
    assert to_grid(first.tokens).tolist() == [[1, 2], [3, 0]]
    assert first.answer is not None
    assert to_grid(first.answer).tolist() == [[9]]
    assert second.answer is None
    many = ARC.read(json.dumps({"a": TASK, "b": TASK}), "file")
    assert [question.identifier for question in many] == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{", "t "),
        ("[1]", r"t .*\[1\]"),
        ('{"a": 3}', "a "),
        ('{"test": [3]}', "t "),
        ('{"test": [{"output": [[1]]}]}', r"t, test\[0\].*\['output'\]"),
        ('{"test": [{"input": [[1, 2], [3]]}]}', r"t, test\[0\], input.*1 and of 2"),
        ('{"test": [{"input": [[10]]}]}', "10"),
        ('{"test": [{"input": [[1]], "output": [[]]}]}', "output.*0 columns"),
    ],
)
def test_text_that_is_no_task(text, value):
    with pytest.raises(UserError, match=value):
        ARC.read(text, "t")


def test_a_smaller_canvas():
    kind = kind_of("arc", 9, 12)
    (question,) = kind.read(json.dumps({"test": [{"input": [[1, 2], [3, 0]]}]}), "t")
    assert question.tokens.tolist() == [3, 4, 1, 5, 2, 1, 1, 1, 0]
    assert kind.render(question.tokens, np.zeros(9, bool))[:2] == ["1 2 :", "3 0 :"]
    with pytest.raises(UserError, match=r"t, test\[0\], input.*1 to 3.*4 rows"):
        kind.read(json.dumps({"test": [{"input": [[1]] * 4}]}), "t")


def test_an_answer_is_right_as_it_is_cropped():
    """As in the official evaluation; else all that differs is wrong."""
    known = to_tokens(np.array([[1, 2], [3, 4]], np.uint8)).astype(np.int32)
    beyond, other = known.copy(), known.copy()
    beyond[450] = 7
    other[[0, 450]] = 7
    wrong = ARC.errors(np.stack([known, beyond, other]), known)
    assert [np.flatnonzero(row).tolist() for row in wrong] == [[], [], [0, 450]]
    assert ARC.is_solution(known[None], known[None]) is None
    assert len(set(ARC.fills)) == len(ARC.fills) == 12


def test_a_canvas_is_drawn_as_far_as_it_is_used():
    tokens = to_tokens(np.arange(6, dtype=np.uint8).reshape(2, 3))
    wrong = np.zeros(900, bool)
    assert ARC.render(tokens, wrong) == ["0 1 2 :", "3 4 5 :", ": : :"]
    wrong[31] = True
    assert ARC.render(tokens, wrong)[1] == "3 4!5 :"
    assert ARC.render(np.full(900, 99), wrong)[0].startswith("? ? ?")
    assert ARC.render(np.zeros(900, int), np.zeros(900, bool)) == [""]
