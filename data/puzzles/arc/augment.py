"""Augmented ARC tasks: draw them, and make their tokens.

An augmentation applies one symmetry to all grids of a task, permutes the colors 1 to 9,
and moves each pair of grids over the canvas. Repeated augmentations are dropped.

Source: official `dataset/build_arc_dataset.py`; the distribution is the same, the
random numbers are not.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8, UInt64

from data.puzzles.arc.grid import COLORS, FIRST, SIDE, VOCAB, draw
from data.puzzles.arc.tasks import Pair, Task
from data.puzzles.symmetry import SYMMETRIES, turn

TRIES = 5
"""Augmentations drawn for each one wanted, at most."""


class Augmentations(NamedTuple):
    """The augmentations of a task; the first is the task itself."""

    symmetries: Int[np.ndarray, " augmentations"]
    colors: UInt8[np.ndarray, "augmentations 10"]
    """New color of each color."""

    @property
    def size(self) -> int:
        """Return the number of augmentations."""
        return len(self.symmetries)

    def take(self, chosen: Int[np.ndarray, " chosen"]) -> "Augmentations":
        """Return the chosen augmentations."""
        return Augmentations(self.symmetries[chosen], self.colors[chosen])


def draw_augmentations(
    pairs: Sequence[Pair],
    augmentations: int,
    rng: np.random.Generator,
    fixed: Collection[int] = (0,),
) -> Augmentations:
    """Return the task and at most `augmentations` different augmentations of it.

    Args:
        pairs: all pairs of the task, including test pairs.
        augmentations: wanted number; fewer if `TRIES` draws for each are not enough.
        rng: random numbers.
        fixed: colors that are not permuted.
    """
    count = 1 + TRIES * augmentations
    symmetries = rng.integers(SYMMETRIES, size=count)
    symmetries[0] = 0
    colors = np.tile(np.arange(COLORS, dtype=np.uint8), (count, 1))
    moved = [color for color in range(COLORS) if color not in fixed]
    colors[1:, moved] = rng.permuted(colors[1:, moved], axis=1)
    return distinct(pairs, Augmentations(symmetries, colors), 1 + augmentations)


def colors_of_outputs(task: Task, *, tested: bool) -> set[int]:
    """Return black, and the colors that only outputs of a task have.

    Test outputs do not count if the task is `tested`: they are secret.

    Source: mvakde/mdlARC at 8afc20d, `src/common.py`, `extract_task_input_colors`.
    """
    seen = [*task.train, *(() if tested else task.test)]
    outputs = {color for pair in seen for color in np.unique(pair.output).tolist()}
    everything = [*task.train, *task.test]
    inputs = {color for pair in everything for color in np.unique(pair.input).tolist()}
    return {0, *(outputs - inputs)}


def distinct(
    pairs: Sequence[Pair], augmentations: Augmentations, most: int
) -> Augmentations:
    """Return the first `most` different augmentations.

    Augmentations are equal if they have the same pairs in any order. They are compared
    by 64-bit hashes of the positions of each color, so that no augmentation is made
    here; a false match has a probability of about 2**-60.
    """
    rng = np.random.default_rng(0)
    weights = rng.integers(2**64, size=(2, SIDE, SIDE), dtype=np.uint64)
    value = rng.integers(2**64, size=COLORS, dtype=np.uint64)
    sums = np.zeros((SYMMETRIES, len(pairs), COLORS), np.uint64)
    for at, pair in np.ndenumerate(_turned(pairs)):
        for grid, weight in zip(pair, weights, strict=True):
            weight = weight[: grid.shape[0], : grid.shape[1]]
            np.add.at(sums[at], grid, weight)
    hashes = np.einsum(
        "ic,ipc->ip", value[augmentations.colors], sums[augmentations.symmetries]
    )
    _, first = np.unique(_mix(hashes).sum(axis=1), return_index=True)
    return augmentations.take(np.sort(first)[:most])


def _turned(pairs: Sequence[Pair]) -> np.ndarray:
    """Return every pair under every symmetry, as objects: [symmetries, pairs]."""
    turned = np.empty((SYMMETRIES, len(pairs)), object)
    for at in np.ndindex(turned.shape):
        turned[at] = Pair(*(turn(grid, at[0]) for grid in pairs[at[1]]))
    return turned


def _mix(hashes: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """Mix hashes so that sums of them identify sets (the finalizer of splitmix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def augmented_tokens(
    pairs: Sequence[Pair],
    augmentations: Augmentations,
    rng: np.random.Generator | None,
    side: int = SIDE,
) -> UInt8[np.ndarray, "2 augmentations pairs cells"]:
    """Return the tokens of inputs and outputs of `pairs` in every augmentation.

    Args:
        pairs: pairs of the task.
        augmentations: augmentations of the task.
        rng: random numbers for moving pairs to anywhere on the canvas, input and output
            together. One random pair of each augmentation stays. None: all pairs do.
        side: rows and columns of the canvas; no grid is larger.
    """
    canvases = np.zeros((2, SYMMETRIES, len(pairs), 2 * side + 1, 2 * side + 1), "u1")
    room = np.empty((SYMMETRIES, len(pairs), 2), int)
    for at, pair in np.ndenumerate(_turned(pairs)):
        for canvas, grid in zip(canvases[:, *at], pair, strict=True):
            draw(canvas[side:, side:], grid)
        room[at] = side - np.max([grid.shape for grid in pair], axis=0)
    shift = np.zeros((augmentations.size, len(pairs), 2), int)
    if rng is not None:
        shift = rng.integers(room[augmentations.symmetries] + 1)
        unmoved = rng.integers(len(pairs), size=augmentations.size)
        shift[np.arange(augmentations.size), unmoved] = 0
    # A grid is at (side, side) of its canvas: the window chosen moves it.
    windows = np.lib.stride_tricks.sliding_window_view(
        canvases, (side, side), axis=(-2, -1)
    )
    tokens = windows[
        np.arange(2)[:, None, None],
        augmentations.symmetries[:, None],
        np.arange(len(pairs)),
        side - shift[..., 0],
        side - shift[..., 1],
    ].reshape(2, augmentations.size, len(pairs), side * side)
    tables = np.tile(np.arange(VOCAB, dtype=np.uint8), (augmentations.size, 1))
    tables[:, FIRST:] = augmentations.colors + FIRST
    for i, table in enumerate(tables):
        tokens[:, i] = table.take(tokens[:, i], mode="clip")
    return tokens
