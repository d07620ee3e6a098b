"""Generation against nanoGPT, with and without the cache; draws of tokens."""

from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gpt.decode
from configs import GPTConfig, UserError
from gpt.decode import CHUNK, Decoder, generate, row_keys
from gpt.model import GPT, build_gpt
from gpt.sampling import Sampling, sample_token
from tests.gpt_golden import CASES, GPTGolden

BLOCK, TOKENS, ROWS = 12, 30, 33
GREEDY = Sampling(temperature=0.0)


@cache
def model(block: int = BLOCK, bias: bool = True) -> GPT:
    """A model of large weights, so that no two tokens are almost equally likely."""
    config = GPTConfig(
        n_layer=3, n_head=2, n_embd=16, block_size=block, vocab_size=ROWS, bias=bias
    )
    built = build_gpt(config, tokens=TOKENS, key=jax.random.key(0))
    leaves, structure = jax.tree.flatten(built)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    draw = lambda key, leaf: leaf + 0.5 * jax.random.normal(key, leaf.shape)
    return jax.tree.unflatten(structure, list(map(draw, keys, leaves)))


def prompt(length: int, batch: int = 3) -> np.ndarray:
    return np.random.default_rng(length).integers(0, TOKENS, (batch, length), np.int32)


def write(
    tokens: np.ndarray,
    count: int,
    sampling: Sampling = GREEDY,
    *,
    of: GPT | None = None,
    seed: int = 0,
    rows: np.ndarray | None = None,
    vocab: int = TOKENS,
    **options: Any,
) -> list[np.ndarray]:
    """The chunks that `generate` yields."""
    keys = row_keys(seed, np.arange(len(tokens)) if rows is None else rows)
    decoder, options = Decoder(of or model()), {"tokens": vocab, **options}
    return list(generate(decoder, tokens, count, sampling, keys, **options))


def joined(*args: Any, **options: Any) -> np.ndarray:
    return np.concatenate(write(*args, **options), axis=1)


def generate_plainly(model: GPT, tokens: np.ndarray, count: int) -> np.ndarray:
    """The likeliest tokens, by the whole model for each of them."""
    block = model.positions.shape[0]
    forward = jax.jit(GPT.__call__)
    for _ in range(count):
        window = tokens[:, -block:]
        last = window.shape[1] - 1
        padded = np.pad(window, ((0, 0), (0, block - window.shape[1])))
        logits = np.asarray(forward(model, padded))[:, last, :TOKENS]
        tokens = np.append(tokens, logits.argmax(-1)[:, None], axis=1)
    return tokens[:, -count:]


# -- what is written -------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_nanogpts_tokens(name: str) -> None:
    golden = GPTGolden(name)
    start, expected = (golden.arrays[f"generate/{k}"] for k in ("prompt", "greedy"))
    new = joined(
        start,
        expected.shape[1] - start.shape[1],
        Sampling(top_k=1),
        of=golden.model("weights_after"),
        vocab=golden.options["vocab_size"],
    )
    np.testing.assert_array_equal(new, expected[:, start.shape[1] :])


@pytest.mark.parametrize("length", [1, 2, 5, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 9])
def test_the_cache_changes_nothing(length: int) -> None:
    """In the window and beyond it."""
    start = prompt(length)
    new = joined(start, 20)
    assert len(np.unique(new)) > 2
    np.testing.assert_array_equal(new, generate_plainly(model(), start, 20))


@pytest.mark.slow
def test_logits_of_the_cache_are_those_of_the_model() -> None:
    """After every token; in 16 bits up to rounding."""
    tokens = jnp.asarray(prompt(BLOCK))
    expected = np.asarray(model(bias=False)(tokens))
    decode = jax.jit(Decoder.decode)
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 0.05)):
        cast = jax.tree.map(lambda a, to=dtype: a.astype(to), model(bias=False))
        decoder = Decoder(cast)
        _, memory = decoder.prefill(tokens[:, :3])
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(memory))
        assert size == len(tokens) * decoder.cache_bytes
        for position in range(3, BLOCK):
            here = tokens[:, position], jnp.int32(position)
            logits, memory = decode(decoder, memory, *here)
            assert logits.dtype == jnp.float32
            error = np.abs(np.asarray(logits) - expected[:, position]).max()
            assert error < tolerance * np.abs(expected).max()


def test_chunks() -> None:
    """The first chunk is one token; no token is lost."""
    chunks = write(prompt(4), 2 * CHUNK + 3, of=model(64))
    assert [chunk.shape for chunk in chunks] == [(3, 1), (3, 16), (3, 16), (3, 2)]
    assert all(chunk.dtype == np.int32 for chunk in chunks)
    assert [c.shape[1] for c in write(prompt(4), 1)] == [1]
    assert write(prompt(4), 0) == []


def test_the_device_is_a_chunk_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next chunk is computed while one is yielded."""
    calls = []
    decode = gpt.decode.decode_cached
    count = lambda *inputs: (calls.append(1), decode(*inputs))[1]
    monkeypatch.setattr(gpt.decode, "decode_cached", count)
    decoder = Decoder(model(64))
    keys = row_keys(0, np.arange(3))
    chunks = generate(decoder, prompt(4), CHUNK + 2, GREEDY, keys, tokens=TOKENS)
    seen = [len(calls) for _ in chunks]
    assert seen == [2, 3, 3]


def test_nothing_is_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the lengths of prompts (up to 16 tokens) and texts."""
    traces = []

    def counted(name: str) -> Callable[..., Any]:
        body = getattr(gpt.decode, name).__wrapped__

        def run(*inputs: Any) -> Any:
            traces.append(name)
            return body(*inputs)

        return eqx.filter_jit(run)

    names = ["decode_cached", "decode_window", "prefill"]
    for name in names:
        monkeypatch.setattr(gpt.decode, name, counted(name))
    for length, count in ((3, 20), (5, 31), (11, 2), (1, 14), (30, 3)):
        write(prompt(length), count)
    assert sorted(traces) == names


