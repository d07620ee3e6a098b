"""The network that a TRM applies repeatedly: post-norm blocks without biases.

Layout: with attention, positions are the axis before the last (`*batch seq dim`).
With the token MLP they are the first axis (`seq *batch dim`), so that mixing positions
is one plain matrix product over all columns of the batch: nothing is transposed, and
odd lengths need no padding. A TPU works on tiles of 8 positions or rows by 128 columns:
its layout is `tiles *batch tile dim`, where both mixing positions and mixing features
take the tiles as they are. Appended positions are zeros and stay so.
For one example the two layouts are the same. Only `TRM.refine` moves between them.

Source: `models/layers.py`; paper section 4.4 and figure 1.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, PRNGKeyArray

from configs import ceil_div, require
from gpt.attention import TILE, Kernel, attend, padding
from gpt.layers import rms_norm, rotate, truncated_normal, turn
from gpt.primitives import (
    gate_and_up,
    project,
    project_columns,
    project_gated,
    project_gated_columns,
)


def swiglu_width(width: int, expansion: float, multiple: int = 256) -> int:
    """Return the inner width of a SwiGLU: 2/3 of `expansion * width`, rounded up.

    Source: `models/layers.py`, `SwiGLU`, to a multiple of 256.
    """
    return ceil_div(round(expansion * width * 2 / 3), multiple) * multiple


class SwiGLU(eqx.Module):
    """Gated feed-forward layer, `down(silu(gate(x)) * up(x))`.

    With `normed` it is `down(sigmoid(gate(x)) * rms_norm(gate(x) * up(x)))`; the norm
    bounds the output for the large weights of Muon.

    Source: Shazeer 2020, arXiv 2002.05202; `models/layers.py`, `SwiGLU`; with the norm
    Dillon 2026, arXiv 2601.19085.
    """

    gate_up: Float[Array, "width 2*hidden"]
    down: Float[Array, "hidden width"]
    normed: bool = eqx.field(static=True)
    matrices: ClassVar[dict[str, tuple[int, int]]] = {"gate_up": (1, 2), "down": (1, 1)}

    def __init__(
        self,
        width: int,
        expansion: float,
        multiple: int = 256,
        *,
        normed: bool = False,
        key: PRNGKeyArray,
    ):
        self.normed = normed
        hidden = swiglu_width(width, expansion, multiple)
        gate_up_key, down_key = jax.random.split(key)
        self.gate_up = truncated_normal(gate_up_key, (width, 2 * hidden), width**-0.5)
        self.down = truncated_normal(down_key, (hidden, width), hidden**-0.5)

    def __call__(self, x: Float[Array, "*axes width"]) -> Float[Array, "*axes width"]:
        if not self.normed:
            return project(project_gated(x, self.gate_up), self.down)
        both = project(x, self.gate_up)
        return project(_gate_normed(both, axis=-1), self.down)

    def over_first_axis(
        self, x: Float[Array, " width *axes"]
    ) -> Float[Array, " width *axes"]:
        """Apply the layer along the first axis instead of the last."""
        if not self.normed:
            return project_columns(project_gated_columns(x, self.gate_up), self.down)
        both = project_columns(x, self.gate_up)
        return project_columns(_gate_normed(both, axis=0), self.down)


def _gate_normed(both: Float[Array, "*axes"], axis: int) -> Float[Array, "*halves"]:
    gate, up = gate_and_up(both, axis)
    return (jax.nn.sigmoid(gate) * rms_norm(gate * up, 1e-5, axis)).astype(both.dtype)


class AbstractMixer(eqx.Module):
    """An exchange of information between the positions of a puzzle, with norm."""

    positions_first: eqx.AbstractClassVar[bool]
    """True if positions are the first axis, else the axis before the last."""

    @property
    def padding(self) -> int:
        """Positions to append once before all layers."""
        return 0

    @property
    def tile(self) -> int:
        """Number of positions that stay behind the batch if the others are first."""
        return 0

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "*axes dim"]) -> Float[Array, "*axes dim"]:
        """Return `rms_norm(x + mixed x)`, in this mixer's layout."""


def rotate_board(
    x: Float[Array, "*batch length heads head_dim"],
    theta: float,
    prefix: int,
    side: int,
) -> Float[Array, "*batch length heads head_dim"]:
    """Apply rotary positions of a square board of `side` rows.

    Half of each head is rotated by the row of a cell, half by its column. The `prefix`
    before the cells, and padding after them, are not rotated.

    Source: locuslab/EqR at 4d45856, `models/layers.py`, `RotaryEmbedding2D` and
    `apply_rotary_pos_emb_2d`; the prefix is that of SE-RRM, arXiv 2603.02193.
    """
    numbers = np.zeros((2, x.shape[-3]), np.float32)
    numbers[:, prefix : prefix + side**2] = np.indices((side, side)).reshape(2, -1)
    halves = jnp.split(x, 2, axis=-1)
    turned = [
        turn(half, theta, axis) for half, axis in zip(halves, numbers, strict=True)
    ]
    return jnp.concatenate(turned, axis=-1)


