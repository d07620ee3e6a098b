"""Pictures and a page of the attempts at ARC tasks."""

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from configs import UserError
from data.puzzles.arc.grid import FIRST
from data.puzzles.arc.kind import COLORS
from data.puzzles.arc.tasks import UNKNOWN
from data.puzzles.arc.voting import Ballot, Votes
from tests.arc_golden import predictions, write_official
from trm.show import pictures
from trm.show.attempts import draw_task, write_attempts

DEMONSTRATION = {"input": [[0, 1, 2], [3, 4, 5]], "output": [[6, 7], [8, 9]]}


def color(number: int) -> tuple[int, ...]:
    return tuple(bytes.fromhex(COLORS[FIRST + number][1:]))


@pytest.fixture(scope="module")
def votes(tmp_path_factory: pytest.TempPathFactory) -> Votes:
    data = write_official(tmp_path_factory.mktemp("attempts") / "data")
    votes = Votes.of_datasets([data])
    for batch in predictions():
        votes.add(*batch)
    return votes


def test_a_page_has_the_pictures_of_all_tasks(votes: Votes, tmp_path: Path):
    page = write_attempts(votes, tmp_path / "pictures")
    text = page.read_text()
    shown = dict(re.findall(r'<section id="(\w+)">.*?base64,([^"]*)"', text, re.DOTALL))
    assert list(shown) == list(votes.tasks)
    for name, data in shown.items():
        png = (tmp_path / "pictures" / f"{name}.png").read_bytes()
        assert base64.b64decode(data) == png
        Image.open(io.BytesIO(png)).verify()
    ballots = [ballot for name in votes.tasks for ballot in votes.ballots(name)]
    solved = sum(ballot.solved is True for ballot in ballots)
    assert 0 < solved < len(ballots)
    assert f"{solved} of {len(ballots)} solved by one" in text
    assert "<script" not in text


def test_ballots_are_the_submission_with_its_votes(votes: Votes):
    submission = votes.submission()
    for name, task in votes.tasks.items():
        whole = votes.ballots(name, 10**6)
        some = zip(votes.ballots(name), task["test"], submission[name], strict=True)
        for everything, (ballot, pair, attempts) in zip(whole, some, strict=True):
            assert (ballot.input, ballot.solution) == (pair["input"], pair["output"])
            best = [grid for grid, _ in ballot.answers]
            assert best == list(attempts.values())[: len(best)]
            assert everything.answers[: len(best)] == ballot.answers
            counts = [count for _, count in everything.answers]
            assert counts == sorted(counts, reverse=True)
            assert sum(counts) == ballot.votes


def colors_of(picture: Image.Image) -> set[tuple[int, ...]]:
    counts = picture.getcolors(picture.width * picture.height)
    assert counts is not None
    return {value for _, value in counts if isinstance(value, tuple)}


def test_cells_have_their_colors_and_wrong_ones_a_frame():
    grid = [[0, 1], [2, 3]]
    wrong = tuple(bytes.fromhex(pictures.WRONG[1:]))
    right = Ballot([[4]], grid, [(grid, 3)], 3)
    found = colors_of(draw_task([DEMONSTRATION], [right]))
    assert {color(number) for number in range(10)} <= found
    assert wrong not in found
    other = Ballot([[4]], grid, [(grid, 2), ([[0, 1], [2, 9]], 1)], 3)
    assert wrong in colors_of(draw_task([DEMONSTRATION], [other]))


def test_letters_can_be_read_on_any_color():
    assert [pictures.ink_on(fill) for fill in COLORS[FIRST : FIRST + 5]] == [
        *("#ffffff", "#ffffff", "#000000", "#000000", "#000000")
    ]
    assert (pictures.ink_on("navy"), pictures.ink_on("#fff")) == ("#ffffff", "#000000")


def test_what_is_not_there_is_not_drawn():
    """No solution, an answer without a grid, and an input without an answer."""
    answered = Ballot([[4]], [[5]], [([[5]], 2), ([], 1)], 3)
    secret = answered._replace(solution=None)
    unanswered = secret._replace(answers=[], votes=0)
    sizes = [
        draw_task([DEMONSTRATION] * 9, [ballot]).size
        for ballot in (answered, secret, unanswered)
    ]
    assert len({height for _, height in sizes}) == 1
    assert (answered.solved, secret.solved, unanswered.solved) == (True, None, None)
    assert answered._replace(answers=[]).solved is False


def test_a_secret_solution_and_a_name_with_a_slash(tmp_path: Path):
    pair = {"input": [[1]], "output": UNKNOWN}
    task = {"train": [DEMONSTRATION], "test": [pair]}
    votes = Votes(["<blank>"], {"../<a>": task})
    text = write_attempts(votes, tmp_path / "pictures").read_text()
    assert "solution not known" in text
    assert "../&lt;a&gt;: solution not known" in text
    names = sorted(path.name for path in tmp_path.rglob("*.png"))
    assert names == ["..%2F%3Ca%3E.png"]
    assert (tmp_path / "pictures" / names[0]).exists()


def test_pictures_need_pillow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="Pillow"):
        write_attempts(Votes(["<blank>"], {}), tmp_path)