def test_products_of_float32_weights_are_exact() -> None:
    """Also on a GPU or TPU. Products in 16 bits are not."""
    for dtype, exact in ((jnp.float32, True), (jnp.bfloat16, False)):
        decoder = Decoder(jax.tree.map(lambda a, to=dtype: a.astype(to), model()))
        state = gpt.decode.begin(decoder, prompt(3), row_keys(0, np.arange(3)), -1)
        inputs = decoder, state, jnp.int32(1), GREEDY, TOKENS
        for program in (gpt.decode.decode_cached, gpt.decode.decode_window):
            text = program.lower(*inputs).as_text()
            assert ("precision = [HIGHEST, HIGHEST]" in text) == exact


# -- randomness ------------------------------------------------------------------------


def test_seeds() -> None:
    again = lambda seed: joined(prompt(3), 16, Sampling(), seed=seed)
    np.testing.assert_array_equal(again(1), again(1))
    assert (again(1) != again(2)).mean() > 0.5


@pytest.mark.slow
def test_rows_do_not_depend_on_the_batch() -> None:
    """Equal prompts get different texts."""
    start = np.tile(prompt(3, 1), (4, 1))
    several = joined(start, 20, Sampling())
    assert len({row.tobytes() for row in several}) == 4
    for row in (0, 3):
        alone = joined(start[:1], 20, Sampling(), rows=np.array([row]))
        np.testing.assert_array_equal(alone[0], several[row])


def probabilities(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Probabilities of all tokens by sorting."""
    scaled = logits / sampling.temperature
    order = np.argsort(-scaled, kind="stable")
    p = np.exp(scaled - scaled.max())
    if sampling.top_k is not None:
        p[order[sampling.top_k :]] = 0.0
    p /= p.sum()
    nucleus, mass = np.zeros_like(p), 0.0
    for token in order:
        if mass >= sampling.top_p:
            break
        nucleus[token], mass = p[token], mass + p[token]
    return nucleus / nucleus.sum()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(top_k=4),
        Sampling(top_k=10**6),
        Sampling(top_p=0.8),
        Sampling(top_p=1e-6),
        Sampling(top_p=1e-300),
        Sampling(temperature=1e-6),
        Sampling(temperature=1e6),
        Sampling(temperature=1.7, top_k=6, top_p=0.7),
        Sampling(top_k=1),
        Sampling(temperature=0.0),
    ],
)
def test_draws_against_sorting(sampling: Sampling) -> None:
    """20,000 draws have the expected frequencies."""
    logits = 1.5 * np.random.default_rng(3).standard_normal(14).astype(np.float32)
    padded = np.append(logits, np.float32([50.0, 60.0]))  # stand for no tokens
    draws = 20000
    keys = jax.random.split(jax.random.key(0), draws)
    rows = jnp.broadcast_to(padded, (draws, 16))
    drawn = np.asarray(sample_token(rows, sampling, keys, 14))
    counts = np.bincount(drawn, minlength=14)
    assert counts.shape == (14,)
    if sampling.greedy:
        assert counts[logits.argmax()] == draws
        return
    expected = probabilities(logits.astype(np.float64), sampling)
    assert not counts[expected == 0.0].any()
    spread = np.sqrt(draws * expected * (1 - expected))
    assert (np.abs(counts - draws * expected) <= 4.5 * spread + 1e-9).all()


def test_equals_of_the_last_of_the_top_k_are_kept() -> None:
    """As in nanoGPT."""
    logits = jnp.broadcast_to(jnp.array([0.0, 2.0, 1.0, 1.0]), (500, 4))
    keys = jax.random.split(jax.random.key(0), 500)
    drawn = sample_token(logits, Sampling(top_k=2), keys, 4)
    assert set(np.asarray(drawn)) == {1, 2, 3}


def test_padding_is_never_written() -> None:
    """Rows of the embedding beyond the vocabulary are never drawn."""
    likely = model().embedding.weight.at[TOKENS:].set(9 * model().embedding.weight[:3])
    loud = eqx.tree_at(lambda m: m.embedding.weight, model(), likely)
    for sampling in (GREEDY, Sampling()):
        assert joined(prompt(3), 8, sampling, of=loud).max() < TOKENS
    assert joined(prompt(3), 8, of=loud, vocab=ROWS).max() >= TOKENS


# -- the end ---------------------------------------------------------------------------


def test_a_stop_token_ends_a_row() -> None:
    """Other rows do not change; generation ends when all rows have it."""
    start, sampling = prompt(3, 4), Sampling(temperature=2.0)
    free = joined(start, 200, sampling, of=model(64))
    stop = int(free[0, 5])
    ends = [int(np.argmax(row == stop)) for row in free]
    assert all(row[end] == stop for row, end in zip(free, ends, strict=True))
    stopped = joined(start, 200, sampling, of=model(64), stop=stop)
    assert stopped.shape == (4, max(ends) + 1)
    for row, expected, end in zip(stopped, free, ends, strict=True):
        np.testing.assert_array_equal(row[: end + 1], expected[: end + 1])
        assert (row[end:] == stop).all()


# -- errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 1e-7}, "temperature"),
        ({"temperature": 1e39}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
    ],
)
def test_bad_sampling(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampling(**bad)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((1, 0), np.int32), "empty"),
        (np.array([[0, TOKENS]]), "0 .. 29"),
        (np.array([[-1]]), "0 .. 29"),
    ],
)
def test_bad_prompts(tokens: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write(tokens, 1)
