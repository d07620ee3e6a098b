"""Muon: updates with all singular values near 1, for the matrices of hidden layers.

A model lists these arrays in its `matrices` (`train/experiment.py`). Queries, keys,
values, gate, up and the layers of a stack are separate matrices, however stored.

Source: Jordan 2024, `KellerJordan/Muon` and kellerjordan.github.io/posts/muon, which
also recommends separate queries, keys and values; Liu et al. 2025, arXiv 2502.16982,
for the size of an update; the rule itself is `optax.contrib.scale_by_muon`. Unlike in
Jordan's code, its Nesterov momentum corrects the newest gradient for the start apart,
by 1 / (1 - momentum^t), so that this gradient counts more in the first updates.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import optax
from jax.tree_util import GetAttrKey, SequenceKey, keystr
from jaxtyping import Array, Float, PyTree
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from configs import OptimConfig
from train.normuon import normalize_neurons

ADAMS_SIZE = 0.2
"""Root mean square of the entries of Adam's updates, from arXiv 2502.16982."""


class Axes(NamedTuple):
    """The axes of an array that holds matrices: `layers inputs parts*outputs`."""

    layers: int
    """Number of leading axes of stacked layers: 0 or 1."""

    inputs: int
    """Number of axes, after `layers`, that a product sums over."""

    parts: int
    """Number of matrices side by side in the remaining axes."""

    def split(self, x: Float[Array, "*axes"]) -> Float[Array, "matrices rows columns"]:
        """Return the matrices."""
        rows = math.prod(x.shape[self.layers : self.layers + self.inputs])
        layers = math.prod(x.shape[: self.layers])
        x = x.reshape(layers, rows, self.parts, -1).swapaxes(1, 2)
        return x.reshape(layers * self.parts, rows, -1)

    def join(
        self, matrices: Float[Array, "matrices rows columns"], shape: tuple[int, ...]
    ) -> Float[Array, "*axes"]:
        """Return the array of `shape` that holds these matrices."""
        apart = matrices.reshape(-1, self.parts, *matrices.shape[1:])
        return apart.swapaxes(1, 2).reshape(shape)


def hidden_matrices(tree: PyTree) -> dict[str, Axes]:
    """Return the matrices of hidden layers in a model's parameters, by path."""
    found = {}
    for path, _ in jax.tree.leaves_with_path(tree):
        node, layers = tree, 0
        for depth, key in enumerate(path):
            layers += getattr(node, "stacked", False) is True
            told = getattr(node, "matrices", {})
            name = keystr(path[depth:], simple=True, separator=".")
            if name in told:
                found[keystr(path)] = Axes(layers, *told[name])
            node = _child(node, key)
    return found


def _child(node: Any, key: Any) -> Any:
    match key:
        case GetAttrKey():
            return getattr(node, key.name)
        case SequenceKey():
            return node[key.idx]
        case _:
            return node[key.key]


def _separate(tree: PyTree) -> tuple[PyTree, PyTree]:
    """Split a tree into the matrices of hidden layers and the rest (None elsewhere)."""
    return eqx.partition(tree, is_hidden(tree))


def is_hidden(tree: PyTree) -> PyTree[bool]:
    """Return which parameters are matrices of hidden layers."""
    axes = hidden_matrices(tree)
    return jax.tree.map_with_path(lambda path, _: keystr(path) in axes, tree)


def _split(hidden: PyTree) -> dict[str, Array]:
    axes = hidden_matrices(hidden)
    leaves = jax.tree.leaves_with_path(hidden)
    return {(name := keystr(path)): axes[name].split(leaf) for path, leaf in leaves}


def with_muon(
    config: OptimConfig, rest: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Muon for the matrices of hidden layers, `rest` for everything else."""
    muon: Any = scale_by_muon(
        ns_steps=config.muon_steps,
        beta=config.muon_momentum,
        nesterov=config.muon_nesterov,
        weight_dimension_numbers=lambda matrices: jax.tree.map(
            lambda _: MuonDimensionNumbers(1, 2), matrices
        ),
    )
    if config.muon_beta2 is not None:
        muon = optax.chain(muon, normalize_neurons(config.muon_beta2))

    def init(params: PyTree) -> tuple[PyTree, PyTree]:
        hidden, others = _separate(params)
        return muon.init(_split(hidden)), rest.init(others)

    def update(
        grads: PyTree, state: tuple[PyTree, PyTree], params: PyTree | None = None
    ) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        del params
        hidden, others = _separate(grads)
        axes = hidden_matrices(hidden)
        turned, muon_state = muon.update(_split(hidden), state[0])
        others, rest_state = rest.update(others, state[1])

        def join(path: Any, grad: Array) -> Array:
            name = keystr(path)
            size = ADAMS_SIZE * math.sqrt(max(turned[name].shape[1:]))
            return size * axes[name].join(turned[name], grad.shape)

        hidden = jax.tree.map_with_path(join, hidden)
        return eqx.combine(hidden, others), (muon_state, rest_state)

    # optax types its callables for any tree and extra arguments.
    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def scale_hidden(factor: float) -> optax.GradientTransformation:
    """Multiply the updates of the matrices of hidden layers by `factor`."""

    def scale(updates: PyTree, params: PyTree | None = None) -> PyTree:
        del params
        hidden, others = _separate(updates)
        return eqx.combine(jax.tree.map(lambda u: factor * u, hidden), others)

    return optax.stateless(scale)
