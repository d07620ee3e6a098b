import json
from pathlib import Path

import pytest

from benchmarks.time_to_accuracy import draw, follow
from configs import UserError


def test_evaluations_are_noted_once_and_in_whole_lines(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    line = lambda step, split, value: json.dumps(
        {"step": step, "split": split, "exact_accuracy": value}
    )
    half = line(6, "eval", 0.75)
    writes = iter(["", line(2, "train", None) + "\n", line(3, "eval", 0.5) + "\n"])
    writes = iter([*writes, half[:9], half[9:] + "\n", line(9, "eval", 1.0) + "\n"])

    def running() -> bool:
        text = next(writes)
        with metrics.open("a") as file:
            file.write(text)
        return "9" not in text

    found = follow(metrics, "exact_accuracy", running)
    assert [row[1:] for row in found] == [(3, 0.5), (6, 0.75), (9, 1.0)]
    times = [row[0] for row in found]
    assert times == sorted(times)
    assert times[1] > times[0]


def test_a_panel_a_task_and_a_line_a_run() -> None:
    run = lambda task, recipe, value: {
        "task": task,
        "recipe": recipe,
        "metric": "loss",
        "curve": [[1.0, 10, 2.0], [2.0, 20, value]],
    }
    runs = [run("a", "ours", 1.0), run("a", "ours", 0.5), run("a", "theirs", 1.5)]
    figure = draw([*runs, run("b", "ours", 0.7)])
    first, second = figure.axes
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["a", "b"]
    assert [list(line.get_ydata()) for line in first.lines] == [
        [2.0, 1.0],
        [2.0, 0.5],
        [2.0, 1.5],
    ]
    colours = [line.get_color() for line in first.lines]
    assert colours[0] == colours[1] != colours[2]
    labels = [text.get_text() for text in first.get_legend().get_texts()]
    assert labels == ["ours", "theirs"]
    with pytest.raises(UserError, match="got none"):
        draw([])
