import json
import time
from pathlib import Path

import pytest

from configs import RunError
from data.storage import open_path, read_text
from train.runs import metrics_file
from train.runs.metrics_file import MetricsFile, MetricsObject, open_metrics, truncate


def lines(folder: Path) -> list[dict]:
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("end", ['{"ste', "7", '{"split": "eval"}', "\0\0\0", "\n"])
def test_whatever_the_last_line_is(tmp_path: Path, end: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n' + end)
    truncate(path, 5)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_lines_that_cannot_be_read_cost_no_others(tmp_path: Path) -> None:
    """Wherever they stand; they are kept aside, and said."""
    path = tmp_path / "metrics.jsonl"
    rows = [f'{{"step": {step}}}\n' for step in range(1, 6)]
    deep = "[" * 100_000
    path.write_text("".join([*rows[:2], "gar{bled\n", "\n", f"{deep}\n", *rows[2:]]))
    with pytest.warns(UserWarning, match="2 are not, and were moved"):
        truncate(path, 4)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    aside = (tmp_path / "metrics.unreadable").read_text()
    assert aside == f"gar{{bled\n{deep}\n"


def test_a_file_that_is_removed_is_written_again(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"step": 1})
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.warns(UserWarning, match="was removed"):
        file.append({"step": 2})
    file.append({"step": 3})
    file.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_nothing_to_truncate(tmp_path: Path) -> None:
    truncate(tmp_path / "metrics.jsonl", 3)
    assert list(tmp_path.iterdir()) == []


# -- in an object store ----------------------------------------------------------------


def test_every_line_is_there_after_a_flush(bucket: str) -> None:
    """And what was there before; lines of later steps are dropped as on a disk."""
    path = open_path(f"{bucket}/metrics/flushed.jsonl")
    for first in (1, 3):
        truncate(path, first - 1)
        file = open_metrics(path)
        assert isinstance(file, MetricsObject)
        for step in range(first, first + 3):
            file.append({"step": step})
        before = read_text(path) if path.exists() else ""
        assert '"step": 3' not in before, "it is written with others"
        file.flush()
        steps = [json.loads(line)["step"] for line in read_text(path).splitlines()]
        assert steps == list(range(1, first + 3))
        file.append({"step": 99})
        file.close()
        assert '"step": 99' in read_text(path)


def test_a_line_is_written_soon(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_file, "WAIT", 0.05)
    path = open_path(f"{bucket}/metrics/soon.jsonl")
    file = open_metrics(path)
    file.append({"step": 1})
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    file.close()


def test_a_store_that_takes_no_more(bucket: str) -> None:
    """The run ends before a checkpoint whose metrics would be lost."""
    file = open_metrics(open_path("gs://no-such-bucket/metrics.jsonl"))
    file.append({"step": 1})
    with pytest.raises(RunError, match="must be writable"):
        file.flush()
    with pytest.raises(RunError):
        file.close()


def test_a_full_device(tmp_path: Path) -> None:
    """`/dev/full` refuses every byte."""
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    metrics = open_metrics(path)
    with pytest.raises(RunError, match="must be writable: it is not any more"):
        metrics.append({"step": 1})
    metrics.close()
