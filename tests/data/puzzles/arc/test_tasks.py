import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from configs import ARC, UserError
from data.puzzles.arc.tasks import (
    Pair,
    Task,
    as_grid,
    read_json,
    read_subset,
    read_subsets,
    read_task,
)
from data.puzzles.symmetry import turn
from tests.arc_golden import RAW

PAIR = {"input": [[1]], "output": [[2]]}


def content(subset: str, what: str):
    return read_json(RAW / f"mini_{subset}_{what}.json")


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of one task `a`, in the subset `mine`."""
    pair = {"input": [[1, 2]], "output": [[3]]}
    task = {"train": [pair], "test": [{"input": [[4]]}]}
    write(tmp_path / "arc_mine_challenges.json", {"a": task})
    write(tmp_path / "arc_mine_solutions.json", {"a": [[[5]]]})
    return tmp_path


def same(ours, theirs) -> bool:
    return [task.to_json() for task in ours] == [task.to_json() for task in theirs]


def test_plain_gzipped_and_single_files_hold_the_same_tasks(tmp_path: Path):
    plain = read_subset(RAW, "training")
    challenges, solutions = (
        content("training", what) for what in ("challenges", "solutions")
    )
    assert [task.name for task in plain] == list(challenges)
    for what, value in (("challenges", challenges), ("solutions", solutions)):
        path = tmp_path / f"arc-agi_training_{what}.json.gz"
        path.write_bytes(gzip.compress(json.dumps(value).encode()))
    assert same(read_subset(tmp_path, "training"), plain)
    for i, task in enumerate(plain):
        path = tmp_path / f"single/part{i % 2}/{task.name}.json"
        write(path, task.to_json())
        if i == 0:
            path.with_suffix(".json.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    for hidden in (
        ".ipynb_checkpoints/x-checkpoint.json",
        "._x.json",
        "part1/._y.json",
    ):
        write(tmp_path / "single" / hidden, {})
    write(tmp_path / "._arc-agi_training_challenges.json.gz", {})
    assert same(read_subset(tmp_path, "training"), plain)
    singles = read_subset(tmp_path, "single")
    assert same(singles, sorted(plain, key=lambda task: task.name))


def test_a_task_is_its_pairs(source: Path):
    (task,) = read_subset(source, "mine")
    assert task.name == "a"
    assert task.train[0].input.tolist() == [[1, 2]]
    assert task.test[0].output.tolist() == [[5]]
    assert task.test[0].output.dtype == np.uint8


def test_a_file_of_one_task_may_lack_the_answer(tmp_path: Path):
    asked = {"train": [PAIR], "test": [{"input": [[4, 4]]}]}
    write(tmp_path / "0a1b.json", asked)
    task = read_task(tmp_path / "0a1b.json", secret=True)
    assert task.name == "0a1b"
    assert task.test[0].input.tolist() == [[4, 4]]
    with pytest.raises(UserError, match=r"test\[0\].*got \['input'\]"):
        read_task(tmp_path / "0a1b.json")
    asked["test"][0]["output"] = None
    write(tmp_path / "null.json", asked)
    assert read_task(tmp_path / "null.json", secret=True).test[0].output.tolist() == [
        [0]
    ]


def test_solutions_may_be_secret_in_a_test_set_alone(source: Path):
    (source / "arc_mine_solutions.json").unlink()
    (task,) = read_subset(source, "mine", secret=True)
    assert task.test[0].output.tolist() == [[0]]
    with pytest.raises(UserError, match=r"\*_mine_solutions"):
        read_subset(source, "mine")


def test_a_task_of_the_test_set_is_not_trained_on_elsewhere(source: Path):
    for what in ("challenges", "solutions"):
        value = read_json(source / f"arc_mine_{what}.json")
        other = json.loads(json.dumps(value["a"]).replace("4", "6, 7"))
        write(source / f"arc_mine2_{what}.json", value | {"b": other})
    config = ARC(source=str(source), subsets=("mine2", "mine"), test=("mine",))
    with pytest.warns(UserWarning, match="1 tasks of mine2"):
        subsets = read_subsets(config)
    names = {key: [task.name for task in tasks] for key, tasks in subsets.items()}
    assert names == {"mine2": ["b"], "mine": ["a"]}


def test_an_augmented_test_task_is_not_trained_on_under_another_name(tmp_path: Path):
    tasks = {task.name: task for task in read_subset(RAW, "evaluation")}
    task = next(iter(tasks.values()))
    colors = np.array([0, 3, 1, 2, 9, 8, 7, 6, 5, 4], np.uint8)
    pairs = [Pair(*(colors[turn(grid, 3)] for grid in pair)) for pair in task.train]
    tests = [Pair(*(colors[turn(grid, 3)] for grid in pair)) for pair in task.test]
    same = Task("same", [*tests, *pairs[1:]], pairs[:1])
    near = Task("near", [*tests, *pairs[1:]], [Pair(pairs[0].input, pairs[0].input)])
    for other in (same, near):
        write(tmp_path / f"mine/{other.name}.json", other.to_json())
    for name, own in tasks.items():
        write(tmp_path / f"evaluation/{name}.json", own.to_json())
    config = ARC(source=str(tmp_path), subsets=("mine", "evaluation"))
    with pytest.warns(UserWarning, match=f"mine/same .* evaluation/{task.name}"):
        subsets = read_subsets(config)
    assert [own.name for own in subsets["mine"]] == ["near"]
    assert len(subsets["evaluation"]) == len(tasks)


@pytest.mark.parametrize(
    ("grid", "got"),
    [
        ([[1, 2], [3]], "rows of 1 and of 2 cells"),
        ([[1, 10]], "the color 10"),
        ([[-1]], "the color -1"),
        ([[0]] * 31, "31 rows"),
        ([[0] * 31], "31 columns"),
        ([], "0 rows"),
        ([[]], "0 columns"),
        ([[1.0]], r"a cell 1\.0"),
        ([[True]], "a cell True"),
        ([1, 2], "not a list of rows"),
        (None, "not a list of rows"),
    ],
)
def test_what_is_no_grid_is_told(grid, got):
    with pytest.raises(UserError, match=got):
        as_grid(grid)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "JSON object: got"),
        ({}, "mine"),
        ({"a": []}, ", a,.* JSON object: got"),
        ({"a": {"test": [PAIR]}}, ", a, train, must be a list: got None"),
        ({"a": {"train": [], "test": [PAIR]}}, "train pair: a "),
        ({"a": {"train": [PAIR], "test": []}}, "a has 0 .* and 1"),
        ({"a": {"train": [PAIR], "test": [3]}}, ", a,.* JSON object: got"),
        (
            {"a": {"train": [{"input": [[1]]}], "test": [PAIR]}},
            r"train\[0\].*got \['input'\]",
        ),
        (
            {"a": {"train": [{**PAIR, "input": [[1], [2, 3]]}], "test": [PAIR]}},
            r"a, train\[0\], input: .*rows of 1 and of 2 cells",
        ),
        ({"b": {"train": [PAIR], "test": [PAIR]}}, "b has 1 .* and 0 in"),
    ],
)
def test_malformed_tasks_are_told(source: Path, tasks, message):
    write(source / "arc_mine_challenges.json", tasks)
    with pytest.raises(UserError, match=f"(?i){message}"):
        read_subset(source, "mine")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_what_is_no_json_is_told(tmp_path: Path, content, end):
    path = tmp_path / f"a_mine_challenges.json{end}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="a_mine_challenges"):
        read_subset(tmp_path, "mine")


def test_where_the_files_must_be_is_told(source: Path, tmp_path: Path):
    with pytest.raises(UserError, match="none"):
        read_subsets(ARC(source=str(tmp_path / "none")))
    with pytest.raises(UserError, match="folder other"):
        read_subset(source, "other")
    write(source / "other_mine_challenges.json", {})
    with pytest.raises(UserError, match=r"got arc_mine_challenges.json, other_mine"):
        read_subset(source, "mine")
    for part in ("x", "y"):
        write(source / f"single/{part}/a.json", {})
    with pytest.raises(UserError, match=r"several \['a'\]"):
        read_subset(source, "single")


def test_the_test_set_must_be_a_subset():
    with pytest.raises(UserError, match="elsewhere"):
        ARC(test=("elsewhere",))
    with pytest.raises(UserError, match="got none"):
        ARC(test=())