class AttentionMixer(AbstractMixer):
    """Bidirectional self-attention, with or without rotary positions.

    The first `length` positions are attended to; further ones are padding. With `board`
    the rotary positions are those of a board, see `rotate_board`.

    Source: `models/layers.py`, `Attention`; no bias, no mask, no dropout.
    """

    positions_first = False

    qkv: Float[Array, "dim 3 heads head_dim"]
    out: Float[Array, "heads head_dim dim"]
    length: int = eqx.field(static=True)
    rope_theta: float | None = eqx.field(static=True)
    board: tuple[int, int] | None = eqx.field(static=True)
    """Prefix, and rows of a board."""

    eps: float = eqx.field(static=True)
    kernel: Kernel = eqx.field(static=True)
    matrices: ClassVar[dict[str, tuple[int, int]]] = {"qkv": (1, 3), "out": (2, 1)}

    def __init__(
        self,
        length: int,
        dim: int,
        heads: int,
        *,
        rope_theta: float | None,
        board: tuple[int, int] | None = None,
        eps: float,
        kernel: Kernel,
        key: PRNGKeyArray,
    ):
        qkv_key, out_key = jax.random.split(key)
        head_dim = dim // heads
        self.qkv = truncated_normal(qkv_key, (dim, 3, heads, head_dim), dim**-0.5)
        self.out = truncated_normal(out_key, (heads, head_dim, dim), dim**-0.5)
        self.length = length
        self.rope_theta = rope_theta
        self.board = board
        self.eps = eps
        self.kernel = kernel

    @property
    def padding(self) -> int:
        return padding(self.kernel, self.length)

    def __call__(
        self, x: Float[Array, "*batch seq dim"]
    ) -> Float[Array, "*batch seq dim"]:
        dim, heads, head_dim = x.shape[-1], *self.out.shape[:2]
        qkv = project(x, self.qkv.reshape(dim, -1))
        split = lambda x: x.reshape(*x.shape[:-1], heads, head_dim)
        query, key, value = map(split, jnp.split(qkv, 3, axis=-1))
        if (theta := self.rope_theta) is not None:
            turned = lambda x, board=self.board: (
                rotate(x, theta) if board is None else rotate_board(x, theta, *board)
            )
            query, key = turned(query), turned(key)
        mixed = attend(query, key, value, seen=self.length, kernel=self.kernel)
        mixed = project(mixed.reshape(x.shape), self.out.reshape(dim, dim))
        return rms_norm(x + mixed, self.eps)


class TokenMLP(AbstractMixer):
    """A SwiGLU and a norm over the positions, prefix included.

    Source: `models/recursive_reasoning/trm.py`, `mlp_t`; paper section 4.5.
    """

    positions_first = True

    mlp: SwiGLU
    eps: float = eqx.field(static=True)
    length: int = eqx.field(static=True)
    kernel: Kernel = eqx.field(static=True)

    def __init__(
        self,
        seq: int,
        expansion: float,
        multiple: int = 256,
        *,
        normed: bool = False,
        eps: float,
        kernel: Kernel = "xla",
        key: PRNGKeyArray,
    ):
        self.mlp = SwiGLU(seq, expansion, multiple, normed=normed, key=key)
        self.eps = eps
        self.length = seq
        self.kernel = kernel

    @property
    def tile(self) -> int:
        return TILE if self.kernel in ("tiles", "splash") else 0

    @property
    def padding(self) -> int:
        return -self.length % self.tile if self.tile else 0

    def __call__(self, x: Float[Array, "*axes dim"]) -> Float[Array, "*axes dim"]:
        if not self.tile:
            return rms_norm(x + self.mlp.over_first_axis(x), self.eps, axis=0)
        x = _rows_in_order(x)
        columns = jnp.moveaxis(x, -2, 1)
        mixed = self._padded().over_first_axis(columns.reshape(-1, *columns.shape[2:]))
        mixed = _rows_in_order(jnp.moveaxis(mixed.reshape(columns.shape), 1, -2))
        return rms_norm(x + mixed, self.eps, axis=(0, -2), count=self.length)

    def _padded(self) -> SwiGLU:
        """Return the layer with weights of zero for appended positions."""
        pad = (0, self.padding)
        weights = (
            jnp.pad(self.mlp.gate_up, (pad, (0, 0))),
            jnp.pad(self.mlp.down, ((0, 0), pad)),
        )
        return eqx.tree_at(lambda mlp: (mlp.gate_up, mlp.down), self.mlp, weights)


def _rows_in_order(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Fix the order of axes in memory, so that no tile is moved."""
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


class Block(eqx.Module):
    """A mixer over positions, then an MLP over features; the MLP is post-normed too."""

    mixer: AbstractMixer
    mlp: Callable[[Array], Array]
    eps: float = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*axes dim"]) -> Float[Array, "*axes dim"]:
        x = self.mixer(x)
        return rms_norm(x + self.mlp(x), self.eps)


class Network(eqx.Module):
    """Blocks in sequence; no norm at the end. f in the paper."""

    blocks: tuple[Block, ...]

    def __call__(self, x: Float[Array, "*axes dim"]) -> Float[Array, "*axes dim"]:
        for block in self.blocks:
            x = block(x)
        return x


def find_mixers(tree: Any) -> list[AbstractMixer]:
    """Return all mixers in a module, such as a recursion.

    Raises:
        ValueError: if there is none, or they do not share a layout.
    """
    is_mixer = lambda node: isinstance(node, AbstractMixer)
    mixers = [m for m in jax.tree.leaves(tree, is_leaf=is_mixer) if is_mixer(m)]
    layouts = {(mixer.positions_first, mixer.padding, mixer.tile) for mixer in mixers}
    require(
        len(layouts) == 1,
        "All mixers of a model must have one layout, `positions_first`, `padding` and "
        f"`tile`: got {sorted(layouts)}. Use mixers that agree, and at least one.",
    )
    return mixers
