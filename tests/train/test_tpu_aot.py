"""Train steps compiled for a v4-64 slice, 32 chips, without having it."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import jax
import pytest
from jax.sharding import Mesh

from configs import MeshConfig, TrainGPT, TrainTRM
from train.mesh import make_mesh
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.roofline.dataless import experiment_of
from train.roofline.program import Program
from train.roofline.study import study
from train.roofline.topology import devices_of

pytestmark = [
    pytest.mark.tpu_aot,
    pytest.mark.slow,
    pytest.mark.usefixtures("no_persistent_cache"),
    pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu"),
]

SMALL_GPT = {"n_head": 2, "n_embd": 128, "block_size": 256, "vocab_size": 50304}
SMALL = {"dim": 64, "heads": 2, "prefix": 1, "puzzle_dim": 64, "H_cycles": 3}


def slice_mesh(data: int, model: int, topology: str = "v4-64") -> Mesh:
    return make_mesh(MeshConfig(data=data, model=model), devices_of(topology))


def studied(config: TrainTRM | TrainGPT, mesh: Mesh) -> dict[str, Any]:
    facts, _ = study(experiment_of(config, mesh))
    assert facts["fits"]
    return facts


def facts(data: int, model: int, batch_size: int, **sizes: Any) -> dict[str, Any]:
    """Return the facts of the default preset with other sizes."""
    config = TRM_PRESETS["sudoku"][1]
    changed = replace(config.model, **sizes)
    config = replace(config, model=changed, batch_size=batch_size)
    return studied(config, slice_mesh(data, model))


def gpt_facts(data: int, model: int, slices: int, **sizes: Any) -> dict[str, Any]:
    """Return the facts of a GPT-2 with other sizes; 4 sequences a chip."""
    config = GPT_PRESETS["gpt2"][1]
    changed = replace(config.model, **sizes)
    config = replace(config, model=changed, batch_size=128, microbatch_size=4 // slices)
    return studied(config, slice_mesh(data, model))


def assert_in_place(found: dict[str, Any]) -> None:
    """Check that all of the state is donated (with buffers padded to tiles)."""
    assert found["aliased_arrays"] == found["arrays"]
    state = sum(found["state"].values()) - found["state"]["batch"]
    assert 1.0 <= found["aliased"] / state < 1.05


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("v4-64", 32),
        ("v4-8", 4),
        ("v4:4x4x2", 32),
        ("v5e-16", 16),
        ("v5litepod-8", 8),
        ("v5p-128", 64),
        ("v6e-8", 8),
        ("v6e-1", 1),
    ],
)
def test_slices_by_name(name: str, devices: int) -> None:
    assert len(devices_of(name)) == devices


def test_the_papers_step_fits_a_v4_64() -> None:
    """Batch 6144 of the default preset: in memory, in place, reduced once."""
    found = facts(32, 1, 6144)
    assert 2**29 < found["peak"] < 2**30
    assert_in_place(found)
    assert found["slices"] == 8
    assert found["loops"] == [8, 2], "the slices, the cycles without gradient"
    assert found["collectives_in_loops"] == 0
    assert found["bound"] == "compute"
    assert found["rates"]["mfu"] > 0.9


@pytest.mark.parametrize("sizes", [(32, 1), (16, 2)])
def test_more_recursion_needs_no_more_collectives(sizes: tuple[int, int]) -> None:
    short = facts(*sizes, 64, **SMALL, L_cycles=1)
    long = facts(*sizes, 64, **SMALL, L_cycles=4)
    assert_in_place(short)
    assert short["collectives"] == long["collectives"] != {}
    assert long["collectives_in_loops"] == 0


@pytest.mark.parametrize(
    ("sizes", "kinds"),
    [
        ((32, 1), {"all-reduce"}),
        ((16, 2), {"all-reduce", "all-gather", "reduce-scatter"}),
    ],
)
def test_a_gpt_with_the_splash_kernel(sizes: tuple[int, int], kinds: set[str]) -> None:
    """In place, with one set of collectives a step for any depth and number of slices.

    The compiler may add a permute, because it cannot scatter any number of rows.
    """
    short = gpt_facts(*sizes, 1, **SMALL_GPT, n_layer=2)
    long = gpt_facts(*sizes, 2, **SMALL_GPT, n_layer=4)
    for found in (short, long):
        assert_in_place(found)
        assert set(found["collectives"]) - {"collective-permute"} == kinds
        assert found["collectives_in_loops"] == 0
        assert found["kernels"] == 3, "forward, and two for the gradients"
    # The layers, forward and back; the slices.
    assert len(long["loops"]) == len(short["loops"]) + 1
    assert short["collectives"] == long["collectives"]


def test_a_collective_in_a_loop_is_found() -> None:
    """In a program that does what ours must not."""
    mesh = slice_mesh(32, 1)
    spec = jax.sharding.PartitionSpec("data")

    def device(x: jax.Array) -> jax.Array:
        body = lambda _, y: y + jax.lax.pmean(jax.numpy.sin(y), "data")
        return jax.lax.fori_loop(0, 5, body, x)

    shape = jax.ShapeDtypeStruct(
        (256, 128), "float32", sharding=jax.sharding.NamedSharding(mesh, spec)
    )
    split = jax.shard_map(device, mesh=mesh, in_specs=spec, out_specs=spec)
    found = Program(jax.jit(split).lower(shape).compile().as_text() or "")
    assert found.collectives_in_loops() == 1
    assert sum(number for number, _ in found.collectives().values()) == 5
