"""Reading ARC tasks: combined JSON of challenges and solutions, or a file a task.

A task shows what to do in some pairs of grids, input and output, and asks for the
output of one or more test inputs.
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
from data.puzzles.arc.grid import COLORS, SIDE

UNKNOWN = [[0]]
"""What stands for a solution that is kept secret. Source: the official builder."""

WHERE = (
    "The repository SamsungSAILMontreal/TinyRecursiveModels holds all of them in "
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

    def to_json(self) -> dict[str, list[dict[str, list[list[int]]]]]:
        """The task as the files have it, with solutions."""
        return {
            part: [{"input": a.tolist(), "output": b.tolist()} for a, b in pairs]
            for part, pairs in (("train", self.train), ("test", self.test))
        }


def read_subsets(config: ARC) -> dict[str, list[Task]]:
    """The tasks of each subset; one that stands in two is kept once.

    It stays in the test set if it is in one, else where it comes first, and a warning
    says how many there were: ARC-AGI-2 took over tasks of ARC-AGI-1.

    Raises:
        UserError: if a file is missing, or is not as ARC's are.
    """
    source = Path(config.source)
    require(
        source.is_dir(),
        f"`--source` must be the folder of the ARC files: there is no {source}. "
        f"{WHERE}.",
    )
    subsets = {
        name: read_subset(source, name, secret=name in config.test)
        for name in dict.fromkeys(config.subsets)
    }
    known: set[str] = set()
    for name in sorted(subsets, key=lambda name: name not in config.test):
        kept = [task for task in subsets[name] if task.name not in known]
        if repeated := len(subsets[name]) - len(kept):
            warnings.warn(
                f"{repeated} tasks of {name} stand in another subset as well and are "
                "left out of this one.",
                stacklevel=4,
            )
        known |= {task.name for task in kept}
        subsets[name] = kept
    return subsets


def read_subset(source: Path, subset: str, *, secret: bool = False) -> list[Task]:
    """The tasks of a subset: of two combined files, or of a folder of files.

    Args:
        source: folder with `*_SUBSET_challenges.json` and `*_SUBSET_solutions.json`,
            also gzipped, or with a folder `SUBSET` of one JSON file a task.
        subset: its name.
        secret: whether solutions may be missing altogether.

    Raises:
        UserError: if a file is missing, or is not as ARC's are.
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
            f"Tasks to train on must have solutions: there is no *_{subset}_solutions."
            f"json beside {challenges}. {WHERE}."
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
    """The task of a JSON file of its own, named as the file is.

    Args:
        path: the file.
        secret: whether the test outputs may be missing.

    Raises:
        UserError: if the file is not as ARC's are.
    """
    return _parse_task(_task_name(path), read_json(path), path, secret)


def read_json(path: Path) -> Any:
    """What a JSON file, plain or gzipped, holds.

    Raises:
        UserError: if it holds no JSON.
    """
    try:
        data = path.read_bytes()
        return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (ValueError, RecursionError, EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"An ARC file must be readable JSON: {path} is not ({error}). Download it "
            "again."
        ) from None


def as_grid(grid: Any, where: str = "A grid") -> UInt8[np.ndarray, "rows columns"]:
    """A grid of JSON as an array.

    Args:
        grid: a list of rows of colours.
        where: what to call it in an error.

    Raises:
        UserError: if it is no grid of 1 to 30 rows and columns of colours 0 to 9.
    """
    wrong = ""
    if not isinstance(grid, list) or not all(isinstance(row, list) for row in grid):
        wrong = f"{grid!r:.40}, which is no list of rows"
    elif not 1 <= len(grid) <= SIDE:
        wrong = f"{len(grid)} rows"
    elif len(widths := {len(row) for row in grid}) > 1:
        wrong = f"rows of {min(widths)} and of {max(widths)} cells"
    elif not 1 <= len(grid[0]) <= SIDE:
        wrong = f"{len(grid[0])} columns"
    elif bad := [c for row in grid for c in row if type(c) is not int]:
        wrong = f"a cell {bad[0]!r:.40}"
    elif bad := [c for row in grid for c in row if not 0 <= c < COLORS]:
        wrong = f"the colour {bad[0]}"
    require(
        not wrong,
        f"{where} must be 1 to {SIDE} rows of equally many, 1 to {SIDE}, colours 0 to "
        f"{COLORS - 1}: got {wrong}. Correct the file or download it again.",
    )
    return np.array(grid, np.uint8)


