"""Options beyond GPT-2, against NumPy and in generation."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import GPTConfig, UserError
from data.text.dataset import Tokens
from gpt.decode import Decoder
from gpt.hugging_face import save_hugging_face
from gpt.model import GPT, blocks_in_a_row, build_gpt
from gpt.objective import next_token_loss
from gpt.size import count_parameters, flops_per_token
from gpt.weights import from_named, to_named
from tests.rows import plain_places

TOKENS, SEQ = 14, 9
PLAIN = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=SEQ, bias=True)
OPTIONS: dict[str, dict[str, Any]] = {
    "rope": {"positions": "rope", "rope_theta": 100.0},
    "rms": {"norm": "rms"},
    "qk_norm": {"qk_norm": True},
    "relu2": {"activation": "relu2"},
    "swiglu": {"activation": "swiglu"},
    "untied": {"tied_head": False},
    "cap": {"logit_cap": 2.0},
    "loops": {"loops": "1-1x3"},
    "wide": {"expansion": 6.0},
    "rows": {"labels": 2, "tied_head": False, "positions": "rope3d", "n_head": 1},
}
ALL = {
    k: v
    for name in OPTIONS
    if name not in ("swiglu", "wide", "rows")
    for k, v in OPTIONS[name].items()
}
OPTIONS |= {"all": ALL, "all with swiglu": ALL | OPTIONS["swiglu"]}


def build(options: dict[str, Any]) -> tuple[GPTConfig, GPT]:
    """A model with large weights and vectors, so that every part matters."""
    config = replace(PLAIN, **options)
    model = build_gpt(config, tokens=TOKENS, key=jax.random.key(0))
    leaves, structure = jax.tree.flatten(model)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    draw = lambda key, leaf: leaf + 0.3 * jax.random.normal(key, leaf.shape)
    return config, jax.tree.unflatten(structure, list(map(draw, keys, leaves)))


def drawn(batch: int = 2, seed: int = 0) -> np.ndarray:
    """Tokens; some are the end of a line of ARC, and the separator."""
    return np.random.default_rng(seed).integers(0, TOKENS, (batch, SEQ))


def oracle(config: GPTConfig, model: Any, tokens: np.ndarray) -> np.ndarray:
    """Logits of one text in float64."""
    model = jax.tree.map(lambda a: np.asarray(a, np.float64), model)
    seq, heads, width = len(tokens), config.n_head, config.head_dim

    def norm(x: np.ndarray, layer: Any) -> np.ndarray:
        if config.norm == "rms":
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * layer[0] + layer[1]

    def angle_at(p: int, i: int) -> float:
        half = width // 2
        if config.positions == "rope":
            return p / config.rope_theta ** (i / half)
        third = half // 3
        axis = min(i // third, 2)
        size = half - 2 * third if axis == 2 else third
        return places[p][axis] / config.rope_theta ** ((i - axis * third) / size)

    places = plain_places(tokens)

    def turn(x: np.ndarray) -> np.ndarray:
        if config.positions == "learned":
            return x
        out = np.empty_like(x)
        for p in range(seq):
            for i in range(width // 2):
                angle = angle_at(p, i)
                turned = x[p, i] + 1j * x[p, i + width // 2]
                turned = turned * np.exp(1j * angle)
                out[p, i], out[p, i + width // 2] = turned.real, turned.imag
        return out

    def activate(x: np.ndarray) -> np.ndarray:
        if config.activation == "relu2":
            return np.maximum(x, 0.0) ** 2
        if config.activation == "swiglu":
            gate, up = x[:, : config.hidden], x[:, config.hidden :]
            return gate / (1.0 + np.exp(-gate)) * up
        return np.asarray(jax.nn.gelu(x, approximate=False), np.float64)

    x = model.embedding.weight[tokens]
    x = x + sum(x[: config.labels])
    if model.positions is not None:
        x = x + model.positions[:seq]
    layers = model.blocks.layers
    for n in {"": [0, 1], "1-1x3": [0, 1, 1, 1]}[config.loops]:
        of = lambda field, n=n: (
            None if config.norm == "rms" else (field.weight[n], field.bias[n])
        )
        linear = lambda x, field, n=n: x @ field.weight[n] + field.bias[n]
        qkv = linear(norm(x, of(layers.attention_norm)), layers.qkv)
        mixed = np.zeros((seq, config.n_embd))
        for h in range(heads):
            cut = [slice(k * config.n_embd + h * width, None) for k in range(3)]
            q, k, v = (qkv[:, c][:, :width] for c in cut)
            if config.qk_norm:
                rms = lambda a: a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-5)
                q, k = rms(q), rms(k)
            q, k = turn(q), turn(k)
            for p in range(seq):
                scores = np.exp(q[p] @ k[: p + 1].T / np.sqrt(width))
                weights = scores / scores.sum()
                mixed[p, h * width : (h + 1) * width] = weights @ v[: p + 1]
        x = x + linear(mixed, layers.attention_out)
        hidden = activate(linear(norm(x, of(layers.mlp_norm)), layers.up))
        x = x + linear(hidden, layers.down)
    last = None if config.norm == "rms" else (model.norm.weight, model.norm.bias)
    head = model.embedding.weight if model.head is None else model.head.weight
    logits = norm(x, last) @ head.T
    cap = config.logit_cap
    return cap * np.tanh(logits / cap) if cap else logits


ALONE = [name for name in OPTIONS if not name.startswith("all")]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ALONE]


@pytest.mark.parametrize("name", ["all", "all with swiglu", "rows", *SLOW[:-1]])
def test_against_numpy(name: str) -> None:
    config, model = build(OPTIONS[name])
    tokens = drawn()
    got = np.asarray(model(jnp.asarray(tokens)))
    for text, logits in zip(tokens, got, strict=True):
        np.testing.assert_allclose(
            logits, oracle(config, model, text), rtol=2e-4, atol=2e-4
        )


@pytest.mark.parametrize("name", ["all", "rows", *SLOW[:1]])
def test_the_cache_changes_nothing(name: str) -> None:
    """Logits after every token, for prompts padded on the right."""
    _, model = build(OPTIONS[name])
    tokens = jnp.asarray(drawn())
    expected, decoder = np.asarray(model(tokens)), Decoder(model)
    prompt = jnp.pad(tokens[:, :3], ((0, 0), (0, 2)))
    _, memory = decoder.prefill(prompt)
    decode = jax.jit(Decoder.decode)
    for position in range(3, SEQ):
        so_far = jnp.where(jnp.arange(SEQ) <= position, tokens, 0)
        here = tokens[:, position], jnp.int32(position), so_far
        logits, memory = decode(decoder, memory, *here)
        np.testing.assert_allclose(logits, expected[:, position], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["all", "rows"])
def test_a_later_token_changes_nothing_before_it(name: str) -> None:
    _, model = build(OPTIONS[name])
    tokens = jnp.asarray(drawn())
    changed = tokens.at[:, 5].set((tokens[:, 5] + 1) % TOKENS)
    difference = jnp.abs(model(tokens) - model(changed)).max((0, 2))
    assert float(difference[:5].max()) == 0.0
    assert float(difference[5:].min()) > 0.0


@pytest.mark.parametrize(
    "name", ["all", pytest.param("all with swiglu", marks=pytest.mark.slow)]
)
def test_gradients_are_those_of_the_logits(name: str) -> None:
    """Of every leaf, through the loss in chunks."""
    _, model = build(OPTIONS[name])
    tokens = jnp.asarray(drawn(4))
    batch = Tokens(tokens[:, :-1], tokens[:, 1:])

    def plain(model: GPT) -> jax.Array:
        log_p = jax.nn.log_softmax(model(batch.inputs))
        return -jnp.sum(jnp.take_along_axis(log_p, batch.targets[..., None], axis=-1))

    def ours(model: GPT) -> jax.Array:
        return next_token_loss(model, (), batch, None, chunk=5)[0]

    got, expected = jax.grad(ours)(model), jax.grad(plain)(model)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        scale = float(jnp.abs(b).max())
        assert scale > 0.0
        np.testing.assert_allclose(a / scale, b / scale, atol=2e-5)


@pytest.mark.parametrize("options", [{}, {"unroll": 2}, {"remat": True}])
def test_a_loop_made_once_changes_no_bit(options: dict[str, Any]) -> None:
    tokens = jnp.asarray(drawn(4))
    batch = Tokens(tokens[:, :-1], tokens[:, 1:])
    results = []
    for loops in ("", "0-1x1"):
        _, model = build({"loops": loops, **options})
        loss = lambda m: next_token_loss(m, (), batch, None, chunk=64)[0]
        results.append(jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(model)))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loop_is_a_deeper_model_with_shared_weights() -> None:
    """Also with dropout: blocks that share weights draw differently."""
    config, looped = build({"loops": "0-1x2", "dropout": 0.5})
    deep = build_gpt(
        replace(config, n_layer=4, loops=""), tokens=TOKENS, key=jax.random.key(0)
    )
    repeated = jax.tree.map(lambda a: jnp.concatenate([a, a]), looped.blocks.layers)
    rest = eqx.tree_at(lambda m: m.blocks, looped, deep.blocks)
    leaves = jax.tree.leaves(eqx.tree_at(lambda m: m.blocks.layers, rest, repeated))
    deep = jax.tree.unflatten(jax.tree.structure(deep), leaves)
    keys = jax.random.split(jax.random.key(5), 2)
    tokens = jnp.asarray(drawn())
    for drop in (None, keys):
        got, expected = looped(tokens, drop), deep(tokens, drop)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_zero_init_begins_with_equal_logits_and_learns_everywhere() -> None:
    config = replace(PLAIN, zero_init=True, tied_head=False, bias=False)
    model = build_gpt(config, tokens=TOKENS, key=jax.random.key(0))
    tokens = jnp.asarray(drawn(4))
    batch = Tokens(tokens[:, :-1], tokens[:, 1:])
    np.testing.assert_array_equal(model(tokens), 0.0)
    layers = model.blocks.layers
    assert not np.any(layers.attention_out.weight)
    assert not np.any(layers.down.weight)
    gradient = jax.grad(lambda m: next_token_loss(m, (), batch, None, chunk=64)[0])
    first = model
    for _ in range(3):
        step = jax.tree.map(lambda g: -0.1 * g, gradient(model))
        model = eqx.apply_updates(model, step)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(model), strict=True):
        assert np.any(a != b)


def test_flops_by_hand() -> None:
    """An untied embedding costs nothing; a block costs as often as it is computed."""
    config = replace(PLAIN, bias=False, **OPTIONS["all with swiglu"])
    model = build_gpt(config, tokens=TOKENS, key=jax.random.key(0))
    dim, hidden = 16, 64  # 8 / 3 * 16 = 42.7, up to a multiple of 64
    block = 3 * dim * dim + dim * dim + 3 * dim * hidden
    assert count_parameters(model) == 2 * block + 2 * TOKENS * dim
    weights = 4 * block + TOKENS * dim
    assert flops_per_token(model) == 6 * weights + 12 * 4 * dim * SEQ


@pytest.mark.parametrize(
    ("loops", "order"),
    [
        ("", (0, 1, 2, 3, 4, 5)),
        ("2-3x2", (0, 1, 2, 3, 2, 3, 4, 5)),
        ("0-0x3,4-5x2", (0, 0, 0, 1, 2, 3, 4, 5, 4, 5)),
    ],
)
def test_order_of_loops(loops: str, order: tuple[int, ...]) -> None:
    assert GPTConfig(n_layer=6, n_head=2, n_embd=16, loops=loops).order == order


@pytest.mark.parametrize("name", ALONE)
def test_gpt2s_names_are_for_gpt2(name: str, tmp_path: Any) -> None:
    """Such weights are neither written nor read."""
    _, model = build(OPTIONS[name])
    word = next(iter(OPTIONS[name]))
    with pytest.raises(UserError, match=f"{word}="):
        save_hugging_face(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    _, plain = build({})
    with pytest.raises(UserError, match=f"{word}="):
        from_named(to_named(plain, "hugging_face"), model, "hugging_face")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"positions": "rope", "n_head": 16}, "even head width"),
        ({"logit_cap": -1.0}, "logit_cap"),
        ({"rope_theta": 0.0}, "rope_theta"),
        ({"loops": "1-2x2"}, "blocks from 0 to 1"),
        ({"loops": "1-0x2"}, "FIRST-LASTxTIMES"),
        ({"loops": "1-1x2,0-0x2"}, "ascending"),
        ({"loops": "0-1x0"}, "once or more"),
        ({"loops": "1x2"}, "`4-5x3`"),
        ({"positions": "rope3d", "n_head": 4}, "width of 6"),
        ({"labels": 2}, "tied_head=False"),
        ({"expansion": 0.0}, "expansion"),
    ],
)
def test_bad_settings(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(PLAIN, **bad)


@pytest.mark.parametrize(
    ("backend", "options", "expected"),
    [
        ("cpu", {}, 1),
        ("gpu", {}, 2),
        ("tpu", {}, 2),
        ("tpu", {"loops": "1-1x3"}, 4),
        ("tpu", {"remat": True}, 1),
        ("tpu", {"remat": True, "unroll": 2}, 2),
    ],
)
def test_blocks_in_a_row(backend: str, options: dict[str, Any], expected: int) -> None:
    assert blocks_in_a_row(replace(PLAIN, **options), backend) == expected
