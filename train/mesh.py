"""The device mesh, the layout of arrays on it, and conversions between layouts.

The batch is split over both axes. Parameters, their average and the optimizer's state
are split over `model` along their largest divisible axis. Each device gathers the
parameters once, and reduces the gradients once. Models do not depend on the mesh.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from configs import MeshConfig, ceil_div, require

AXES = ("data", "model")
BATCH = PartitionSpec(AXES)
REPLICATED = PartitionSpec()


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Return a (data, model) mesh over the devices of all processes.

    Args:
        config: sizes of the axes.
        devices: None for `jax.devices()`.

    Raises:
        ValueError: if the sizes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    available = len(devices)
    data = config.data or max(available // config.model, 1)
    needed = data * config.model
    advice = "Change `--config.mesh.data` or `--config.mesh.model`."
    require(
        needed <= available,
        f"The mesh must not be larger than the devices: got {data} x {config.model} = "
        f"{needed} on {available} device(s). {advice}",
    )
    require(
        needed == available or jax.process_count() == 1,
        f"With several processes the mesh must use all devices: got {needed} of "
        f"{available}. {advice}",
    )
    return jax.make_mesh(
        (data, config.model),
        AXES,
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices[:needed],
    )


def split_axis(shape: tuple[int, ...], mesh: Mesh) -> int | None:
    """Return the largest axis that can be split over `model`; None if there is none."""
    size = mesh.shape["model"]
    axes = [i for i, n in enumerate(shape) if n % size == 0 and n > 0]
    return max(axes, key=lambda i: shape[i]) if axes and size > 1 else None


def layout(tree: PyTree, mesh: Mesh) -> PyTree[PartitionSpec]:
    """Return the partition specs of parameters, or of any tree of the same shapes."""

    def spec(leaf: Any) -> PartitionSpec:
        axis = split_axis(leaf.shape, mesh)
        return REPLICATED if axis is None else PartitionSpec(*[None] * axis, "model")

    return jax.tree.map(spec, tree)


def _axis_of(spec: PartitionSpec) -> int | None:
    return tuple(spec).index("model") if "model" in tuple(spec) else None


def gather(tree: PyTree[Array], specs: PyTree[PartitionSpec]) -> PyTree[Array]:
    """Gather whole parameters from their parts, inside `shard_map`."""

    def whole(x: Array, spec: PartitionSpec) -> Array:
        axis = _axis_of(spec)
        if axis is None:
            return x
        return jax.lax.all_gather(x, "model", axis=axis, tiled=True)

    return jax.tree.map(whole, tree, specs)


def reduce(tree: PyTree[Array], specs: PyTree[PartitionSpec]) -> PyTree[Array]:
    """Sum over all devices, split like the parameters, inside `shard_map`."""

    def total(x: Array, spec: PartitionSpec) -> Array:
        axis = _axis_of(spec)
        if axis is None:
            return jax.lax.psum(x, AXES)
        x = jax.lax.psum_scatter(x, "model", scatter_dimension=axis, tiled=True)
        return jax.lax.psum(x, "data")

    return jax.tree.map(total, tree, specs)


def everywhere(tree: PyTree[Array]) -> PyTree[np.ndarray]:
    """Return whole global arrays on the host of every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def require_divides(mesh: Mesh, batch: int) -> None:
    """Raise `UserError` unless the number of devices divides the batch."""
    require(
        batch % mesh.size == 0,
        f"The batch must be a multiple of the mesh's {mesh.size} devices: got {batch}. "
        f"Use {batch // mesh.size * mesh.size or mesh.size} or "
        f"{ceil_div(batch, mesh.size) * mesh.size}.",
    )


def process_rows(mesh: Mesh, batch: int) -> np.ndarray:
    """Return the ascending row numbers of a global batch on this process's devices.

    Raises:
        ValueError: if the number of devices does not divide the batch.
    """
    require_divides(mesh, batch)
    slices = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch,))
    numbers = np.arange(batch)
    return np.unique(np.concatenate([numbers[index] for index in slices.values()]))


def global_batch(mesh: Mesh, batch: int, leading: int) -> Callable[[PyTree], PyTree]:
    """Return a function from this process's rows of a batch to global device arrays.

    Args:
        mesh: the devices.
        batch: rows of the global batch.
        leading: number of axes before the rows (for stacked batches).
    """
    rows = process_rows(mesh, batch)
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * leading, AXES))
    everything = np.arange(batch)

    def place(local: np.ndarray) -> Array:
        shape = (*local.shape[:leading], batch, *local.shape[leading + 1 :])

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            wanted = np.searchsorted(rows, everything[index[leading]])
            return np.take(local, wanted, axis=leading)

        return jax.make_array_from_callback(shape, sharding, part)

    return lambda tree: jax.tree.map(place, tree)


def first_rows(tree: PyTree[Array]) -> PyTree:
    """Return the rows on the first device of this process, on the host."""
    return jax.tree.map(lambda a: np.asarray(a.addressable_shards[0].data), tree)


def describe_layout(tree: PyTree, mesh: Mesh) -> tuple[str, str]:
    """Return a table of arrays (path, shape, spec, bytes per device) and its sums."""
    lines, parameters, total = [], 0, 0
    for path, leaf in jax.tree.leaves_with_path(tree):
        axis = split_axis(leaf.shape, mesh)
        parts = 1 if axis is None else mesh.shape["model"]
        size = leaf.size * leaf.dtype.itemsize // parts
        where = "replicated" if axis is None else f"axis {axis} over model"
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        lines.append(
            f"  {jax.tree_util.keystr(path):48s} {shape:>12s} "
            f"{where:18s} {size:>11,d} B"
        )
        parameters, total = parameters + leaf.size, total + size
    sums = f"{parameters:,} parameters, {total / 2**20:,.1f} MiB on each device"
    return "\n".join(lines), sums
