"""A token mixer with the geometry of Sudoku: rows, columns and boxes."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from data.puzzles.sudoku.board import Box
from gpt.layers import truncated_normal
from gpt.primitives import project
from trm.layers import AbstractMixer, rms_norm


class UnitMixer(AbstractMixer):
    """Each cell of a Sudoku gets the means of its row, its column and its box.

    Each mean has its own weights. Other mixers have to learn which cells form a unit.
    If a cell has one position for each digit (`trm/symbols.py`), means are over
    positions of the same digit, and a fourth mean is over the cell. Positions of the
    prefix get the mean of all cells instead, and enter no mean.

    Source: our own; messages within rows, columns and boxes are those of Palm et al.
    2018, arXiv 1711.08028.
    """

    positions_first = True
    stacked = True
    matrices: ClassVar[dict[str, tuple[int, int]]] = {"weight": (1, 1)}

    weight: Float[Array, "means dim dim"]
    box: Box = eqx.field(static=True)
    per_cell: int = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(
        self, box: Box, dim: int, per_cell: int = 1, *, eps: float, key: PRNGKeyArray
    ):
        means = 3 if per_cell == 1 else 4
        self.weight = truncated_normal(key, (means, dim, dim), (means * dim) ** -0.5)
        self.box = box
        self.per_cell = per_cell
        self.eps = eps

    def __call__(
        self, x: Float[Array, "seq *batch dim"]
    ) -> Float[Array, "seq *batch dim"]:
        prefix = x.shape[0] - self.box.size**2 * self.per_cell
        front, cells = x[:prefix], x[prefix:]
        rows, columns = self.box
        sizes = (columns, rows, rows, columns, self.per_cell)
        board = cells.reshape(*sizes, *cells.shape[1:])
        mean = lambda *axes: jnp.mean(board, axes, keepdims=True)
        units = [mean(2, 3), mean(0, 1), mean(1, 3), mean(4)][: len(self.weight)]
        mixed = sum(map(project, units, self.weight), jnp.zeros_like(board))
        mixed = [mixed.reshape(cells.shape)]
        if prefix:
            seen = project(cells.mean(0, keepdims=True), self.weight.sum(0))
            mixed.insert(0, jnp.broadcast_to(seen, front.shape))
        return rms_norm(x + jnp.concatenate(mixed), self.eps)
