"""A checkpoint is read back as it was saved, or the caller says why not.

Checksums of arrays, the same on any mesh, and silence around reads that may fail.
"""

import inspect
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree, UInt32

from train.table import Table, is_table

Fingerprint = dict[str, tuple[str, int]]
"""Type and shape, as `float32[4,2]`, and checksum of every array, by its path."""


def name(path: tuple[Any, ...]) -> str:
    """The path of a leaf as one word."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def kinds(tree: PyTree) -> dict[str, str]:
    """Type and shape of every leaf, by its path; of a table, of the rows that count."""

    def kind(leaf: Any) -> str:
        array = leaf.rows if is_table(leaf) else leaf
        shape = (leaf.length, *array.shape[1:]) if is_table(leaf) else array.shape
        return f"{array.dtype}[{','.join(map(str, shape))}]"

    leaves = jax.tree.leaves_with_path(tree, is_leaf=is_table)
    return {name(path): kind(leaf) for path, leaf in leaves}


def fingerprint(tree: PyTree[Array]) -> tuple[Fingerprint, bool]:
    """The fingerprint of all arrays, and whether all their values are finite."""
    sums, finite = jax.device_get(_look(jax.tree.leaves(tree, is_leaf=is_table)))
    pairs = zip(kinds(tree).items(), sums, strict=True)
    return {name: (kind, int(total)) for (name, kind), total in pairs}, bool(finite)


@jax.jit
def _look(
    leaves: list[Array | Table],
) -> tuple[list[UInt32[Array, ""]], Bool[Array, ""]]:
    arrays = jax.tree.leaves(leaves)
    finite = [jnp.isfinite(x).all() for x in arrays if jnp.issubdtype(x, jnp.inexact)]
    return [_checksum(x) for x in leaves], jnp.all(jnp.array(finite))


def _checksum(x: Array | Table) -> UInt32[Array, ""]:
    """The sum of the hashes of all elements, of a table in the rows that count.

    Sums of integers do not depend on their order, so neither on the mesh.
    """
    if not isinstance(x, Table):
        return jnp.sum(_hashes(x), dtype=jnp.uint32)
    counts = jnp.arange(len(x.rows))[:, None] < x.length
    return jnp.sum(_hashes(jnp.asarray(x.rows)), dtype=jnp.uint32, where=counts)


def _hashes(x: Array) -> UInt32[Array, "..."]:
    """A hash of each element's bits and place.

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


@contextmanager
def quiet_reads() -> Iterator[None]:
    """Hide what libraries say of a failed read: the caller reports it, once."""
    _ignore_other_reads()
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@cache
def _ignore_other_reads() -> None:
    """Drop what the other reads say when one fails, now or when they are collected.

    Orbax closes its event loop at the first error. TensorStore then prints a traceback
    for each read still under way, from its own threads, at any later time, and Python
    one for each coroutine of Orbax that nobody waits for any more.
    """
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        closed = str(unraisable.exc_value) == "Event loop is closed"
        if not closed and not inspect.iscoroutine(unraisable.object):
            report(unraisable)

    sys.unraisablehook = hook
    never = "Task exception was never retrieved"
    logging.getLogger("asyncio").addFilter(
        lambda record: never not in record.getMessage()
    )
