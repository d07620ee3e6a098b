import numpy as np
import pytest

from configs import UserError
from data.puzzles.kinds import kind_of
from data.puzzles.maze import kind as maze

QUESTION = ["S  #", " #  ", "   #", "##G "]
ANSWER = ["S  #", "o#  ", "ooo#", "##G "]
OTHER = ["Soo#", " #o ", "  o#", "##G "]  # as short


def tokens(*mazes):
    return maze.to_tokens(["".join(rows) for rows in mazes])


# -- rules -----------------------------------------------------------------------------


def solves(answer, question=QUESTION):
    return bool(maze.is_solution(tokens(question), tokens(answer))[0])


def test_every_shortest_path_is_a_solution():
    assert solves(ANSWER)
    assert solves(OTHER)


@pytest.mark.parametrize(
    "answer",
    [
        QUESTION,  # nothing
        ["S  #", "o#  ", "o o#", "##G "],  # a gap
        ["Soo#", "o#o ", "ooo#", "##G "],  # both paths
        ["So #", "o#  ", "ooo#", "##G "],  # one cell more
        ["S  #", "o#  ", "ooo#", "##Go"],
        ["S  #", "oo  ", " oo#", "##G "],  # through a wall
        ["o  #", "o#  ", "ooo#", "##G "],  # without start
        ["S  #", "o#  ", "ooo#", "##o "],  # without goal
        ["S ##", "o#  ", "ooo#", "##G "],  # a new wall
    ],
)
def test_other_answers_are_none(answer):
    assert not solves(answer)


def test_a_longer_path_is_no_solution():
    question = ["S   ", " ## ", " ## ", "G   "]
    assert solves(["S   ", "o## ", "o## ", "G   "], question)
    assert not solves(["Sooo", " ##o", " ##o", "Gooo"], question)


def test_a_path_between_neighbours_has_no_cell():
    assert solves(["SG", "  "], ["SG", "  "])
    assert not solves(["SG", "oo"], ["SG", "  "])


@pytest.mark.parametrize(
    "question", [["S ", "  "], [" G", "  "], ["SS", " G"], ["S#", "#G"], ["  ", "  "]]
)
def test_what_is_no_puzzle_has_no_solution(question):
    assert not solves(question, question)


def test_tokens_of_any_size_are_judged():
    inputs = tokens(QUESTION, QUESTION).astype(np.int32)
    wild = np.array([tokens(ANSWER)[0], np.arange(16) - 8], np.int32)
    np.testing.assert_array_equal(maze.is_solution(inputs, wild), [True, False])
    with pytest.raises(UserError, match="got 6 cells"):
        maze.is_solution(np.ones((1, 6), int), np.ones((1, 6), int))


def test_faults_of_a_maze_are_none_in_a_solution_alone():
    """Whatever is changed; a detour has no fault of its own, so all of it is one."""
    kind = kind_of("maze", 25, 6)
    (asked,) = kind.read("S    \n###  \n     \n     \n    G")
    rng = np.random.default_rng(0)
    base = np.tile(asked.tokens, (400, 1))
    answers = base.copy()
    right = [1, 2, 3, 8, 13, 18, 23]
    for answer in answers:
        answer[right] = maze.PATH
        changes = rng.integers(0, 4)
        answer[rng.integers(0, 25, changes)] = rng.integers(0, 7, changes)
    answers[0, :] = asked.tokens
    detour = [1, 2, 3, 4, 9, 14, 13, 12, 17, 18, 19]
    answers[1, :] = asked.tokens
    answers[1, detour] = maze.PATH
    assert kind.faults is not None
    found = kind.faults(base, answers)
    solved = maze.is_solution(base, answers)
    np.testing.assert_array_equal(~found.any(axis=1), solved)
    assert 0 < solved.sum() < 400
    assert np.flatnonzero(found[0]).tolist() == [0, 24], "no path leaves the ends"
    assert found[1, detour].any()


def test_a_longer_way_is_wrong_all_along():
    kind = kind_of("maze", 16, 6)
    (asked,) = kind.read("S  G\n    \n    \n    ")
    answer = asked.tokens.copy()
    way = [4, 5, 6, 7]
    answer[way] = maze.PATH
    assert kind.faults is not None
    wrong = kind.faults(asked.tokens[None], answer[None])[0]
    assert np.flatnonzero(wrong).tolist() == [0, 3, *way]


def test_a_maze_without_a_way():
    kind = kind_of("maze", 16, 6)
    shut, open_ = (kind.read(f"S #.\n  {sign}.\n  #.\n  #G")[0] for sign in "#.")
    assert kind.remark(shut.tokens) == "no answer is right: no way leads from S to G"
    assert kind.remark(open_.tokens) == ""


# -- text ------------------------------------------------------------------------------


def test_a_maze_is_drawn_and_read_again():
    kind, (question,) = kind_of("maze", 16, 6), tokens(QUESTION)
    lines = kind.render(question, np.zeros(16, bool))
    assert lines == ["S . . #", ". # . .", ". . . #", "# # G ."]
    text = "\n".join(QUESTION)
    cut = "\n".join(line.rstrip() for line in QUESTION)
    for written in (text, text + "\n", cut, "".join(QUESTION), text.replace(" ", ".")):
        (found,) = kind.read(written)
        np.testing.assert_array_equal(found.tokens, question)
        assert (found.name, kind.show(found.tokens)) == ("maze", "".join(QUESTION))
    prediction = tokens(OTHER)[0].astype(int)
    prediction[0] = 77
    drawn = kind.draw(question, prediction, tokens(ANSWER)[0])
    assert "?!o!o!#" in drawn
    assert "(7 wrong)" in drawn


def test_several_mazes_in_lines_and_in_blocks():
    line, block = "".join(QUESTION), "\n".join(QUESTION)
    for text in (f"{line}\n{line}\n", f"{block}\n\n\n{block.replace(' ', '.')}\n"):
        first, second = kind_of("maze", 16, 6).read(text, "file")
        assert (first.name, second.name) == ("file 1", "file 2")
        np.testing.assert_array_equal(first.tokens, second.tokens)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("S \n #", "`G`: got 0"),
        (" G\n #", "`S`: got 0"),
        ("SG\nG#", "`G`: got 2"),
        ("SG\nx#", "'x'"),
        ("SG\n   ", "2 lines"),
        ("S G", "1 lines"),
        ("\n".join(["S" * 65] * 65), "65 lines"),
        ("S..\n...\n..G", "got 9 cells"),
        ("SG\n..\n\nSG\nx.", "m 2.*'x'"),
    ],
)
def test_text_that_is_no_maze(text, value):
    with pytest.raises(UserError, match=value):
        kind_of("maze", 4, 6).read(text, "m")
