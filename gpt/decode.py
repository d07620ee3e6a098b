"""One token at a time, with the keys and values of all tokens before it at hand."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gpt.attention import Kernel, attend
from gpt.layers import Embedding, LayerNorm
from gpt.model import GPT, Block


class Cache(eqx.Module):
    """Keys and values of every layer, with room for as many tokens as positions.

    Each head of each text is a row. (Were batch and heads two axes, XLA would drop a
    batch of 1, and then write each token into copies of the whole memory.)
    """

    keys: tuple[Float[Array, "rows memory head_dim"], ...]
    values: tuple[Float[Array, "rows memory head_dim"], ...]


class Decoder(eqx.Module):
    """A GPT of which each layer has arrays of its own, and so has its cache.

    In a loop over tokens, XLA on a CPU copies what it takes out of a stack of layers,
    weights and memory, at every token.
    """

    embedding: Embedding
    positions: Float[Array, "memory dim"]
    blocks: tuple[Block, ...]
    norm: LayerNorm
    kernel: Kernel = eqx.field(static=True)

    def __init__(self, model: GPT):
        layer = lambda number: jax.tree.map(lambda a: a[number], model.blocks.layers)
        self.embedding = model.embedding
        self.positions = model.positions
        self.blocks = tuple(layer(number) for number in range(model.blocks.length))
        self.norm = model.norm
        self.kernel = model.kernel

    def empty(self, batch: int) -> Cache:
        """The cache before the first token."""
        heads, (memory, dim) = self.blocks[0].heads, self.positions.shape
        shape = (batch * heads, memory, dim // heads)
        make = lambda: tuple(
            jnp.zeros(shape, self.positions.dtype) for _ in self.blocks
        )
        return Cache(make(), make())

    def prefill(
        self, tokens: Int[Array, "batch seq"]
    ) -> tuple[Float[Array, "batch seq dim"], Cache]:
        """What the head reads at each position, and the cache after all of them.

        Tokens on the right that are no part of the text do no harm: none before them
        sees them, and `decode` writes over what is kept of them before it looks there.

        Args:
            tokens: no more of them than there are positions.
        """

        def mix(*qkv: Float[Array, "batch seq heads head_dim"]) -> tuple[Any, Any]:
            return attend(*qkv, causal=True, kernel=self.kernel), qkv[1:]

        seq, keys, values = tokens.shape[1], [], []
        room = [(0, 0), (0, self.positions.shape[0] - seq), (0, 0)]
        x = self.embedding(tokens) + self.positions[:seq]
        for block in self.blocks:
            x, kept = block(x, mix)
            key, value = (jnp.pad(_rows(a), room) for a in kept)
            keys.append(key)
            values.append(value)
        return self.norm(x), Cache(tuple(keys), tuple(values))

    def decode(
        self, cache: Cache, token: Int[Array, " batch"], position: Int[Array, ""]
    ) -> tuple[Float[Array, "batch vocab"], Cache]:
        """Logits after one more token, in float32, and the cache with it.

        Args:
            cache: of the tokens before it.
            token: of each sequence.
            position: of that token.
        """
        x = (self.embedding(token) + self.positions[position])[:, None]
        keys, values = [], []
        for block, *memory in zip(self.blocks, cache.keys, cache.values, strict=True):
            x, (key, value) = block(x, partial(_extend, *memory, position))
            keys.append(key)
            values.append(value)
        return self.logits(self.norm(x)[:, 0]), Cache(tuple(keys), tuple(values))

    def logits(self, x: Float[Array, "batch dim"]) -> Float[Array, "batch vocab"]:
        """What follows a position, in float32, from what the head reads there."""
        return self.embedding.unembed(x).astype(jnp.float32)


def _rows(
    x: Float[Array, "batch seq heads head_dim"],
) -> Float[Array, "rows seq head_dim"]:
    """Keys or values as the cache has them."""
    return jnp.swapaxes(x, 1, 2).reshape(-1, x.shape[1], x.shape[3])


def _extend(
    keys: Float[Array, "rows memory head_dim"],
    values: Float[Array, "rows memory head_dim"],
    position: Int[Array, ""],
    query: Float[Array, "batch 1 heads head_dim"],
    key: Float[Array, "batch 1 heads head_dim"],
    value: Float[Array, "batch 1 heads head_dim"],
) -> tuple[Float[Array, "batch 1 heads head_dim"], tuple[Array, Array]]:
    """Attention of one token to itself and those before it, and the longer memory."""
    put = lambda memory, new: jax.lax.dynamic_update_slice_in_dim(
        memory, _rows(new), position, axis=1
    )
    keys, values = put(keys, key), put(values, value)
    scores = jnp.einsum(
        "rlk,rmk->rlm", _rows(query), keys, preferred_element_type=jnp.float32
    )
    scores = scores * query.shape[-1] ** -0.5
    seen = jnp.arange(keys.shape[1]) <= position
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    mixed = jnp.einsum("rlm,rmk->rlk", weights.astype(values.dtype), values)
    return mixed.reshape(query.shape), (keys, values)
