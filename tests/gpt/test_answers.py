"""Answers to test inputs: the whole model's likeliest tokens, in batches of a size."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from configs import GPTConfig
from data.puzzles.arc.rows import (
    END,
    FIRST_TASK,
    OUTPUTS,
    answer_of,
    longest_row,
    prompt_of,
)
from gpt.answers import answers, batches_of
from gpt.decode import Decoder
from gpt.model import GPT, build_gpt

RNG = np.random.default_rng(0)
BLOCK = longest_row(3) - 1


def model() -> GPT:
    """Weights so large that answers differ, with many line ends and few ends."""
    config = GPTConfig(
        n_layer=2,
        n_head=2,
        n_embd=16,
        block_size=BLOCK,
        positions="rope3d",
        labels=2,
        tied_head=False,
    )
    built = build_gpt(config, tokens=FIRST_TASK + 4, key=jax.random.key(0))
    leaves, structure = jax.tree.flatten(built)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    draw = lambda key, leaf: leaf + 0.5 * jax.random.normal(key, leaf.shape)
    return jax.tree.unflatten(structure, list(map(draw, keys, leaves)))


def prompt(rows: int, columns: int) -> np.ndarray:
    labels = FIRST_TASK + RNG.integers(4), OUTPUTS + RNG.integers(8)
    given = RNG.integers(0, 10, (rows, columns), np.uint8)
    return prompt_of(np.array(labels, np.int32), given)


def test_answers_are_those_of_the_whole_model() -> None:
    """Without the cache, each by itself; the order and the batch do not matter."""
    built = model()
    prompts = [prompt(*shape) for shape in ((1, 1), (2, 2), (1, 1), (3, 1), (2, 2))]
    prompts += [prompt(1, 1) for _ in range(4)]
    forward = eqx.filter_jit(lambda tokens: built(tokens))
    found: dict[int, list] = {}
    written: dict[int, list] = {}
    for batch in (1, 4):
        for numbers, grids in answers(Decoder(built), prompts, batch):
            assert len(numbers) <= batch
            found |= dict(zip(numbers, grids, strict=True))
        assert sorted(found) == list(range(len(prompts)))
        for number, start in enumerate(prompts):
            tokens = start.tolist()
            while len(tokens) < BLOCK + 1 and tokens[-1] != END:
                padded = np.zeros((1, BLOCK), np.int32)
                padded[0, : len(tokens)] = tokens
                logits = forward(jnp.asarray(padded))[0, len(tokens) - 1]
                assert logits.shape == (OUTPUTS,)
                tokens.append(int(jnp.argmax(logits)))
            written[number] = tokens[len(start) :]
            expected = answer_of(np.array(written[number]))
            assert (found[number] is None) == (expected is None)
            if expected is not None:
                np.testing.assert_array_equal(found[number], expected)
    assert len({str(tokens) for tokens in written.values()}) > 4


def test_batches_have_prompts_of_one_length() -> None:
    prompts = [prompt(*shape) for shape in ((2, 2), (1, 1), (2, 2), (2, 2), (1, 1))]
    assert batches_of(prompts, 2) == [[1, 4], [0, 2], [3]]
