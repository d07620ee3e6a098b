"""Text from a GPT, a few tokens at a time.

While a text has no more tokens than the model has positions, each token is one step
with the cache. A longer one is seen through a window of its last tokens, which moves on
by one a token, so that all positions change and the whole window is computed anew.

Source: nanoGPT, `GPT.generate`; the same tokens come out.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Key

from configs import require
from gpt.decode import Cache, Decoder
from gpt.sampling import Sampling, choose

PIECE = 16
"""Tokens of a row that one call of a program makes, at most."""

_SHORTEST = 16  # prompts are padded to a power of two: few programs, little waste


class Texts(eqx.Module):
    """Texts of equal length that are being written."""

    window: Int[Array, "batch block"]
    """The last tokens; on the right room for more as long as there is any."""

    length: Int[Array, ""]
    """Tokens, those before the window included."""

    cache: Cache
    """Of all tokens but the last, as long as these fit the window."""

    keys: Key[Array, " batch"]
    stop: Int[Array, ""]
    """The token that ends a text; -1 for none."""

    stopped: Bool[Array, " batch"]

    def append(self, token: Int[Array, " batch"], cache: Cache) -> "Texts":
        """The texts with one more token each."""
        block = self.window.shape[1]
        moved = jnp.roll(self.window, -1, axis=1)
        window = jnp.where(self.length < block, self.window, moved)
        last = jnp.minimum(self.length, block - 1)
        return Texts(
            window=window.at[:, last].set(token),
            length=self.length + 1,
            cache=cache,
            keys=self.keys,
            stop=self.stop,
            stopped=self.stopped | (token == self.stop),
        )


Piece = tuple[Int[Array, "batch piece"], Int[Array, ""]]
"""New tokens, and how many of them there are."""

Ahead = Callable[[Decoder, Texts], tuple[Float[Array, "batch vocab"], Cache]]


def prefill(decoder: Decoder, tokens: Int[Array, "batch seq"]) -> Cache:
    """The cache after a prompt, which may be padded on the right."""
    return decoder.prefill(tokens)[1]


def cached(
    decoder: Decoder, texts: Texts, limit: Int[Array, ""], *how: Any
) -> tuple[Texts, Piece]:
    """`limit` tokens more of texts that fit the window before the last of them.

    Args:
        decoder: the model.
        texts: so far.
        limit: of tokens; fewer come if all texts have stopped, at most `PIECE`.
        how: the arguments `sampling` and `tokens` of `choose`.
    """

    def ahead(decoder: Decoder, texts: Texts) -> tuple[Array, Cache]:
        last = texts.length - 1
        return decoder.decode(texts.cache, texts.window[:, last], last)

    return _write(ahead, decoder, texts, limit, *how)


def sliding(
    decoder: Decoder, texts: Texts, limit: Int[Array, ""], *how: Any
) -> tuple[Texts, Piece]:
    """The same of texts that are longer than the window."""

    def ahead(decoder: Decoder, texts: Texts) -> tuple[Array, Cache]:
        x, _ = decoder.prefill(texts.window)
        return decoder.logits(x[:, -1]), texts.cache

    return _write(ahead, decoder, texts, limit, *how)


def _write(
    ahead: Ahead,
    decoder: Decoder,
    texts: Texts,
    limit: Int[Array, ""],
    sampling: Sampling,
    tokens: int,
) -> tuple[Texts, Piece]:
    def unfinished(carry: tuple[Texts, Piece]) -> Bool[Array, ""]:
        texts, (_, number) = carry
        return (number < limit) & ~jnp.all(texts.stopped)

    def step(carry: tuple[Texts, Piece]) -> tuple[Texts, Piece]:
        texts, (new, number) = carry
        logits, cache = ahead(decoder, texts)
        keys = jax.vmap(jax.random.fold_in, (0, None))(texts.keys, texts.length)
        token = choose(logits, sampling, keys, tokens)
        token = jnp.where(texts.stopped, texts.stop, token)
        return texts.append(token, cache), (new.at[:, number].set(token), number + 1)

    new = jnp.zeros((texts.window.shape[0], PIECE), jnp.int32)
    return jax.lax.while_loop(unfinished, step, (texts, (new, jnp.int32(0))))


class Programs(NamedTuple):
    """What runs on the device, to be compiled; the texts may be donated to it."""

    prefill: Callable[..., Cache] = prefill
    cached: Callable[..., tuple[Texts, Piece]] = cached
    sliding: Callable[..., tuple[Texts, Piece]] = sliding


def row_keys(seed: int, rows: Int[np.ndarray, " batch"]) -> Key[Array, " batch"]:
    """A key for each sample, whatever the batch that it is in."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), rows)


