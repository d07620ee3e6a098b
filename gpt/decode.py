"""Text from a GPT, one token at a time.

While a text fits the model's positions, each token is one step with the keys and values
of all tokens before it at hand. A longer text is seen through a window of its last
tokens, which moves on by one a token, so that all positions change and the whole window
is computed anew.

Source: nanoGPT, `GPT.generate`; the same tokens come out.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Key

from configs import require
from gpt.attention import attend
from gpt.model import GPT, Block
from gpt.sampling import Sampling, sample_token

CHUNK = 16
"""Most tokens of each text that one call on the device makes."""

_SHORTEST = 16  # prompts are padded to a power of two: few programs, little waste


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

    blocks: tuple[Block, ...]
    rest: GPT
    """Without blocks."""

    def __init__(self, model: GPT):
        layer = lambda number: jax.tree.map(lambda a: a[number], model.blocks.layers)
        self.blocks = tuple(layer(number) for number in range(model.blocks.length))
        self.rest = eqx.tree_at(lambda m: m.blocks, model, None)

    @property
    def dtype(self) -> jnp.dtype:
        """The type of linear layers, of keys and of values."""
        return self.blocks[0].qkv.weight.dtype

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache of one text."""
        numbers = 2 * len(self.blocks) * self.rest.block_size * self._width
        return numbers * self.dtype.itemsize

    @property
    def _width(self) -> int:
        return self.rest.embedding.weight.shape[1]

    def empty(self, batch: int) -> Cache:
        """The cache before the first token."""
        heads, memory = self.blocks[0].heads, self.rest.block_size
        shape = (batch * heads, memory, self._width // heads)
        make = lambda: tuple(jnp.zeros(shape, self.dtype) for _ in self.blocks)
        return Cache(make(), make())

    def prefill(
        self, tokens: Int[Array, "batch seq"]
    ) -> tuple[Float[Array, "batch seq dim"], Cache]:
        """What the head reads at each position, and the cache after all of them.

        Padding on the right does no harm: no token before it sees it, and `decode`
        writes over its keys and values before it reads there.

        Args:
            tokens: no more of them than there are positions.
        """

        def mix(*qkv: Float[Array, "batch seq heads head_dim"]) -> tuple[Any, Any]:
            return attend(*qkv, causal=True, kernel=self.rest.kernel), qkv[1:]

        keys, values = [], []
        room = [(0, 0), (0, self.rest.block_size - tokens.shape[1]), (0, 0)]
        x = self.rest.embed(tokens)
        for block in self.blocks:
            x, kept = block(x, self.rest.turn(mix))
            key, value = (jnp.pad(_rows(a), room) for a in kept)
            keys.append(key)
            values.append(value)
        return self.rest.norm(x).astype(self.dtype), Cache(tuple(keys), tuple(values))

    def decode(
        self, cache: Cache, token: Int[Array, " batch"], position: Int[Array, ""]
    ) -> tuple[Float[Array, "batch vocab"], Cache]:
        """Logits after one more token, in float32, and the cache with it.

        Args:
            cache: of the tokens before it.
            token: the next one of each text.
            position: of that token.
        """
        x = self.rest.embed(token[:, None], position)
        keys, values = [], []
        for block, *memory in zip(self.blocks, cache.keys, cache.values, strict=True):
            mix = self.rest.turn(partial(_extend, *memory, position), position)
            x, (key, value) = block(x, mix)
            keys.append(key)
            values.append(value)
        last = self.rest.norm(x)[:, 0].astype(self.dtype)
        return self.logits(last), Cache(tuple(keys), tuple(values))

    def logits(self, x: Float[Array, "batch dim"]) -> Float[Array, "batch vocab"]:
        """Logits of the next token in float32, from what the head reads."""
        return self.rest.logits(x).astype(jnp.float32)

    def exact(self) -> AbstractContextManager[Any]:
        """The context in which no device rounds products of float32 weights."""
        exact = "highest" if self.dtype == jnp.float32 else None
        return jax.default_matmul_precision(exact)


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


class DecodeState(eqx.Module):
    """Texts of equal length as they are written."""

    window: Int[Array, "batch block"]
    """The last tokens, with room on the right as long as there are fewer."""

    length: Int[Array, ""]
    """Tokens of each text, those before the window included."""

    cache: Cache
    """Of all tokens but the last, as long as these fit the window."""

    keys: Key[Array, " batch"]
    stop: Int[Array, ""]
    """The token that ends a text; -1 for none."""

    stopped: Bool[Array, " batch"]

    def append(self, token: Int[Array, " batch"], cache: Cache) -> "DecodeState":
        """The state with one more token of each text."""
        block = self.window.shape[1]
        moved = jnp.roll(self.window, -1, axis=1)
        window = jnp.where(self.length < block, self.window, moved)
        last = jnp.minimum(self.length, block - 1)
        return replace(
            self,
            window=window.at[:, last].set(token),
            length=self.length + 1,
            cache=cache,
            stopped=self.stopped | (token == self.stop),
        )


class Chunk(NamedTuple):
    """Tokens that one call on the device has made."""

    tokens: Int[Array, "batch chunk"]
    made: Int[Array, ""]
    """So many of them count; fewer than wanted if all texts have stopped."""


NextLogits = Callable[[Decoder, DecodeState], tuple[Float[Array, "batch vocab"], Cache]]
"""What follows each text, and the cache with its last token."""


def _next_cached(decoder: Decoder, state: DecodeState) -> tuple[Array, Cache]:
    last = state.length - 1
    return decoder.decode(state.cache, state.window[:, last], last)


def _next_in_window(decoder: Decoder, state: DecodeState) -> tuple[Array, Cache]:
    x, _ = decoder.prefill(state.window)
    return decoder.logits(x[:, -1]), state.cache


def _decode(
    next_logits: NextLogits,
    decoder: Decoder,
    state: DecodeState,
    limit: Int[Array, ""],
    sampling: Sampling,
    tokens: int,
) -> tuple[DecodeState, Chunk]:
    """More tokens of each text, and the state with them.

    Args:
        next_logits: with the cache or without.
        decoder: the model.
        state: so far.
        limit: of new tokens, at most `CHUNK`.
        sampling: how they are drawn.
        tokens: how many different ones there are.
    """

    def unfinished(carry: tuple[DecodeState, Chunk]) -> Bool[Array, ""]:
        state, chunk = carry
        return (chunk.made < limit) & ~jnp.all(state.stopped)

    def step(carry: tuple[DecodeState, Chunk]) -> tuple[DecodeState, Chunk]:
        state, (new, made) = carry
        logits, cache = next_logits(decoder, state)
        keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.length)
        token = sample_token(logits, sampling, keys, tokens)
        token = jnp.where(state.stopped, state.stop, token)
        chunk = Chunk(new.at[:, made].set(token), made + 1)
        return state.append(token, cache), chunk

    new = jnp.zeros((state.window.shape[0], CHUNK), jnp.int32)
    with decoder.exact():
        return jax.lax.while_loop(unfinished, step, (state, Chunk(new, jnp.int32(0))))


