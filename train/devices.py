"""Starting JAX: processes, the compilation cache, and what the devices can do."""

from typing import Literal

import jax

from configs import MeshConfig, RunConfig, require


def start(mesh: MeshConfig, run: RunConfig) -> None:
    """Join the other processes and set the compilation cache, as configured."""
    if mesh.distributed and not jax.distributed.is_initialized():
        jax.distributed.initialize()
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
