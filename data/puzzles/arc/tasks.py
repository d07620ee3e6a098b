"""Read ARC tasks: JSON files of challenges and of solutions, or one file for each task.

A task has training pairs of grids, input and output, and one or more test inputs.
"""

import gzip
import json
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from configs import ARC, UserError, require
from data.folder import visible
from data.puzzles.arc.grid import COLORS, SIDE
from data.puzzles.symmetry import SYMMETRIES, turn

UNKNOWN = [[0]]
"""Placeholder of a secret solution. Source: the official builder."""

WHERE = (
    "The repository SamsungSAILMontreal/TinyRecursiveModels has all of them in "
    "`kaggle/combined`"
)


class Pair(NamedTuple):
    """An input and its output."""

    input: UInt8[np.ndarray, "rows columns"]
    output: UInt8[np.ndarray, "rows columns"]


class Task(NamedTuple):
    """A task with its solutions."""

    name: str
    train: Sequence[Pair]
    test: Sequence[Pair]

    @property
    def side(self) -> int:
        """Rows or columns of the largest grid."""
        pairs = (*self.train, *self.test)
        return max(max(grid.shape) for pair in pairs for grid in pair)

    def to_json(self) -> dict[str, list[dict[str, list[list[int]]]]]:
        """Return the task in the form of the files, with solutions."""
        return {
            part: [{"input": a.tolist(), "output": b.tolist()} for a, b in pairs]
            for part, pairs in (("train", self.train), ("test", self.test))
        }


def read_subsets(config: ARC) -> dict[str, list[Task]]:
    """Return the tasks of each subset; a task in several subsets is kept once.

    It is kept in the test set if it is there, else in its first subset, with a warning:
    ARC-AGI-2 contains tasks of ARC-AGI-1. Neither is an augmentation of a test task
    trained on under another name, as `training/40853293`, which is
    `evaluation/070dd51e`. (The official builder compares names alone.) Tasks with a
    grid above `config.side` are left out.

    Raises:
        UserError: if a file is missing or has another form, or no test task is left.
    """
    source = Path(config.source)
    require(
        source.is_dir(),
        f"Folder of ARC files not found: {source}. {WHERE}.",
    )
    subsets: dict[str, list[Task]] = {}
    for name in dict.fromkeys(config.subsets):
        tasks = read_subset(source, name, secret=name in config.test)
        subsets[name] = [task for task in tasks if task.side <= config.side]
    require(
        any(subsets[name] for name in config.test),
        f"A test task must have no grid above `side`: got side={config.side}, and all "
        "have one. Use a larger one.",
    )
    known: set[str] = set()
    for name in sorted(subsets, key=lambda name: name not in config.test):
        new = [task for task in subsets[name] if task.name not in known]
        if repeated := len(subsets[name]) - len(new):
            warnings.warn(
                f"{repeated} tasks of {name} are also in another subset, and removed "
                "from this one.",
                stacklevel=4,
            )
        known |= {task.name for task in new}
        subsets[name] = new
    _remove_test_tasks(subsets, config.test)
    return subsets


def _remove_test_tasks(subsets: dict[str, list[Task]], test: Sequence[str]) -> None:
    """Remove the augmentations of test tasks from the other subsets, with a warning."""
    known = {
        _content(task, symmetry): f"{name}/{task.name}"
        for name in test
        for task in subsets[name]
        for symmetry in range(SYMMETRIES)
    }
    for name in (name for name in subsets if name not in test):
        tasks, subsets[name] = subsets[name], []
        for task in tasks:
            if (same := known.get(_content(task, 0))) is None:
                subsets[name].append(task)
                continue
            warnings.warn(
                f"{name}/{task.name} is the test task {same} under another name, and "
                "not trained on.",
                stacklevel=5,
            )


