"""Build a dataset from ARC tasks.

A group is a task, a puzzle an augmentation of it, and an example a pair of grids. Every
augmentation has its own identifier, shared by its training and test examples: the model
identifies the task of a test input by it alone. The test split has the test pairs of
the test tasks, the training split all other pairs.

The full ARC-AGI-1 set has 4.0 million examples, 7 GB. The augmentations are drawn
first; then processes write their tokens, each at its offset in the files.

Source: official `dataset/build_arc_dataset.py`. Unlike there, a training subset without
solutions is an error, and no task of the test set is trained on with its solutions,
even if it is also in another subset, perhaps under another name or augmented.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from configs import ARC, LARGEST, require
from data.folder import check_vacant, new_folder, parallel_map
from data.puzzles.arc.augment import (
    Augmentations,
    augmented_tokens,
    colors_of_outputs,
    draw_augmentations,
)
from data.puzzles.arc.grid import VOCAB, augmented_name
from data.puzzles.arc.tasks import Pair, Task, read_subsets
from data.puzzles.metadata import Metadata

FIELDS = ("inputs", "labels")

Item = TypeVar("Item")


class Group(NamedTuple):
    """A task and its augmentations."""

    number: int
    """Number of the task, for its random numbers."""

    task: Task
    tested: bool
    """True if the test pairs are test examples; else they are trained on."""

    augmentations: Augmentations
    first_id: int
    """Identifier of the first augmentation; the identifiers of the others follow."""

    def pairs(self, split: str) -> Sequence[Pair]:
        """Return the pairs of a split."""
        if split == "test":
            return self.task.test
        return [*self.task.train, *(() if self.tested else self.task.test)]

    def examples(self, split: str) -> int:
        """Return the number of examples of a split."""
        return self.augmentations.size * len(self.pairs(split))


class Part(NamedTuple):
    """The rows of a group in the files of a split."""

    split: str
    group: Group
    rows: tuple[int, int]
    """First row of the group, and number of rows of the files."""


def build(config: ARC, out: Path) -> None:
    """Build the dataset in `out`.

    Raises:
        UserError: if `out` is not vacant, the tasks are unavailable or the disk is too
            small.
    """
    check_vacant(out)
    groups = draw_groups(config)
    tested = [group for group in groups if group.tested]
    splits = {"train": groups, "test": tested}
    _check_space(splits, config.side, out)
    names = ["<blank>", *puzzle_names(groups)]
    with new_folder(out) as folder:
        parts = [
            part
            for split, members in splits.items()
            for part in _make_files(split, members, config.side, folder / split)
        ]
        write = partial(_write_tokens, config, folder)
        written = _bar(
            parallel_map(write, parts, config.processes), "tokens", len(parts)
        )
        digests = {split: hashlib.sha256() for split in splits}
        for part, digest in zip(parts, written, strict=True):
            digests[part.split].update(digest)
        for split, members in splits.items():
            extra = {
                "kind": "arc",
                "seed": config.seed,
                "source": ", ".join(config.subsets),
                "content_hash": digests[split].hexdigest(),
            }
            metadata = _metadata(split, members, config.side, len(names), extra)
            metadata.write(folder / split)
        _write_json(names, folder / "identifiers.json")
        tasks = {group.task.name: group.task.to_json() for group in tested}
        _write_json(tasks, folder / "test_puzzles.json")


def draw_groups(config: ARC) -> list[Group]:
    """Draw the order of the tasks in each subset, and their augmentations."""
    order = np.random.default_rng((config.seed, 0))
    tasks = [
        (subset, tasks[i])
        for subset, tasks in read_subsets(config).items()
        for i in order.permutation(len(tasks)).tolist()
    ]
    groups: list[Group] = []
    first_id = 1
    for number, (subset, task) in enumerate(_bar(tasks, "augmentations", len(tasks))):
        rng = np.random.default_rng((config.seed, 1, number))
        tested = subset in config.test
        fixed = {0}
        if config.colors == "inputs":
            fixed = colors_of_outputs(task, tested=tested)
        augmentations = draw_augmentations(
            [*task.train, *task.test], config.augmentations, rng, fixed
        )
        groups.append(Group(number, task, tested, augmentations, first_id))
        first_id += augmentations.size
    return groups


def puzzle_names(groups: Iterable[Group]) -> Iterable[str]:
    """Yield the names of all augmentations in the order of their identifiers."""
    for group in groups:
        name, (symmetries, colors) = group.task.name, group.augmentations
        yield name
        for symmetry, new in zip(symmetries[1:].tolist(), colors[1:], strict=True):
            yield augmented_name(name, symmetry, new)


def _make_files(
    split: str, groups: Sequence[Group], side: int, folder: Path
) -> list[Part]:
    """Make the five files of a split, and return the rows of each group.

    The files of tokens have their length, but no content yet.
    """
    folder.mkdir()
    augmentations = np.array([group.augmentations.size for group in groups])
    pairs = np.array([len(group.pairs(split)) for group in groups])
    ends = _ends(augmentations * pairs)
    index = np.int32 if ends[-1] < LARGEST else np.int64
    ids = [np.arange(group.augmentations.size) + group.first_id for group in groups]
    arrays = {
        "puzzle_identifiers": np.concatenate(ids).astype(np.int32),
        "puzzle_indices": _ends(np.repeat(pairs, augmentations)).astype(index),
        "group_indices": _ends(augmentations).astype(index),
    }
    for name, array in arrays.items():
        np.save(folder / f"all__{name}.npy", array)
    *starts, total = ends.tolist()
    for field in FIELDS:
        path = folder / f"all__{field}.npy"
        np.lib.format.open_memmap(path, "w+", dtype=np.uint8, shape=(total, side**2))
    return [
        Part(split, group, (start, total))
        for group, start in zip(groups, starts, strict=True)
    ]


def _write_tokens(config: ARC, folder: Path, part: Part) -> bytes:
    """Write the tokens of a group, and return their SHA-256.

    Without a mapped file: its written pages count as memory of the process.
    """
    split, group, (first, total) = part
    rng = np.random.default_rng((config.seed, 2, group.number))
    tokens = augmented_tokens(
        group.pairs(split),
        group.augmentations,
        rng if split == "train" else None,
        config.side,
    )
    digest = hashlib.sha256(f"{group.first_id} {tokens.shape}".encode())
    for field, values in zip(FIELDS, tokens, strict=True):
        path = folder / split / f"all__{field}.npy"
        with path.open("r+b") as file:
            file.seek(path.stat().st_size - (total - first) * config.side**2)
            file.write(values.data)
        digest.update(values.data)
    return digest.digest()


def _metadata(
    split: str,
    groups: Sequence[Group],
    side: int,
    names: int,
    extra: Mapping[str, object],
) -> Metadata:
    """Return the metadata of a split of a dataset with `names` identifiers."""
    puzzles = sum(group.augmentations.size for group in groups)
    return Metadata(
        pad_id=0,
        ignore_label_id=0,
        blank_identifier_id=0,
        vocab_size=VOCAB,
        seq_len=side**2,
        num_puzzle_identifiers=names,
        total_groups=len(groups),
        mean_puzzle_examples=sum(group.examples(split) for group in groups) / puzzles,
        total_puzzles=puzzles,
        sets=("all",),
        extra=extra,
    )


def _check_space(splits: Mapping[str, Sequence[Group]], side: int, out: Path) -> None:
    """Raise `UserError` unless the examples fit on the disk."""
    examples = sum(
        group.examples(split) for split, groups in splits.items() for group in groups
    )
    needed = 2 * side**2 * examples
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    have = shutil.disk_usage(parent).free
    require(
        needed < have,
        f"The dataset must fit on the disk: it needs {needed:,} bytes, and {parent} "
        f"has {have:,}. Use fewer `--augmentations` or another `--out`.",
    )


def _ends(sizes: Int[np.ndarray, " ranges"]) -> Int[np.ndarray, " ends"]:
    """Return the first elements of ranges of these sizes, and the end of the last."""
    return np.concatenate([[0], np.cumsum(sizes)])


def _bar(items: Iterable[Item], name: str, total: int) -> Iterable[Item]:
    """Return the items with a progress bar."""
    from tqdm import tqdm

    return tqdm(items, desc=name, total=total, unit="task", disable=None)


def _write_json(value: object, path: Path) -> None:
    """Write a value as JSON."""
    path.write_text(json.dumps(value), encoding="utf-8")
