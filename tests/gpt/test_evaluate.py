"""`python -m gpt.evaluate`, against a plain evaluation token by token."""

import json
from collections import Counter
from functools import cache
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import GPTConfig, UserError
from data.text.tokenizer import Characters
from data.text.unknown import describe, known
from gpt.evaluate import evaluate, main
from gpt.hugging_face import save_hugging_face
from gpt.model import GPT, build_gpt
from gpt.perplexity import ratio

CHARACTERS = "\n abcdefghijklé"
VOCAB, BLOCK = len(CHARACTERS), 8
SHAPE = GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=BLOCK)


@cache
def model() -> GPT:
    built = build_gpt(SHAPE, tokens=VOCAB, key=jax.random.key(0))
    return jax.tree.map(lambda a: 5 * a, built)


def text(length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(VOCAB, size=length, dtype=np.uint16)


# -- against the definition ------------------------------------------------------------


@pytest.mark.parametrize("stride", [8, 3, 1])
def test_every_token_is_scored_once(stride: int) -> None:
    """Each with the context that `windows` promises; alone in its sequence."""
    tokens = text(30)
    logits = eqx.filter_jit(model())
    nats = []
    for at in range(1, len(tokens)):
        end = (at - 1) // stride * stride + stride  # of the window that scores it
        context = tokens[max(0, end - BLOCK) : at].astype(np.int32)
        assert len(context) >= min(at, BLOCK - stride + 1)
        padded = np.pad(context, (0, BLOCK - len(context)))  # compiled once
        likely = jax.nn.log_softmax(logits(jnp.asarray(padded)[None])[0])
        nats.append(-float(likely[len(context) - 1, tokens[at]]))
    lengths = Characters(CHARACTERS).byte_lengths()
    assert lengths.sum() == VOCAB + 1  # é has two bytes
    found = evaluate(model(), tokens, lengths, stride=stride, batch=2)
    size = lengths[tokens[1:]].sum()
    assert (found["tokens"], found["bytes"]) == (29, size)
    assert found["loss"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(nats)), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(
        np.sum(nats) / np.log(2) / size, rel=1e-5
    )


def test_standard_errors() -> None:
    """Equal groups have the usual error, others the deviation of repetitions."""
    rng = np.random.default_rng(0)
    totals = rng.normal(size=50)
    usual = totals.std(ddof=1) / np.sqrt(50)
    assert ratio(totals, np.ones(50))[1] == pytest.approx(usual)
    assert ratio(totals[:1], np.ones(1)) == (totals[0], None)
    weights = rng.integers(5, 20, (500, 50)).astype(float)
    drawn = 3 * weights + rng.normal(size=weights.shape) * weights
    means, errors = zip(*map(ratio, drawn, weights), strict=True)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


def test_a_uniform_model() -> None:
    """Its loss is known, and has no error."""
    flat = eqx.tree_at(lambda m: m.embedding.weight, model(), jnp.zeros((VOCAB, 16)))
    found = evaluate(flat, text(100), None, stride=8, batch=4)
    assert found["loss"] == pytest.approx(np.log(VOCAB))
    assert found["perplexity"] == pytest.approx(VOCAB)
    assert found["loss_error"] == pytest.approx(0, abs=1e-6)
    assert "bits_per_byte" not in found


# -- characters that the vocabulary lacks ----------------------------------------------


def test_unknown_characters_are_left_out_and_counted() -> None:
    left_out: Counter[str] = Counter()
    pieces = list(known(["abXc", "YaX", "é"], Characters(CHARACTERS), left_out))
    assert pieces == ["abc", "a", "é"]
    assert left_out == {"X": 2, "Y": 1}
    assert describe(left_out).startswith("3 characters")
    assert describe(Counter()) == ""


# -- the command -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in the format of Hugging Face, in a folder with a dataset beside it."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "data").mkdir()
    Characters(CHARACTERS).write(folder / "data")
    for split in ("train", "val"):
        text(90).tofile(folder / "data" / f"{split}.bin")
    save_hugging_face(model(), folder / "model", None)
    return folder


def test_a_dataset_and_the_same_text(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first 50 tokens, and a character that is unknown."""
    words = Characters(CHARACTERS).decode(text(90))
    file = tmp_path / "text.txt"
    file.write_text(words[:20] + "X" + words[20:], encoding="utf-8")
    common = ["--hf-dir", str(exported / "model"), "--data", str(exported / "data")]
    common += ["--tokens", "50", "--out", str(tmp_path / "found.json")]
    results = []
    main(common)
    results.append(json.loads((tmp_path / "found.json").read_text())["result"])
    with pytest.warns(UserWarning, match=r"1 characters .*'X' \(1\)"):
        main([*common, "--text", str(file)])
    results.append(json.loads((tmp_path / "found.json").read_text())["result"])
    assert results[0] == results[1]
    lengths = Characters(CHARACTERS).byte_lengths()
    expected = evaluate(model(), text(51), lengths, stride=8, batch=8)
    assert results[0] == pytest.approx(expected, rel=1e-5)
    out = capsys.readouterr().out
    assert f"{expected['loss']:.4f}" in out
    assert f"{expected['bits_per_byte']:.4f}" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hf-dir", "MODEL"], "--text"),
        (["--hf-dir", "MODEL", "--data", "DATA", "--stride", "9"], "8"),
        (["--hf-dir", "MODEL", "--data", "DATA", "--text", "nowhere"], "nowhere"),
        (["--hf-dir", "MODEL", "--data", "DATA", "--tokens", "0"], "tokens"),
        (["--hf-dir", "MODEL", "--run-dir", "DATA"], "2 of them"),
    ],
)
def test_errors(exported: Path, words: list[str], message: str) -> None:
    places = {"MODEL": str(exported / "model"), "DATA": str(exported / "data")}
    with pytest.raises(UserError, match=message):
        main([places.get(word, word) for word in words])
