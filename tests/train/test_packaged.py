"""The models that come with this project."""

import pytest

from gpt import sample
from train.runs.loading import load_run
from train.runs.published import PACKAGED, packaged
from train.runs.record import recorded_run
from trm.solve import solve

PUZZLES = {
    "sudoku-6x6": ".25.4.4...52.6.5.....2.1..1...243...",
    "sudoku-9x9": "3..2...7..61..8.2...84........7..35..3..1.29.9.2.36.....3....."
    "85.7..961.1.....9..",
    "maze-8x8": "#..S.......#.##..#....#..###.##....#.....#.##.#..#....#G...##...",
}


def test_they_are_small_and_described() -> None:
    """Without a path of the machine that trained them."""
    files = [path for path in PACKAGED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    for name in packaged():
        assert recorded_run(name)[0].run_dir == ""
        assert "/tmp" not in (PACKAGED / name / "config.json").read_text()
        card = (PACKAGED / name / "README.md").read_text()
        for word in ("license", "made by", "commit", "hash of the data", "Scores"):
            assert word in card


@pytest.mark.parametrize("name", PUZZLES)
def test_a_puzzle_is_solved(name: str) -> None:
    (solution,) = solve(load_run(name), PUZZLES[name])
    assert solution.solved


def test_a_text_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--num-samples", "1", "--max-new-tokens", "20", "--prompt", "ROMEO:"]
    sample.main(words)
    assert capsys.readouterr().out.startswith("ROMEO:\n")
