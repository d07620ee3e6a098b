"""The model: embed a puzzle, refine its latents, read an answer from them.

One supervision step is `predict(refine(latents, embed(inputs, rows)))`. Leading axes
are free: one puzzle, or any batch of them.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, PyTree

from gpt.layers import Buffer, Embedding, Linear, truncated_normal
from gpt.primitives import add_vector
from trm.flow import Flow, FlowEmbedding
from trm.layers import find_mixers
from trm.noise import OWN, Noise, fold
from trm.recursion import (
    AbstractNoisyRecursion,
    AbstractRecursion,
    Latents,
    deep_recursion,
)
from trm.symbols import SymbolEmbedding, SymbolHead


class Prediction(eqx.Module):
    """Output of the heads for the current latents."""

    logits: Float[Array, "*batch seq vocab"]
    q_halt: Float[Array, "*batch"]
    q_continue: Float[Array, "*batch"]


class TRM(eqx.Module):
    """Embedding, recursion and heads. Parameter for parameter the official `Inner`.

    A puzzle's vector (a row of the puzzle table, which is not part of the model) fills
    `prefix` positions in front of its tokens. The halting head reads the first of them.

    Source: `models/recursive_reasoning/trm.py`,
    `TinyRecursiveReasoningModel_ACTV1_Inner`.
    """

    embedding: Embedding | FlowEmbedding | SymbolEmbedding
    positions: Float[Array, "prefix+seq dim"] | None
    recursion: AbstractRecursion
    head: Linear | SymbolHead
    halt_head: Linear
    prefix: int = eqx.field(static=True)
    per_cell: int = eqx.field(static=True)
    cycles: int = eqx.field(static=True)
    positions_first: bool = eqx.field(static=True)
    padding: int = eqx.field(static=True)
    tile: int = eqx.field(static=True)

    def __init__(
        self,
        recursion: AbstractRecursion,
        *,
        vocab: int,
        seq: int,
        dim: int,
        prefix: int,
        cycles: int,
        learned_positions: bool,
        symbols: int = 0,
        flow: Flow | None = None,
        key: PRNGKeyArray,
    ):
        embed_key, position_key, head_key, halt_key = jax.random.split(key, 4)
        if symbols:
            self.embedding = SymbolEmbedding(symbols, dim, key=embed_key)
            self.head = SymbolHead(symbols, dim, key=head_key)
        else:
            embedding = Embedding(vocab, dim, key=embed_key)
            self.embedding = FlowEmbedding(embedding, flow) if flow else embedding
            self.head = Linear(dim, vocab, key=head_key)
        self.positions = (
            truncated_normal(position_key, (prefix + seq, dim), dim**-0.5)
            if learned_positions
            else None
        )
        self.recursion = recursion
        # Starts almost sure that nothing is solved: fast learning of Q, deep recursion.
        self.halt_head = eqx.tree_at(
            lambda head: (head.weight, head.bias),
            Linear(dim, 2, bias=True, key=halt_key),
            (jnp.zeros((dim, 2)), jnp.full(2, -5.0, jnp.float32)),
        )
        self.prefix = prefix
        self.per_cell = symbols or 1
        self.cycles = cycles
        mixer = find_mixers(recursion)[0]
        self.positions_first = mixer.positions_first
        self.padding = mixer.padding
        self.tile = mixer.tile

    def length(self, seq: int) -> int:
        """Return the positions of a puzzle of `seq` cells."""
        return self.prefix + seq * self.per_cell

    @property
    def flow(self) -> Flow | None:
        """The looped flow, if the model has one."""
        embedding = self.embedding
        return embedding.flow if isinstance(embedding, FlowEmbedding) else None

    @property
    def compute_type(self) -> jnp.dtype:
        """Type of the latents."""
        return jax.tree.leaves(self.recursion.init())[0].dtype

    @jax.named_scope("embed")
    def embed(
        self, inputs: Int[Array, "*batch seq"], rows: Float[Array, "*batch width"]
    ) -> Float[Array, "*batch length dim"]:
        """Return the question x: rows of the table, then tokens, at unit variance."""
        x = self.embedding(inputs).astype(self.compute_type)
        dim = x.shape[-1]
        if self.prefix:
            missing = self.prefix * dim - rows.shape[-1]
            padding = [(0, 0)] * (rows.ndim - 1) + [(0, missing)]
            front = jnp.pad(rows.astype(x.dtype), padding)
            front = front.reshape(*rows.shape[:-1], self.prefix, dim)
            x = jnp.concatenate((front, x), axis=-2)
        scale = math.sqrt(dim)
        if self.positions is not None:
            x = add_vector(x, self.positions)
            scale = scale * 0.707106781  # keeps the variance of a sum of two
        return (scale * x.astype(jnp.float32)).astype(x.dtype)

    @jax.named_scope("cycles")
    def refine(
        self,
        latents: Latents,
        x: Float[Array, "*batch length dim"],
        keys: Key[Array, "*batch"] | None = None,
    ) -> PyTree[Float[Array, "*batch length dim"]]:
        """Apply the deep recursion of one supervision step.

        Args:
            latents: before the step.
            x: the question.
            keys: one for each puzzle, for a variant with noise; None for no noise.
        """
        length = x.shape[-2]

        def enter(a: Array) -> Array:
            a = _append(a, self.padding)
            if self.tile:
                a = a.reshape(*a.shape[:-2], -1, self.tile, a.shape[-1])
                return jnp.moveaxis(a, -3, 0)
            return jnp.moveaxis(a, -2, 0) if self.positions_first else a

        def leave(a: Array) -> Array:
            if self.tile:
                a = jnp.moveaxis(a, 0, -3)
                a = a.reshape(*a.shape[:-3], -1, a.shape[-1])
            elif self.positions_first:
                a = jnp.moveaxis(a, 0, -2)
            return a[..., :length, :]

        noise = None
        if keys is not None and isinstance(self.recursion, AbstractNoisyRecursion):
            shape = (x.shape[-2], x.shape[-1])
            noise = Noise(fold(keys, OWN), shape, x.dtype, enter)
        latents, x = jax.tree.map(enter, (latents, x))
        latents = deep_recursion(self.recursion, latents, x, self.cycles, noise)
        return jax.tree.map(leave, latents)

    def start(
        self,
        latents: PyTree[Float[Array, "*batch length dim"]],
        fresh: Bool[Array, "*batch"],
        keys: Key[Array, "*batch"],
    ) -> PyTree[Float[Array, "*batch length dim"]]:
        """Draw the latents of fresh puzzles if the variant does; keep the others."""
        if not isinstance(self.recursion, AbstractNoisyRecursion):
            return latents
        length, dim = jax.tree.leaves(latents)[0].shape[-2:]
        drawn = self.recursion.draw(fold(keys, OWN + 1), (length, dim))
        return jax.tree.map(
            lambda a, b: jnp.where(fresh[..., None, None], a, b), drawn, latents
        )

    @jax.named_scope("heads")
    def predict(self, latents: PyTree[Float[Array, "*batch length dim"]]) -> Prediction:
        """Return logits of every cell in the compute type, and Q values in float32."""
        y = self.recursion.answer(latents)
        q = self.halt_head(y[..., 0, :]).astype(jnp.float32)
        logits = self.head(y[..., self.prefix :, :])
        return Prediction(logits, q[..., 0], q[..., 1])


def _append(
    x: Float[Array, "*batch length dim"], padding: int
) -> Float[Array, "*batch padded dim"]:
    """Append positions of zeros."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, padding), (0, 0)])


def cast(model: TRM, dtype: jnp.dtype) -> TRM:
    """Cast the latents of a model, and thereby its computations.

    Weights stay in float32 and are cast where they are used (official), so that the
    gradients of a weight's uses add up in float32.
    """
    is_latent = lambda node: isinstance(node, Buffer)
    narrow = lambda node: Buffer(node.value.astype(dtype)) if is_latent(node) else node
    return jax.tree.map(narrow, model, is_leaf=is_latent)