def _content(task: Task, symmetry: int) -> tuple[bytes, ...]:
    """Return the pairs under a symmetry, in an order that depends on them alone.

    The colors 1 to 9 of each pair are numbered in order of appearance.
    """
    pairs = []
    for pair in (*task.train, *task.test):
        grids = [turn(grid, symmetry) for grid in pair]
        cells = np.concatenate([[0], *map(np.ravel, grids)])  # 0 stays 0
        _, first, colors = np.unique(cells, return_index=True, return_inverse=True)
        shapes = repr([grid.shape for grid in grids]).encode()
        pairs.append(shapes + first.argsort().argsort()[colors].astype("u1").tobytes())
    return tuple(sorted(pairs))


def read_subset(source: Path, subset: str, *, secret: bool = False) -> list[Task]:
    """Return the tasks of a subset.

    Args:
        source: folder with `*_SUBSET_challenges.json` and `*_SUBSET_solutions.json`,
            also gzipped, or with a folder `SUBSET` of one JSON file for each task.
        subset: name of the subset.
        secret: allow a subset without solutions.

    Raises:
        UserError: if a file is missing or has another form.
    """
    challenges = _find(source, subset, "challenges")
    if challenges is None:
        return _read_folder(source, subset, secret)
    content = _expect(read_json(challenges), dict, challenges, "")
    solutions = _find(source, subset, "solutions")
    answers: dict[str, Any] = {}
    if solutions is not None:
        answers = _expect(read_json(solutions), dict, solutions, "")
    elif not secret:
        raise UserError(
            f"Tasks to train on must have solutions: *_{subset}_solutions.json not "
            f"found beside {challenges}. {WHERE}."
        )
    tasks = []
    for name, task in content.items():
        _expect(task, dict, challenges, f", {name},")
        if solutions is not None:
            _add_solutions(name, task, answers, challenges, solutions)
        tasks.append(_parse_task(name, task, challenges, secret and solutions is None))
    require(bool(tasks), f"A subset must have a task: {challenges} has none.")
    return tasks


