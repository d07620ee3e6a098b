"""The loss of a GPT does not depend on its chunks."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from data.text.dataset import IGNORE
from gpt.loss import summed_cross_entropy
from tests.tiny import assert_close

VOCAB = 7


def case(tokens: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The head's input, the head, and targets with some `IGNORE`."""
    keys = jax.random.split(jax.random.key(tokens), 3)
    targets = jax.random.randint(keys[2], (tokens,), -1, VOCAB)
    assert int((targets == IGNORE).sum()) > 0
    return (
        jax.random.normal(keys[0], (tokens, 5)),
        jax.random.normal(keys[1], (VOCAB, 5)),
        targets,
    )


def plain(x: jax.Array, head: jax.Array, targets: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(x @ head.T)
    right = jnp.take_along_axis(log_p, targets[:, None], axis=1)[:, 0]
    return -jnp.sum(jnp.where(targets == IGNORE, 0.0, right))


@pytest.mark.parametrize("chunk", [1, 4, 10, 23, 100])
def test_chunks_are_the_whole(chunk: int) -> None:
    """Also if they do not divide the number of tokens."""
    x, head, targets = case(23)
    pull = lambda loss: jax.value_and_grad(loss, (0, 1))(x, head)
    found = pull(lambda x, head: summed_cross_entropy(x, head, targets, chunk))
    assert_close(found, pull(lambda x, head: plain(x, head, targets)))
    without = summed_cross_entropy(x, head, targets, chunk)
    assert_close(without, found[0])


def test_a_cap_bends_the_logits() -> None:
    """Value and gradients against JAX's own."""
    x, head, targets = case(23)

    def bent(x: jax.Array, head: jax.Array) -> jax.Array:
        log_p = jax.nn.log_softmax(1.5 * jnp.tanh(x @ head.T / 1.5))
        right = jnp.take_along_axis(log_p, targets[:, None], axis=1)[:, 0]
        return -jnp.sum(jnp.where(targets == IGNORE, 0.0, right))

    ours = lambda x, head: summed_cross_entropy(x, head, targets, 10, 1.5)
    pull = lambda loss: jax.value_and_grad(loss, (0, 1))(x, head)
    assert_close(pull(ours), pull(bent))


@pytest.mark.parametrize(("tokens", "chunks"), [(2048, 1), (2053, 2), (6144, 3)])
def test_chunks_are_as_few_as_can_be(tokens: int, chunks: int) -> None:
    """2053 is prime: not 2053 chunks of one token."""
    x, head, targets = case(tokens)
    loss: Any = lambda x: summed_cross_entropy(x, head, targets, 2048)
    program = str(jax.make_jaxpr(jax.grad(loss))(x))
    assert program.count("scan[") == 1
    assert f"length={chunks}\n" in program


def test_the_head_may_be_wider_than_what_it_reads() -> None:
    """Products have the narrower type; the head's gradient is not rounded."""
    x, head, targets = case(64)
    narrow = x.astype(jnp.bfloat16)
    loss = lambda x, head: summed_cross_entropy(x, head, targets, 16)
    x_grad, head_grad = jax.grad(loss, (0, 1))(narrow, head)
    assert (x_grad.dtype, head_grad.dtype) == (jnp.bfloat16, jnp.float32)
    rounded = head.astype(jnp.bfloat16).astype(jnp.float32)
    exact = jax.grad(lambda x, head: plain(x, head, targets), (0, 1))
    exact_x, exact_head = exact(narrow.astype(jnp.float32), rounded)
    assert_close(x_grad, exact_x, 0.01)
    assert_close(head_grad, exact_head, 0.01)
