"""Starting JAX: processes, the compilation cache, and what the devices can do."""

import ctypes
from typing import Literal

import jax

from configs import GPTConfig, MeshConfig, RunConfig, require
from gpt.attention import Kernel
from gpt.splash import SPLASH_BLOCK, Splash
from train.mesh import alone

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
    """The attention kernel to use on this run's devices.

    Raises:
        ValueError: if cuDNN is asked for where it cannot run.
    """
    can = jax.default_backend() == "gpu" and precision != "float32"
    if wanted == "auto":
        return "cudnn" if can else "xla"
    require(
        wanted != "cudnn" or can,
        f"cuDNN attention needs an NVIDIA GPU and 16 bits: got "
        f"{jax.default_backend()} and {precision}. Use "
        "`--config.model.attention xla`.",
    )
    return wanted


def gpt_kernel(config: GPTConfig, precision: str) -> Kernel:
    """The same for a GPT, which may use the splash kernel on a TPU.

    Raises:
        ValueError: if a kernel is asked for where it cannot run.
    """
    tpu = jax.default_backend() == "tpu"
    can = tpu and config.block_size % SPLASH_BLOCK == 0
    if config.attention == "auto" and can:
        return Splash(alone)
    if config.attention != "splash":
        return attention_kernel(config.attention, precision)
    require(
        can,
        f"Splash attention needs a TPU and a `block_size` that divides by "
        f"{SPLASH_BLOCK}: got {jax.default_backend()} and {config.block_size}. Use "
        "`--config.model.attention auto`.",
    )
    return Splash(alone)
