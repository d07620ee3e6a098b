"""ARC: from tasks to a dataset of their augmented images, written as it is made.

A group is a task, a puzzle an image of it, an example a pair of grids. Every image has
an identifier of its own, which its training and test examples share: all that tells the
model which task a test input belongs to. The test split has the test pairs of the test
tasks, the training split all other pairs.

The full ARC-AGI-1 set has 4.4 million examples, 8 GB. First it is settled which images
there are, then processes write their tokens, each to its place in the files.

Source: official `dataset/build_arc_dataset.py`. Unlike there, a training subset without
solutions is an error, and tasks of the test set are not trained on with their solutions
where they stand in another subset, too.
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from configs import ARC, LARGEST, require
from data.folder import check_vacant, new_folder, parallel_map
from data.puzzles.arc_grid import COLORS, SIDE, VOCAB, name_image
from data.puzzles.arc_images import Images, draw_images, image_tokens
from data.puzzles.arc_tasks import Pair, Task, read_subsets
from data.puzzles.metadata import Metadata

CELLS = SIDE * SIDE
FIELDS = ("inputs", "labels")

Item = TypeVar("Item")


class Group(NamedTuple):
    """A task, what is tested of it, and its images."""

    number: int
    """With the seed it decides the random numbers."""

    task: Task
    tested: bool
    """Whether its test pairs are test examples; else they are trained on."""

    images: Images
    """None yet where it is settled which there are."""

    first_id: int = 0
    """Identifier of the first image; the others follow."""

    def pairs(self, split: str) -> Sequence[Pair]:
        """The pairs whose images are examples of a split."""
        if split == "test":
            return self.task.test
        return [*self.task.train, *(() if self.tested else self.task.test)]


def build(config: ARC, out: Path) -> None:
    """Build the dataset in `out`.

    Raises:
        UserError: if `out` is not vacant, or the tasks or the space are unavailable.
    """
    check_vacant(out)
    groups = draw_groups(config)
    splits = {
        "train": groups,
        "test": [group for group in groups if group.tested],
    }
    _check_space(splits, out)
    names = ["<blank>", *image_names(groups)]
    with new_folder(out) as folder:
        for split, own in splits.items():
            _write_split(split, own, len(names), config, folder / split)
        _write_json(names, folder / "identifiers.json")
        tasks = {group.task.name: group.task.to_json() for group in splits["test"]}
        _write_json(tasks, folder / "test_puzzles.json")


def draw_groups(config: ARC) -> list[Group]:
    """The tasks of all subsets, each subset in random order, with their images."""
    order = np.random.default_rng((config.seed, 0))
    groups: list[Group] = []
    none = Images(np.empty(0, int), np.empty((0, COLORS), np.uint8))
    for subset, tasks in read_subsets(config).items():
        for i in order.permutation(len(tasks)).tolist():
            groups.append(Group(len(groups), tasks[i], subset in config.test, none))
    draw = partial(_draw_group, config)
    drawn = parallel_map(draw, groups, config.processes)
    groups = list(_bar(drawn, "images", len(groups)))
    counts = [group.images.size for group in groups]
    first_ids = itertools.accumulate(counts, initial=1)
    return [
        group._replace(first_id=first_id)
        for group, first_id in zip(groups, first_ids, strict=False)
    ]


def _draw_group(config: ARC, group: Group) -> Group:
    """The group with its images."""
    rng = np.random.default_rng((config.seed, 1, group.number))
    pairs = [*group.task.train, *group.task.test]
    return group._replace(images=draw_images(pairs, config.augmentations, rng))


def image_names(groups: Iterable[Group]) -> Iterable[str]:
    """The names of all images, in the order of their identifiers, which begin at 1."""
    for group in groups:
        name, (symmetries, colors) = group.task.name, group.images
        yield name
        for symmetry, own in zip(symmetries[1:].tolist(), colors[1:], strict=True):
            yield name_image(name, symmetry, own)


def _write_split(
    split: str, groups: Sequence[Group], names: int, config: ARC, folder: Path
) -> None:
    """Write the five arrays and `dataset.json` of one split.

    Args:
        split: `train` or `test`.
        groups: of the split.
        names: identifiers of the dataset.
        config: how the dataset is made.
        folder: to make and to write into.
    """
    folder.mkdir()
    images = np.array([group.images.size for group in groups])
    pairs = np.array([len(group.pairs(split)) for group in groups])
    puzzles, examples = int(images.sum()), int((images * pairs).sum())
    index = np.int32 if examples < LARGEST else np.int64
    ids = [np.arange(group.images.size) + group.first_id for group in groups]
    arrays = {
        "puzzle_identifiers": np.concatenate(ids).astype(np.int32),
        "puzzle_indices": _ends(np.repeat(pairs, images)).astype(index),
        "group_indices": _ends(images).astype(index),
    }
    digest = hashlib.sha256()
    for name, array in arrays.items():
        np.save(folder / f"all__{name}.npy", array)
        digest.update(array.tobytes())
    for field in FIELDS:
        path, shape = folder / f"all__{field}.npy", (examples, CELLS)
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    places = list(zip(groups, _ends(images * pairs).tolist(), strict=False))
    write = partial(_write_group, split, config.seed, folder, examples)
    written = parallel_map(write, places, config.processes)
    for part in _bar(written, split, len(places)):
        digest.update(part)
    Metadata(
        pad_id=0,
        ignore_label_id=0,
        blank_identifier_id=0,
        vocab_size=VOCAB,
        seq_len=CELLS,
        num_puzzle_identifiers=names,
        total_groups=len(groups),
        mean_puzzle_examples=examples / puzzles,
        total_puzzles=puzzles,
        sets=("all",),
        extra={
            "kind": "arc",
            "seed": config.seed,
            "source": ", ".join(config.subsets),
            "content_hash": digest.hexdigest(),
        },
    ).write(folder)


def _write_group(
    split: str, seed: int, folder: Path, examples: int, place: tuple[Group, int]
) -> bytes:
    """The SHA-256 of the tokens of a group, written to their place.

    Args:
        split: `train` or `test`.
        seed: of the dataset.
        folder: of the split, where the files have their full length.
        examples: of the split.
        place: the group, and the number of its first example.
    """
    group, first = place
    rng = None
    if split == "train":
        rng = np.random.default_rng((seed, 2, group.number))
    tokens = image_tokens(group.pairs(split), group.images, rng)
    for field, own in zip(FIELDS, tokens, strict=True):
        path = folder / f"all__{field}.npy"
        with path.open("r+b") as file:
            file.seek(path.stat().st_size - (examples - first) * CELLS)
            file.write(np.ascontiguousarray(own).data)
    return hashlib.sha256(np.ascontiguousarray(tokens).data).digest()


def _check_space(splits: dict[str, list[Group]], out: Path) -> None:
    """Raise `UserError` unless the examples fit onto the disk."""
    needed = (
        2
        * CELLS
        * sum(
            group.images.size * len(group.pairs(split))
            for split, groups in splits.items()
            for group in groups
        )
    )
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    have = shutil.disk_usage(parent).free
    require(
        needed < have,
        f"The dataset must fit onto the disk: it needs {needed:,} bytes, and {parent} "
        f"has {have:,}. Use fewer `--augmentations` or another `--out`.",
    )


def _ends(sizes: Int[np.ndarray, " ranges"]) -> Int[np.ndarray, " ends"]:
    """Where ranges of these sizes begin, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(sizes)])


def _bar(items: Iterable[Item], name: str, total: int) -> Iterable[Item]:
    """The items, with a progress bar."""
    from tqdm import tqdm

    return tqdm(items, desc=name, total=total, unit="task", disable=None)


def _write_json(value: object, path: Path) -> None:
    """Write a value as JSON."""
    path.write_text(json.dumps(value), encoding="utf-8")