def _find(source: Path, subset: str, what: str) -> Path | None:
    """The combined file of a subset, if there is one."""
    end = f"{subset}_{what}.json"
    found = sorted(
        path
        for path in source.iterdir()
        if f"_{path.name.removesuffix('.gz')}".endswith(f"_{end}") and path.is_file()
    )
    require(
        len({path.name.removesuffix(".gz") for path in found}) <= 1,
        f"A subset must be one file of {what}: {source} has "
        f"{', '.join(path.name for path in found)}. Move all but one elsewhere.",
    )
    return found[0] if found else None


def _read_folder(source: Path, subset: str, secret: bool) -> list[Task]:
    """The tasks of a folder, and of those in it, of one JSON file each."""
    folder = source / subset
    files = sorted(
        [*folder.rglob("*.json"), *folder.rglob("*.json.gz")], key=_task_name
    )
    require(
        bool(files),
        f"A subset must be a file *_{subset}_challenges.json or a folder {subset} of "
        f"one JSON file a task: {source} has neither. Check `--source` and "
        f"`--subsets`; {WHERE[0].lower()}{WHERE[1:]}.",
    )
    names = [*map(_task_name, files)]
    repeated = [name for name in set(names) if names.count(name) > 1]
    require(
        not repeated,
        f"Each task must have a file name of its own: {folder} has several "
        f"{sorted(repeated)[:1]}. Rename them.",
    )
    return [read_task(path, secret=secret) for path in files]


def _task_name(path: Path) -> str:
    """The name of the task in a file of its own."""
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
    asked, own = len(test), answers.get(name, [])
    require(
        isinstance(own, list) and len(own) == asked,
        f"Each test input must have a solution: {name} has {asked} in {challenges} and "
        f"{len(own) if isinstance(own, list) else 'no list'} in {solutions}. Take both "
        "files from one release.",
    )
    for pair, output in zip(test, own, strict=True):
        _expect(pair, dict, challenges, f", {name}, test,")["output"] = output


def _parse_task(name: str, task: Any, path: Path, secret: bool) -> Task:
    """A task of JSON, checked."""
    _expect(task, dict, path, f", {name},")
    parts = {}
    for part in ("train", "test"):
        pairs = _expect(task.get(part), list, path, f", {name}, {part},")
        require(bool(pairs), f"A task must have a {part} pair: {name} in {path} lacks.")
        hidden = secret and part == "test"
        parts[part] = [
            _parse_pair(pair, f"{path}, {name}, {part}[{i}]", hidden)
            for i, pair in enumerate(pairs)
        ]
    return Task(name, parts["train"], parts["test"])


def _parse_pair(pair: Any, where: str, hidden: bool) -> Pair:
    """A pair of JSON, checked; its output may be hidden."""
    keys = set(pair) if isinstance(pair, dict) else set()
    missing = {"input", "output"} - keys - ({"output"} if hidden else set())
    require(
        not missing,
        f"{where}: a pair must have an input and an output: got {sorted(keys)}. "
        "Add the solutions, or name the subset in `--test`.",
    )
    output = as_grid(pair.get("output", UNKNOWN), f"{where}, output: a grid")
    return Pair(as_grid(pair["input"], f"{where}, input: a grid"), output)


def _expect(value: Any, kind: type, path: Path, what: str) -> Any:
    """A value of JSON, which must be a list or an object."""
    require(
        isinstance(value, kind),
        f"ARC files must be as the competition's: {path}{what} must be a "
        f"{'list' if kind is list else 'JSON object'}, and is {value!r:.40}. "
        "Download it again.",
    )
    return value
