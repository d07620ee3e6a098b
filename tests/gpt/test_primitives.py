"""Custom gradients against JAX's gradients of plain implementations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from gpt.primitives import (
    gelu,
    normalize,
    project,
    project_columns,
    project_gated,
    project_gated_columns,
)
from tests.tiny import assert_close


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def pull(function: Callable[..., Any], *arguments: jax.Array) -> tuple[Any, Any]:
    """The value, and the gradients of a weighted sum."""

    def score(*arguments: jax.Array) -> jax.Array:
        value = function(*arguments)
        weights = jnp.cos(jnp.arange(value.size, dtype=value.dtype))
        return jnp.sum(value * weights.reshape(value.shape))

    numbers = tuple(range(len(arguments)))
    return function(*arguments), jax.jit(jax.grad(score, numbers))(*arguments)


def test_gelu() -> None:
    x = jnp.concatenate((normal(0, 50), jnp.array([0.0, -9.0, 9.0, -40.0, 40.0])))
    plain = lambda x: jax.nn.gelu(x, approximate=False)
    assert_close(pull(gelu, x), pull(plain, x), 1e-6)


def test_project_gated() -> None:
    """Over the last and the first axis."""
    x, weight = normal(7, 5, 3, 6), normal(8, 6, 8)

    def plain(x: jax.Array, weight: jax.Array) -> jax.Array:
        gate, up = jnp.split(x @ weight, 2, axis=-1)
        return gate / (1.0 + jnp.exp(-gate)) * up

    def columns(x: jax.Array, weight: jax.Array) -> jax.Array:
        mixed = project_gated_columns(jnp.moveaxis(x, -1, 0), weight)
        return jnp.moveaxis(mixed, 0, -1)

    expected = pull(plain, x, weight)
    assert_close(pull(project_gated, x, weight), expected, 1e-6)
    assert_close(pull(columns, x, weight), expected, 1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_normalize(scale: float) -> None:
    """Also where epsilon matters."""

    def plain(x: jax.Array) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)

    x = 3 * scale + scale * normal(1, 4, 5, 16)
    found = pull(lambda x: normalize(x, 1e-5), x)
    assert_close(found, pull(plain, x), 1e-5)


# Rows, inputs, outputs: the weight's gradient is computed directly or transposed.
SIZES = [(24, 8, 4), (24, 4, 8), (6, 8, 4), (24, 8, 8)]


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_project(rows: int, inputs: int, outputs: int) -> None:
    x, weight = normal(2, 2, rows // 2, inputs), normal(3, inputs, outputs)
    assert_close(pull(project, x, weight), pull(jnp.matmul, x, weight), 1e-6)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_project_columns(rows: int, inputs: int, outputs: int) -> None:
    x, weight = normal(2, inputs, 2, rows // 2), normal(3, inputs, outputs)
    plain = lambda x, weight: jnp.einsum("irs,io->ors", x, weight)
    assert_close(pull(project_columns, x, weight), pull(plain, x, weight), 1e-6)


@pytest.mark.parametrize("function", [project, project_columns])
def test_products_are_in_the_narrower_type(function: Callable[..., Any]) -> None:
    """Gradients have their argument's type; a wide weight's is not rounded."""
    x, weight = normal(2, 16, 16), normal(3, 16, 16)
    half = lambda a: a.astype(jnp.bfloat16)
    for a, b in ((half(x), weight), (x, half(weight))):
        assert function(a, b).dtype == jnp.bfloat16
        found = jax.grad(lambda *ab: jnp.sum(function(*ab)), (0, 1))(a, b)
        assert [g.dtype for g in found] == [a.dtype, b.dtype]
    score = lambda x, weight: jnp.sum(function(x, weight).astype(jnp.float32))
    weight_grad = jax.grad(score, 1)(half(x), weight)
    exact = jax.grad(score, 1)(half(x).astype(jnp.float32), weight)
    assert_close(weight_grad, exact, 1e-6)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES[:2])
def test_project_of_stacked_weights(rows: int, inputs: int, outputs: int) -> None:
    x, weights = normal(4, 3, rows, inputs), normal(5, 3, inputs, outputs)
    assert_close(
        pull(jax.vmap(project), x, weights), pull(jnp.matmul, x, weights), 1e-6
    )


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (gelu, [(99,)]),
        (project_gated, [(24, 8), (8, 6)]),
        (project_gated_columns, [(8, 24), (8, 6)]),
        (project, [(24, 8), (8, 4)]),
        (project_columns, [(8, 24), (8, 4)]),
    ],
)
def test_gradients_in_16_bits(
    function: Callable[..., Any], shapes: list[tuple[int, ...]]
) -> None:
    """Close to float32, in the type of the values."""
    half = [normal(6, *shape).astype(jnp.bfloat16) for shape in shapes]
    found = pull(function, *half)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(found))
    assert_close(found, pull(function, *(x.astype(jnp.float32) for x in half)), 0.02)