def stream(
    decoder: Decoder,
    prompt: Int[np.ndarray, "batch seq"],
    count: int,
    sampling: Sampling,
    keys: Key[Array, " batch"],
    *,
    tokens: int,
    stop: int = -1,
    programs: Programs = Programs(),  # noqa: B008
) -> Iterator[Int32[np.ndarray, "batch new"]]:
    """New tokens in pieces, the first of them one token long.

    Ends early when all rows have stopped. One that has stopped repeats its last token.

    Args:
        decoder: the model.
        prompt: at least one token a row. Of one longer than the model's positions, the
            last ones are seen.
        count: of new tokens.
        sampling: how they are drawn.
        keys: one for each row.
        tokens: different ones; the embedding may have more rows.
        stop: the token that ends a row; -1 for none.
        programs: the programs of this module, compiled.

    Raises:
        ValueError: if the prompt has no tokens, or some that the model has not.
    """
    _check(prompt, tokens)
    texts = _begin(decoder, prompt, keys, stop, programs.prefill)
    last: tuple[Piece, int] | None = None
    block = texts.window.shape[1]
    for fits, limit in _pieces(prompt.shape[1], count, block):
        program = programs.cached if fits else programs.sliding
        texts, piece = program(decoder, texts, jnp.int32(limit), sampling, tokens)
        # The device goes on while the host looks at the piece before.
        if last is not None:
            yield (found := _fetch(last[0]))
            if found.shape[1] < last[1]:
                return
        last = piece, limit
    if last is not None:
        yield _fetch(last[0])


def _check(prompt: Int[np.ndarray, "batch seq"], tokens: int) -> None:
    require(
        prompt.size > 0,
        "A prompt must have at least one token: got none. Begin with a newline.",
    )
    require(
        bool((prompt >= 0).all() and (prompt < tokens).all()),
        f"The tokens of a prompt must lie in 0 .. {tokens - 1}: got {prompt.min()} .. "
        f"{prompt.max()}. Encode it with the tokenizer of the model's data.",
    )


def _begin(
    decoder: Decoder,
    prompt: Int[np.ndarray, "batch seq"],
    keys: Key[Array, " batch"],
    stop: int,
    prefill: Callable[..., Cache],
) -> Texts:
    """The prompt, and the cache of all of its tokens but the last."""
    (batch, length), block = prompt.shape, decoder.positions.shape[0]
    window = np.zeros((batch, block), np.int32)
    window[:, :length] = prompt[:, -block:]
    if 1 < length <= block:
        padded = min(max(_SHORTEST, 1 << (length - 2).bit_length()), block)
        cache = prefill(decoder, jnp.asarray(window[:, :padded]))
    else:
        cache = decoder.empty(batch)
    return Texts(
        window=jnp.asarray(window),
        length=jnp.int32(length),
        cache=cache,
        keys=jnp.copy(keys),  # it may be donated
        stop=jnp.int32(stop),
        stopped=jnp.zeros(batch, bool),
    )


def _pieces(length: int, count: int, block: int) -> Iterator[tuple[bool, int]]:
    """Of each call: whether the text fits the window, and the most new tokens."""
    done = 0
    while done < count:
        most = min(count - done, PIECE if done else 1)
        room = block + 1 - (length + done)
        most = min(most, room) if room > 0 else most
        yield room > 0, most
        done += most


def _fetch(piece: Piece) -> Int32[np.ndarray, "batch new"]:
    """The tokens of a piece, on the host."""
    new, number = jax.device_get(piece)
    return new[:, :number]
