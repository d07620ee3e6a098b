import json
from pathlib import Path

import pytest

from train.metrics_file import MetricsFile, truncate


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
