"""Compiled programs with known loops and sizes."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, PartitionSpec

from configs import MeshConfig
from train.mesh import AXES, make_mesh
from train.roofline.hlo import bytes_of, group_size, parse
from train.roofline.program import Program

N = 256
SIZE = 4 * N * N


def program(function: Any, *shapes: tuple[int, ...]) -> Program:
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return Program(jax.jit(function).lower(*arrays).compile().as_text() or "")


@pytest.mark.parametrize(
    ("shape", "everywhere", "main"),
    [
        ("f32[2,3]{1,0}", 24, 24),
        ("bf16[97,512]{1,0:T(8,128)(2,1)S(3)}", 99328, 0),
        ("(s32[]{:T(128)}, f32[4]{0:T(128)S(1)}, pred[3]{0})", 4 + 16 + 3, 4 + 3),
        ("u32[]{:S(2)}", 4, 0),
        ("token[]", 0, 0),
    ],
)
def test_bytes_of_a_shape(shape: str, everywhere: int, main: int) -> None:
    assert bytes_of(shape) == everywhere
    assert bytes_of(shape, main=True) == main


def test_a_loops_body_counts_once_per_round() -> None:
    def repeat(times: int) -> Program:
        body = lambda x, _: (jnp.sin(x @ x), None)
        return program(lambda x: jax.lax.scan(body, x, length=times)[0], (N, N))

    short, long = repeat(3), repeat(30)
    assert (short.loops(), long.loops()) == ([3], [30])
    each = (long.bytes() - short.bytes()) / 27
    assert 4 * SIZE <= each < 5 * SIZE, "a product and a sine, read and written"


def test_loops_in_loops() -> None:
    def inner(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 5, lambda _, y: jnp.sin(y @ y), x)

    compiled = program(
        lambda x: jax.lax.fori_loop(0, 7, lambda _, y: inner(y), x), (N, N)
    )
    assert sorted(n for n in compiled.loops() if n) == [5, 7]
    assert max(run.times for run in compiled.runs) == 35


def test_a_loop_of_unknown_length() -> None:
    grow = lambda x: jax.lax.while_loop(lambda y: y.sum() < 1e6, lambda y: 2 * y, x)
    compiled = program(grow, (N,))
    assert compiled.loops() == [None]


def test_a_sum_moves_what_it_reads_and_writes() -> None:
    assert program(lambda a, b: jnp.sin(a) + b, (N, N), (N, N)).bytes() == 3 * SIZE


def test_arrays_used_in_part_count_in_part() -> None:
    """A row of a stack in each round, like layers under `scan`."""
    rounds = 64
    first = lambda carry, row: (carry + jnp.sin(row), None)
    compiled = program(
        lambda rows: jax.lax.scan(first, jnp.zeros(N), rows)[0], (rounds, N)
    )
    assert compiled.loops() == [rounds]
    assert 4 * N * rounds <= compiled.bytes() < 10 * 4 * N * rounds


def test_collectives_and_their_bytes() -> None:
    mesh: Mesh = make_mesh(MeshConfig(data=4, model=2))
    split = PartitionSpec(AXES)

    def device(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        summed = jax.lax.fori_loop(0, 5, lambda _, y: jax.lax.pmean(y, AXES), x)
        return summed, jax.lax.all_gather(x, AXES, tiled=True)

    shared = jax.shard_map(
        device,
        mesh=mesh,
        in_specs=split,
        out_specs=(split, PartitionSpec()),
        check_vma=False,
    )
    compiled = program(shared, (8 * N,))
    assert compiled.collectives() == {
        "all-reduce": (5, 5 * 4 * N),
        "all-gather": (1, 8 * 4 * N),
    }
    assert compiled.collectives_in_loops() == 1


def test_sent_bytes_depend_on_the_group() -> None:
    """All but one of 4, of 2 and of all 8 devices; a row to a neighbour."""
    mesh: Mesh = make_mesh(MeshConfig(data=4, model=2))

    def device(x: jax.Array) -> tuple[jax.Array, ...]:
        return (
            jax.lax.psum(x, "data"),
            jax.lax.all_gather(x, "model", tiled=True),
            jax.lax.psum_scatter(jnp.sin(x), "model", tiled=True),
            jax.lax.psum(2 * x, AXES),
            jax.lax.ppermute(x, "data", [(0, 1), (1, 0)]),
        )

    split = PartitionSpec(AXES)
    shared = jax.shard_map(
        device, mesh=mesh, in_specs=split, out_specs=split, check_vma=False
    )
    shares = 2 * 3 / 4 + 2 * 1 / 2 + 1 / 2 + 2 * 7 / 8 + 1
    assert program(shared, (8 * N,)).sent() == pytest.approx(4 * N * shares)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1},{2,3}}", 2),
        ("{{0},{1}}", 1),
        ("[4,2]<=[8]", 2),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("{}", 8),
        ("mesh['data'=4,'model'=2] {'model'}", 2),
        ("mesh['data'=4,'model'=2] {'data','model'}", 8),
    ],
)
def test_the_size_of_a_group(groups: str, size: int) -> None:
    text = f"""HloModule jit_f, num_partitions=8

