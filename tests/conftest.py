"""Eight CPU devices for all tests, set up before JAX is imported.

Programs run once or twice here, so they are compiled quickly: LLVM does not optimize
them, and JAX 0.10 does without its fusion emitters (0.12 has no other way). XLA's own
passes are unchanged. What `XLA_FLAGS` says goes first.
"""

import os
import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    + "--xla_cpu_use_fusion_emitters=false " * version("jax").startswith("0.10.")
    + os.environ.get("XLA_FLAGS", "")
)

import jax
import pytest
from jax.sharding import Mesh

from configs import MeshConfig
from tests.cloud import emulator
from train.mesh import make_mesh

# Tests, and the processes that run them, compile the same small programs repeatedly.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# In the background of a shell it is ignored, also by the processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return 2 for the whole suite, 0 if files are named."""
    named = any(".py" in word for word in config.invocation_params.args)
    return 0 if named else 2


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Forget programs in time: each takes maps of memory, and Linux allows 65,530."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def one_device() -> Mesh:
    """A mesh of one device."""
    return make_mesh(MeshConfig(data=1, model=1))


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A bucket of an emulated object store, `gs://...`."""
    with emulator() as address:
        yield address
