"""Generate tokens with a GPT.

While a text fits the model's positions, each token is one step with cached keys and
values. For a longer text the model gets a sliding window of the last tokens. All
positions change with every token, so the whole window is computed again.

Source: nanoGPT, `GPT.generate`; generated tokens are equal.
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
"""Maximum of new tokens per text in one call on the device."""

_SHORTEST = 16  # prompts are padded to a power of two: few programs, little waste


class Cache(eqx.Module):
    """Keys and values of every computed block; `memory` is the model's `block_size`.

    Each head of each text is a row: with two axes for batch and heads, XLA would drop a
    batch of 1, and then copy the whole cache for each token.
    """

    keys: tuple[Float[Array, "rows memory head_dim"], ...]
    values: tuple[Float[Array, "rows memory head_dim"], ...]


class Decoder(eqx.Module):
    """A GPT with separate arrays per layer, for weights and for the cache.

    With stacked layers, XLA on a CPU copies weights and cache at every token.
    """

    blocks: tuple[Block, ...]
    rest: GPT
    """The model without its blocks."""

    def __init__(self, model: GPT):
        layer = lambda number: jax.tree.map(lambda a: a[number], model.blocks.layers)
        layers = [layer(number) for number in range(model.blocks.length)]
        self.blocks = tuple(layers[number] for number in model.order)
        self.rest = eqx.tree_at(lambda m: m.blocks, model, None)

    @property
    def dtype(self) -> jnp.dtype:
        """Type of linear layers, keys and values."""
        return self.blocks[0].qkv.weight.dtype

    @property
    def cache_bytes(self) -> int:
        """Size of one text's cache in bytes."""
        numbers = 2 * len(self.blocks) * self.rest.block_size * self._width
        return numbers * self.dtype.itemsize

    @property
    def _width(self) -> int:
        return self.rest.embedding.weight.shape[1]

    def empty(self, batch: int) -> Cache:
        """Return the cache before the first token."""
        heads, memory = self.blocks[0].heads, self.rest.block_size
        shape = (batch * heads, memory, self._width // heads)
        make = lambda: tuple(jnp.zeros(shape, self.dtype) for _ in self.blocks)
        return Cache(make(), make())

    def prefill(
        self, tokens: Int[Array, "batch seq"]
    ) -> tuple[Float[Array, "batch seq dim"], Cache]:
        """Return the head's input at each position, and the cache after all tokens.

        Tokens may be padded on the right: earlier tokens do not attend to padding, and
        `decode` overwrites its keys and values before they are read.
        """

        def mix(*qkv: Float[Array, "batch seq heads head_dim"]) -> tuple[Any, Any]:
            return attend(*qkv, causal=True, kernel=self.rest.kernel), qkv[1:]

        keys, values = [], []
        room = [(0, 0), (0, self.rest.block_size - tokens.shape[1]), (0, 0)]
        x, turn = self.rest.embed(tokens), self.rest.turn(tokens)
        for block in self.blocks:
            x, key_value = block(x, turn(mix))
            key, value = (jnp.pad(_rows(a), room) for a in key_value)
            keys.append(key)
            values.append(value)
        return self.rest.norm(x).astype(self.dtype), Cache(tuple(keys), tuple(values))

    def decode(
        self,
        cache: Cache,
        token: Int[Array, " batch"],
        position: Int[Array, ""],
        texts: Int[Array, "batch block"] | None = None,
    ) -> tuple[Float[Array, "batch vocab"], Cache]:
        """Return float32 logits after the token at `position`, and the new cache.

        `texts` are all tokens so far, for a model of rows with labels and places.
        """
        here = token[:, None], position, texts
        x, turn = self.rest.embed(*here), self.rest.turn(*here)
        keys, values = [], []
        for block, *memory in zip(self.blocks, cache.keys, cache.values, strict=True):
            x, (key, value) = block(x, turn(partial(_extend, *memory, position)))
            keys.append(key)
            values.append(value)
        last = self.rest.norm(x)[:, 0].astype(self.dtype)
        return self.logits(last), Cache(tuple(keys), tuple(values))

    def logits(self, x: Float[Array, "batch dim"]) -> Float[Array, "batch vocab"]:
        """Return float32 logits of the next token from the head's input."""
        return self.rest.logits(x).astype(jnp.float32)

    def exact(self) -> AbstractContextManager[Any]:
        """Return a context in which products of float32 weights are not rounded."""
        exact = "highest" if self.dtype == jnp.float32 else None
        return jax.default_matmul_precision(exact)


def _rows(
    x: Float[Array, "batch seq heads head_dim"],
) -> Float[Array, "rows seq head_dim"]:
    """Return keys or values in the cache's layout."""
    return jnp.swapaxes(x, 1, 2).reshape(-1, x.shape[1], x.shape[3])


def _extend(
    keys: Float[Array, "rows memory head_dim"],
    values: Float[Array, "rows memory head_dim"],
    position: Int[Array, ""],
    query: Float[Array, "batch 1 heads head_dim"],
    key: Float[Array, "batch 1 heads head_dim"],
    value: Float[Array, "batch 1 heads head_dim"],
) -> tuple[Float[Array, "batch 1 heads head_dim"], tuple[Array, Array]]:
    """Add one token to the cache; return its attention, and keys and values."""
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
    """Texts of equal length during generation."""

    window: Int[Array, "batch block"]
    """The last tokens; a text shorter than the window is padded on the right."""

    length: Int[Array, ""]
    """Tokens per text, including those before the window."""

    cache: Cache
    """Keys and values of all tokens but the last; unused once a text exceeds the
    window."""

    keys: Key[Array, " batch"]
    stop: Int[Array, ""]
    """Token that ends a text; -1 for none."""

    stopped: Bool[Array, " batch"]

    def append(self, token: Int[Array, " batch"], cache: Cache) -> "DecodeState":
        """Return the state with one more token per text."""
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
    """New tokens of one call on the device."""

    tokens: Int[Array, "batch chunk"]
    made: Int[Array, ""]
    """Number of valid columns of `tokens`; below the limit if all texts stopped."""


NextLogits = Callable[[Decoder, DecodeState], tuple[Float[Array, "batch vocab"], Cache]]
"""Return logits after each text, and the cache including the last token."""


def _next_cached(decoder: Decoder, state: DecodeState) -> tuple[Array, Cache]:
    last = state.length - 1
    return decoder.decode(state.cache, state.window[:, last], last, state.window)


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
    """Generate at most `limit` (at most `CHUNK`) tokens per text."""

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
    """Return the cache after prompts; they may be padded on the right."""
    with decoder.exact():
        return decoder.prefill(tokens)[1]


_compile = partial(eqx.filter_jit, donate="all-except-first")

decode_cached = _compile(partial(_decode, _next_cached))
"""Generate with the cache: texts must fit the window before the last new token."""

decode_window = _compile(partial(_decode, _next_in_window))
"""Generate without the cache, for texts longer than the window."""


def row_keys(seed: int, rows: Int[np.ndarray, " batch"]) -> Key[Array, " batch"]:
    """Return a key for each sample number, independent of the batch."""
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
    """Yield chunks of new tokens, at most `count` per text; the first is one token.

    Only the last `block_size` tokens of the prompt are used. The vocabulary has
    `tokens` tokens; the embedding may have more rows. A text that has reached the token
    `stop` (-1: none) repeats it; generation ends early when all texts have.

    Raises:
        UserError: if the prompt is empty or has a token outside of the vocabulary.
    """
    require(
        prompt.size > 0,
        "A prompt must have at least one token: it is empty. Use a newline.",
    )
    require(
        bool((prompt >= 0).all() and (prompt < tokens).all()),
        f"The tokens of a prompt must lie in 0 .. {tokens - 1}: got {prompt.min()} .. "
        f"{prompt.max()}. Encode it with the tokenizer of the model's data.",
    )
    state = begin(decoder, prompt, keys, stop)
    chunks = _chunks(decoder, state, prompt.shape[1], count, sampling, tokens)
    # The device computes the next chunk while the host handles this one.
    for chunk, _ in pairwise(chain(chunks, (None,))):
        assert chunk is not None
        new, made = jax.device_get(chunk)
        if made == 0:
            return
        yield new[:, :made]


def begin(
    decoder: Decoder,
    prompt: Int[np.ndarray, "batch seq"],
    keys: Key[Array, " batch"],
    stop: int,
) -> DecodeState:
    """Return the state after the prompt."""
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
        keys=jnp.copy(keys),  # `_compile` donates them
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
    """Yield each chunk as soon as the device has begun to compute it."""
    block, end, most = state.window.shape[1], length + count, 1
    while length < end:
        decode, room = decode_window, end - length
        if length <= block:
            decode, room = decode_cached, min(room, block + 1 - length)
        limit = min(most, room)
        state, chunk = decode(decoder, state, jnp.int32(limit), sampling, tokens)
        yield chunk
        length, most = length + limit, CHUNK