ENTRY %main (x: f32[4]) -> f32[4] {{
  %x = f32[4]{{0}} parameter(0)
  ROOT %s = f32[4]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%a
}}
"""
    compiled = Program(text)
    assert group_size(compiled.computations["main"]["s"], compiled.devices) == size


TPU = """HloModule jit_step, is_scheduled=true

%fused (p.0: bf16[8,128], p.1: f32[64,128]) -> f32[8,128] {
  %p.0 = bf16[8,128]{1,0} parameter(0)
  %p.1 = f32[64,128]{1,0} parameter(1)
  %c = s32[] constant(0)
  %cut = f32[8,128]{1,0} dynamic-slice(%p.1, %c, %c), dynamic_slice_sizes={8,128}
  %wide = f32[8,128]{1,0} convert(%p.0)
  ROOT %sum = f32[8,128]{1,0} add(%cut, %wide)
}

ENTRY %main (a: f32[64,128]) -> f32[8,128] {
  %a = f32[64,128]{1,0:T(8,128)} parameter(0)
  %s = ((f32[64,128]{1,0}), f32[8,128]{1,0:S(3)}, s32[]{:S(2)}) slice-start(%a)
  %d = f32[8,128]{1,0:S(3)} slice-done(%s)
  %w = bf16[8,128]{1,0:T(8,128)(2,1)S(3)} convert(%d)
  ROOT %f = f32[8,128]{1,0} fusion(%w, %a), kind=kLoop, calls=%fused
}
"""


def test_a_tpus_fast_memory_does_not_count() -> None:
    """A slice reads its part of main memory; arrays on the chip are free."""
    moved = {run.operation.name: size for size, run in Program(TPU).traffic()}
    part = 4 * 8 * 128
    assert moved == {"a": 0, "s": part, "d": 0, "w": 0, "f": part + part}


def test_the_scopes_of_operations() -> None:
    computations, entry = parse(TPU)
    assert entry == "main"
    assert computations["fused"]["cut"].operands == ("p.1", "c", "c")
    named = 'f32[2]{0} add(%x, %y), metadata={op_name="jit(step)/cycles/add"}'
    text = TPU.replace("bf16[8,128]{1,0:T(8,128)(2,1)S(3)} convert(%d)", named)
    assert parse(text)[0]["main"]["w"].scope == "jit(step)/cycles/add"


ESTIMATED = """HloModule step, num_partitions=1

%fused (p: bf16[8,8]) -> bf16[8,8] {
  %p = bf16[8,8]{1,0} parameter(0)
  ROOT %product = bf16[8,8]{1,0} convolution(%p, %p), dim_labels=bf_io->bf
}

%body (q: bf16[8,8]) -> bf16[8,8] {
  %q = bf16[8,8]{1,0} parameter(0)
  %sent = bf16[8,8]{1,0} all-reduce(%q), replica_groups={}, to_apply=%fused
  ROOT %f = bf16[8,8]{1,0} fusion(%sent), calls=%fused, backend_config={CYCLES 100"}}
}

%more (c: bf16[8,8]) -> pred[] {
  %c = bf16[8,8]{1,0} parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (x: bf16[8,8]) -> bf16[8,8] {
  %x = bf16[8,8]{1,0} parameter(0)
  %copied = bf16[8,8]{0,1} copy(%x), backend_config={CYCLES 7"}}
  ROOT %loop = bf16[8,8]{1,0} while(%copied), condition=%more, body=%body, ROUNDS
}
"""
ESTIMATED = ESTIMATED.replace(
    "CYCLES ", '"window_config":{"estimated_cycles":"'
).replace("ROUNDS", 'backend_config={"known_trip_count":{"n":"5"}}')


def test_cycles_of_a_tpus_program() -> None:
    """Loops multiplied out; a fusion with a product is one."""
    compiled = Program(ESTIMATED)
    assert compiled.cycles_by_kind() == {"product": 500, "copy": 7}
    assert compiled.without_cycles() == {"all-reduce": 5}