def read_task(path: Path, *, secret: bool = False) -> Task:
    """Read the task of a JSON file; the file's name is the task's name.

    Args:
        path: the file.
        secret: allow missing test outputs.

    Raises:
        UserError: if the file has another form.
    """
    return _parse_task(_task_name(path), read_json(path), path, secret)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, plain or gzipped.

    Raises:
        UserError: if the file is not readable JSON.
    """
    try:
        data = path.read_bytes()
        return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (ValueError, RecursionError, EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"Could not read the JSON file {path} ({error}). Download it again."
        ) from None


def as_grid(
    grid: Any, where: str = "A grid", side: int = SIDE
) -> UInt8[np.ndarray, "rows columns"]:
    """Return a grid of JSON as an array.

    Args:
        grid: a list of rows of colors.
        where: name of the grid in an error message.
        side: most rows and columns.

    Raises:
        UserError: unless it has 1 to `side` rows and columns of colors 0 to 9.
    """
    wrong = ""
    if not isinstance(grid, list) or not all(isinstance(row, list) for row in grid):
        wrong = f"{grid!r:.40}, which is not a list of rows"
    elif not 1 <= len(grid) <= side:
        wrong = f"{len(grid)} rows"
    elif len(widths := {len(row) for row in grid}) > 1:
        wrong = f"rows of {min(widths)} and of {max(widths)} cells"
    elif not 1 <= len(grid[0]) <= side:
        wrong = f"{len(grid[0])} columns"
    elif bad := [c for row in grid for c in row if type(c) is not int]:
        wrong = f"a cell {bad[0]!r:.40}"
    elif bad := [c for row in grid for c in row if not 0 <= c < COLORS]:
        wrong = f"the color {bad[0]!r:.40}"
    require(
        not wrong,
        f"{where} must be 1 to {side} rows, of the same length from 1 to {side}, of "
        f"colors 0 to {COLORS - 1}: got {wrong}. Correct or download the file again.",
    )
    return np.array(grid, np.uint8)


def _find(source: Path, subset: str, what: str) -> Path | None:
    """Return the combined file of a subset, if there is one."""
    end = f"{subset}_{what}.json"
    files = [
        path
        for path in visible(source, "*")
        if f"_{path.name.removesuffix('.gz')}".endswith(f"_{end}") and path.is_file()
    ]
    require(
        len({path.name.removesuffix(".gz") for path in files}) <= 1,
        f"A subset must have one file of {what}: got "
        f"{', '.join(path.name for path in files)} in {source}. Keep only one there.",
    )
    return files[0] if files else None


def _read_folder(source: Path, subset: str, secret: bool) -> list[Task]:
    """Return the tasks of a folder and its subfolders, with a JSON file for each."""
    folder = source / subset
    files = sorted(
        [*visible(folder, "**/*.json"), *visible(folder, "**/*.json.gz")],
        key=_task_name,
    )
    require(
        bool(files),
        f"Neither a file *_{subset}_challenges.json nor a folder {subset} of JSON "
        f"files found in {source}. Check `--source` and `--subsets`. {WHERE}.",
    )
    names = [*map(_task_name, files)]
    repeated = [name for name in set(names) if names.count(name) > 1]
    require(
        not repeated,
        f"Each task must have a different file name: got several "
        f"{sorted(repeated)[:1]} in {folder}. Rename them.",
    )
    return [read_task(path, secret=secret) for path in files]


def _task_name(path: Path) -> str:
    """Return the name of the task in a file."""
    return path.name.removesuffix(".gz").removesuffix(".json")


def _add_solutions(
    name: str,
    task: dict[str, Any],
    answers: dict[str, Any],
    challenges: Path,
    solutions: Path,
) -> None:
    """Put the solutions of a task into its test pairs."""
    test = _expect(task.get("test", []), list, challenges, f", {name}, test,")
    outputs = answers.get(name, [])
    require(
        isinstance(outputs, list) and len(outputs) == len(test),
        f"Each test input must have a solution: {name} has {len(test)} in {challenges} "
        f"and {len(outputs) if isinstance(outputs, list) else 'no list'} in "
        f"{solutions}. Use both files of one release.",
    )
    for pair, output in zip(test, outputs, strict=True):
        _expect(pair, dict, challenges, f", {name}, test,")["output"] = output


def _parse_task(name: str, task: Any, path: Path, secret: bool) -> Task:
    """Check and return a task of JSON."""
    _expect(task, dict, path, f", {name},")
    parts = {}
    for part in ("train", "test"):
        pairs = _expect(task.get(part), list, path, f", {name}, {part},")
        require(
            bool(pairs), f"A task must have a {part} pair: {name} in {path} has none."
        )
        hidden = secret and part == "test"
        parts[part] = [
            _parse_pair(pair, f"{path}, {name}, {part}[{i}]", hidden)
            for i, pair in enumerate(pairs)
        ]
    return Task(name, parts["train"], parts["test"])


def _parse_pair(pair: Any, where: str, hidden: bool) -> Pair:
    """Check and return a pair of JSON; `hidden`: its output may be missing or null."""
    pair = pair if isinstance(pair, dict) else {}
    keys = {key for key, value in pair.items() if value is not None}
    missing = {"input", "output"} - keys - ({"output"} if hidden else set())
    require(
        not missing,
        f"{where}: a pair must have an input and an output: got {sorted(keys)}. "
        "Add the solutions, or name the subset in `--test`.",
    )
    output = as_grid(
        pair["output"] if "output" in keys else UNKNOWN, f"{where}, output: a grid"
    )
    return Pair(as_grid(pair["input"], f"{where}, input: a grid"), output)


def _expect(value: Any, kind: type, path: Path, what: str) -> Any:
    """Check that a value of JSON is a list or an object, and return it."""
    require(
        isinstance(value, kind),
        f"{path}{what} must be a {'list' if kind is list else 'JSON object'}: got "
        f"{value!r:.40}. Download it again.",
    )
    return value
