"""Checksums of arrays, the same on any mesh."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree, UInt32

from train.table import Table, is_table

Fingerprint = dict[str, tuple[str, int]]
"""Type and shape, as `float32[4,2]`, and checksum of every array, by path."""


def kinds(tree: PyTree) -> dict[str, str]:
    """Return type and shape of every leaf, by path; of a table, without padding."""

    def kind(leaf: Any) -> str:
        array = leaf.rows if is_table(leaf) else leaf
        shape = (leaf.length, *array.shape[1:]) if is_table(leaf) else array.shape
        return f"{array.dtype}[{','.join(map(str, shape))}]"

    leaves = jax.tree.leaves_with_path(tree, is_leaf=is_table)
    name = partial(jax.tree_util.keystr, simple=True, separator=".")
    return {name(path): kind(leaf) for path, leaf in leaves}


def fingerprint(tree: PyTree[Array]) -> tuple[Fingerprint, bool]:
    """Return the fingerprint of all arrays, and True if every number is finite."""
    sums, finite = jax.device_get(_sums(jax.tree.leaves(tree, is_leaf=is_table)))
    pairs = zip(kinds(tree).items(), sums, strict=True)
    return {name: (kind, int(total)) for (name, kind), total in pairs}, bool(finite)


@jax.jit
def _sums(
    leaves: list[Array | Table],
) -> tuple[list[UInt32[Array, ""]], Bool[Array, ""]]:
    arrays = jax.tree.leaves(leaves)
    finite = [jnp.isfinite(x).all() for x in arrays if jnp.issubdtype(x, jnp.inexact)]
    return [_checksum(x) for x in leaves], jnp.all(jnp.array(finite))


def _checksum(x: Array | Table) -> UInt32[Array, ""]:
    """Return the sum of the hashes of all elements; of a table, without padding.

    A sum of integers depends neither on their order nor on the mesh.
    """
    if not isinstance(x, Table):
        return jnp.sum(_hashes(x), dtype=jnp.uint32)
    counts = jnp.arange(len(x.rows))[:, None] < x.length
    return jnp.sum(_hashes(jnp.asarray(x.rows)), dtype=jnp.uint32, where=counts)


def _hashes(x: Array) -> UInt32[Array, "..."]:
    """Return a hash of each element's bits and position.

    It is one-to-one in the bits: a change of one element always changes the sum.

    Source: the last steps of MurmurHash3 (32 bit).
    """
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    kind = jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")
    bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
    place, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        numbers = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place += numbers * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    h = bits ^ (place * jnp.uint32(0x9E3779B9))
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
