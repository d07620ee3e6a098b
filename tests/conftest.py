"""Eight CPU devices for all tests, set up before JAX is imported."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import pytest
from jax.sharding import Mesh

from configs import MeshConfig
from train.mesh import make_mesh

jax.config.update("jax_numpy_dtype_promotion", "standard")


@pytest.fixture(scope="session")
def one_device() -> Mesh:
    """A mesh of one device."""
    return make_mesh(MeshConfig(data=1, model=1))
