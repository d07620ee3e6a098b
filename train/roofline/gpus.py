"""NVIDIA GPUs that are not here, described for their compiler."""

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
from jax._src.cudnn import fused_attention_stablehlo as attention
from jax.experimental import topologies

from configs import UserError
from train.roofline.chips import CHIPS

WHEELS = ("jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12")
"""The compiler, and its assembler: the extra `compile-gpu`."""

NAMES = {name.lower().replace(" ", ""): name for name in CHIPS if CHIPS[name].die}
"""From the name in a command to the device's."""

GPUS = re.compile(rf"({'|'.join(NAMES)})(?:-([1-9]\d*))?")
"""One GPU (`h200`), or several of one machine (`h200-8`)."""

OPTIONS: dict[str, Any] = {"xla_gpu_enable_triton_gemm": False}
"""XLA chooses between Triton's and cuBLAS's products by timing them, and the tiles of
Triton's too. Without a GPU to time them on, all are cuBLAS's."""

LIMITS = {
    # NVIDIA, CUDA C++ Programming Guide, "Compute Capabilities".
    "8.0": (2048, 64, 164),
    "8.9": (1536, 128, 100),
    "9.0": (2048, 128, 228),
    "10.0": (2048, 128, 228),
    "12.0": (1536, 128, 100),
}
"""Threads, float32 units and KiB of shared memory of a multiprocessor, by compute
capability."""

CUDNN = (9, 10, 0)
"""The assumed version of cuDNN."""

TARGET = """
gpu_device_info {{
  cuda_compute_capability {{
    major: {major} minor: {minor} feature_extension: {extension}
  }}
  core_count: {cores}
  fpus_per_core: {units}
  clock_rate_ghz: {clock}
  device_memory_size: {capacity}
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  shared_memory_per_core: {shared}
  shared_memory_per_block_optin: {shared_block}
  shared_memory_per_block: 49152
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_core_limit: {threads}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  dnn_version: "{cudnn[0]}.{cudnn[1]}.{cudnn[2]}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} patch: {cudnn[2]} }}
device_description_str: "NVIDIA {name}"
"""
"""A `GpuTargetConfigProto` of XLA."""


def is_absent(device: Any) -> bool:
    """Return True for a GPU that this machine does not have."""
    return device.platform == "gpu" and device not in jax.local_devices()


def target(name: str) -> str:
    """Return the description of a GPU for XLA.

    Args:
        name: in `CHIPS`.
    """
    chip, die = CHIPS[name], CHIPS[name].die
    assert die is not None
    major, minor = die.capability.split(".")
    threads, units, shared = LIMITS[die.capability]
    return TARGET.format(
        name=name,
        major=major,
        minor=minor,
        extension="ACCELERATED_FEATURES" if major in ("9", "10") else "NONE",
        cores=die.cores,
        units=units,
        clock=die.clock,
        capacity=int(chip.capacity * 2**30),
        bandwidth=chip.memory * 10**9,
        cache=die.cache * 2**20,
        shared=shared * 2**10,
        shared_block=(shared - 1) * 2**10,
        threads=threads,
        cudnn=CUDNN,
    )


def gpu_devices(name: re.Match[str]) -> list[Any]:
    """Return GPUs for compiling only; neither a GPU nor its driver is needed.

    From then on JAX takes cuDNN for installed: it compiles attention without it.

    Args:
        name: a match of `GPUS`.

    Raises:
        UserError: if a part of the compiler is missing.
    """
    try:
        for wheel in WHEELS:
            version(wheel)
    except PackageNotFoundError as error:
        raise UserError(
            f"Compiling for `{name[0]}` needs {' and '.join(WHEELS)}: {error.name} is "
            "missing. Install both: `pip install -e '.[compile-gpu]'`."
        ) from error
    major, minor, patch = CUDNN
    attention.check_cudnn_version = lambda: 10_000 * major + 100 * minor + patch
    described = topologies.get_topology_desc(
        platform="cuda",
        target_config=target(NAMES[name[1]]),
        topology=f"1x1x{name[2] or 1}",  # racks, machines, GPUs
    )
    return list(described.devices)
