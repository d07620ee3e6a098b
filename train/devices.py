"""Starting JAX: processes, the compilation cache, and what the devices can do."""

import ctypes
from typing import Literal

import jax

from configs import MeshConfig, RunConfig, require

# Parameters of glibc's mallopt: see `man mallopt`.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Have the C library keep memory that XLA frees, for the next step's temporaries.

    Else Linux takes it back and hands it out anew, page by page, at
    every step. Does nothing where the library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**28)


def start(mesh: MeshConfig, run: RunConfig) -> None:
    """Join the other processes and set the compilation cache, as configured."""
    if mesh.distributed and not jax.distributed.is_initialized():
        jax.distributed.initialize()
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    if run.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", run.compilation_cache)


def attention_kernel(
    wanted: Literal["auto", "xla", "cudnn"], precision: str
) -> Literal["xla", "cudnn"]:
    """The attention implementation to use on this run's devices.

    Raises:
        ValueError: if cuDNN is asked for where it cannot run.
    """
    can = jax.default_backend() == "gpu" and precision == "bfloat16"
    if wanted == "auto":
        return "cudnn" if can else "xla"
    require(
        wanted != "cudnn" or can,
        f"cuDNN attention needs an NVIDIA GPU and bfloat16: got "
        f"{jax.default_backend()} and {precision}. Use "
        "`--config.model.attention xla`.",
    )
    return wanted
