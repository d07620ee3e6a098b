import json
from pathlib import Path

import pytest

from configs import RunError
from data.storage import AnyPath, open_path, read_text
from train.runs.metrics_file import MetricsFile, scores


def steps(path: AnyPath) -> list[int]:
    return [json.loads(line)["step"] for line in read_text(path).splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.mark.parametrize("end", ['{"ste', "7", '{"split": "eval"}', "\0\0\0", "\n"])
def test_an_incomplete_last_line_is_dropped(path: Path, end: str) -> None:
    path.write_text('{"step": 1}\n{"step": 2}\n' + end)
    MetricsFile(path, 5)
    assert steps(path) == [1, 2]


def test_unreadable_lines_are_moved(path: Path) -> None:
    rows = [f'{{"step": {step}}}\n' for step in range(1, 6)]
    deep = "[" * 100_000
    bad = [
        "gar{bled",
        deep,
        '{"step": 2, "loss": "1.5"}',
        '{"step": true}',
        '{"step": 1, "split": []}',
    ]
    path.write_text("".join([*rows[:2], *(f"{line}\n\n" for line in bad), *rows[2:]]))
    with pytest.warns(UserWarning, match="5 lines"):
        MetricsFile(path, 4)
    assert steps(path) == [1, 2, 3, 4]
    moved = path.with_name("metrics.unreadable").read_text()
    assert moved.splitlines() == bad


def test_a_file_that_is_removed_is_written_again(path: Path) -> None:
    file = MetricsFile(path, 0)
    file.append({"step": 1})
    path.unlink()
    with pytest.warns(UserWarning, match="removed"):
        file.append({"step": 2})
    file.append({"step": 3})
    assert steps(path) == [1, 2, 3]


def test_a_new_file_is_made_by_the_first_row(path: Path) -> None:
    file = MetricsFile(path, 3)
    assert not path.exists()
    file.append({"step": 1})
    assert steps(path) == [1]


def test_a_store_has_every_row_after_a_flush(bucket: str) -> None:
    """Rows of later steps are dropped, as on a disk."""
    path = open_path(f"{bucket}/metrics/flushed.jsonl")
    for first in (1, 3):
        file = MetricsFile(path, first - 1)
        for step in range(first, first + 3):
            file.append({"step": step})
        file.flush()
        assert steps(path) == list(range(1, first + 3))
        file.append({"step": 99})
        file.close()
        assert steps(path)[-1] == 99


@pytest.mark.usefixtures("bucket")
def test_a_store_that_cannot_be_written() -> None:
    file = MetricsFile(open_path("gs://no-such-bucket/metrics.jsonl"), 0)
    file.append({"step": 1})
    with pytest.raises(RunError, match="gs://no-such-bucket/metrics"):
        file.flush()


def test_a_full_device(path: Path) -> None:
    """`/dev/full` refuses every byte."""
    file = MetricsFile(path, 0)
    path.symlink_to("/dev/full")
    with pytest.raises(RunError, match=str(path)):
        file.append({"step": 1})


def test_scores_of_evaluations(tmp_path: Path, path: Path) -> None:
    assert scores(tmp_path) == {}
    file = MetricsFile(path, 0)
    file.append({"step": 2, "split": "eval", "loss": 1.0, "score": -1.0})
    file.append({"step": 4, "split": "train", "loss": 2.0})
    file.append({"step": 6, "split": "eval", "score": "1.0"})
    file.append({"step": 8, "split": "eval", "score": None})
    assert scores(tmp_path) == {2: -1.0}