@eqx.filter_jit
def prefill(decoder: Decoder, tokens: Int[Array, "batch seq"]) -> Cache:
    """The cache after prompts, which may be padded on the right."""
    with decoder.exact():
        return decoder.prefill(tokens)[1]


_compile = partial(eqx.filter_jit, donate="all-except-first")

decode_cached = _compile(partial(_decode, _next_cached))
"""`_decode` of texts that fit the window before the last new token."""

decode_window = _compile(partial(_decode, _next_in_window))
"""`_decode` of texts that are longer than the window."""


def row_keys(seed: int, rows: Int[np.ndarray, " batch"]) -> Key[Array, " batch"]:
    """A key for each sample, whatever the batch that it is in."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), rows)


def generate(
    decoder: Decoder,
    prompt: Int[np.ndarray, "batch seq"],
    count: int,
    sampling: Sampling,
    keys: Key[Array, " batch"],
    *,
    tokens: int,
    stop: int = -1,
) -> Iterator[Int32[np.ndarray, "batch new"]]:
    """New tokens, a chunk at a time; the first chunk is one token long.

    Ends early when all texts have stopped. One that has stopped repeats its last token.

    Args:
        decoder: the model.
        prompt: at least one token a text. Of one longer than the model's positions, the
            last ones are seen.
        count: of new tokens.
        sampling: how they are drawn.
        keys: one for each text.
        tokens: different ones; the embedding may have more rows.
        stop: the token that ends a text; -1 for none.

    Raises:
        UserError: if the prompt has no tokens, or some that the model lacks.
    """
    require(
        prompt.size > 0,
        "A prompt must have at least one token: got none. Begin with a newline.",
    )
    require(
        bool((prompt >= 0).all() and (prompt < tokens).all()),
        f"The tokens of a prompt must lie in 0 .. {tokens - 1}: got {prompt.min()} .. "
        f"{prompt.max()}. Encode it with the tokenizer of the model's data.",
    )
    state = _begin(decoder, prompt, keys, stop)
    chunks = _chunks(decoder, state, prompt.shape[1], count, sampling, tokens)
    # The device makes the next chunk while the host looks at this one.
    for chunk, _ in pairwise(chain(chunks, (None,))):
        assert chunk is not None
        new, made = jax.device_get(chunk)
        if made == 0:
            return
        yield new[:, :made]


def _begin(
    decoder: Decoder,
    prompt: Int[np.ndarray, "batch seq"],
    keys: Key[Array, " batch"],
    stop: int,
) -> DecodeState:
    """The prompt, and the cache of all of its tokens but the last."""
    (batch, length), block = prompt.shape, decoder.rest.block_size
    window = np.zeros((batch, block), np.int32)
    window[:, :length] = prompt[:, -block:]
    if 1 < length <= block:
        padded = min(max(_SHORTEST, 1 << (length - 2).bit_length()), block)
        cache = prefill(decoder, jnp.asarray(window[:, :padded]))
    else:
        cache = decoder.empty(batch)
    return DecodeState(
        window=jnp.asarray(window),
        length=jnp.int32(length),
        cache=cache,
        keys=jnp.copy(keys),  # the caller's are not used up
        stop=jnp.int32(stop),
        stopped=jnp.zeros(batch, bool),
    )


def _chunks(
    decoder: Decoder,
    state: DecodeState,
    length: int,
    count: int,
    sampling: Sampling,
    tokens: int,
) -> Iterator[Chunk]:
    """All chunks, each as soon as the device has begun to make it."""
    block, end, most = state.window.shape[1], length + count, 1
    while length < end:
        decode, room = decode_window, end - length
        if length <= block:
            decode, room = decode_cached, min(room, block + 1 - length)
        limit = min(most, room)
        state, chunk = decode(decoder, state, jnp.int32(limit), sampling, tokens)
        yield chunk
        length, most = length + limit, CHUNK
