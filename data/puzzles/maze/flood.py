"""Distances in many mazes at once: a row of cells is a machine word.

Bit c of word (r, i) is cell (r, c) of maze i. Rows are the first axis, so that a step
in any direction is one operation over all mazes.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt

LARGEST = 64
"""Most rows and columns of a maze: the bits of a word."""

CHECK = 8  # steps between two checks for mazes whose flood has ended

Words = UInt[np.ndarray, "rows mazes"]


class Flood(NamedTuple):
    """The mazes that are still being flooded."""

    mazes: Int[np.ndarray, " mazes"]
    """Their indices in the input."""

    free: Words
    wet: Words


def to_words(cells: Bool[np.ndarray, "mazes rows columns"]) -> Words:
    """Return cells as bits, in words of 32 or 64 bits."""
    width = 4 if cells.shape[2] <= 32 else 8
    packed = np.packbits(cells, axis=2, bitorder="little")
    missing = width - packed.shape[2]
    packed = np.pad(packed, ((0, 0), (0, 0), (0, missing)))
    return np.ascontiguousarray(packed.view(f"<u{width}")[..., 0].T)


def to_cells(words: Words, columns: int) -> Bool[np.ndarray, "mazes rows columns"]:
    """Return the cells of words: the inverse of `to_words`."""
    packed = np.ascontiguousarray(words.T)[..., None].view(np.uint8)
    return np.unpackbits(packed, axis=2, bitorder="little")[..., :columns].astype(bool)


def grow(wet: Words, free: Words) -> Words:
    """Return the cells that are wet after one more step."""
    wider = wet | (wet << 1) | (wet >> 1)
    wider[1:] |= wet[:-1]
    wider[:-1] |= wet[1:]
    return wider & free


def flood(start: Words, free: Words, steps: int | None = None) -> Flood:
    """Return the mazes that are still being flooded after `steps` steps.

    Args:
        start: the first wet cells.
        free: cells without a wall.
        steps: number of steps; None: until nothing changes, and return all mazes.
    """
    mazes, wet = np.arange(start.shape[1]), start
    if steps is None:
        while not np.array_equal(wider := grow(wet, free), wet):
            wet = wider
        return Flood(mazes, free, wet)
    for step in range(1, steps + 1):
        wider = grow(wet, free)
        if step % CHECK == 0 or step == steps:
            alive = (wider != wet).any(axis=0)
            mazes, free, wider = mazes[alive], free[:, alive], wider[:, alive]
        wet = wider
    return Flood(mazes, free, wet)


def distances(
    start: Bool[np.ndarray, "mazes rows columns"],
    free: Bool[np.ndarray, "mazes rows columns"],
) -> Int[np.ndarray, "mazes rows columns"]:
    """Return the steps from the nearest start to each cell; -1 if there is no way."""
    words, wet = to_words(free), to_words(start & free)
    steps = np.where(start & free, 0, -1)
    step = 0
    while True:
        wider, step = grow(wet, words), step + 1
        fresh = wider & ~wet
        if not fresh.any():
            return steps
        steps[to_cells(fresh, free.shape[2])] = step
        wet = wider
