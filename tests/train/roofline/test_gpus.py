"""GPUs that are not here: their descriptions, programs and limits."""

import re
from collections import Counter
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distributions
from types import SimpleNamespace
from typing import Any

import pytest
from jax.experimental import topologies

from configs import MeshConfig, TrainGPT, TrainTRM, UserError
from gpt.attention import pick_kernel
from train.mesh import make_mesh
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.roofline import gpus
from train.roofline.chips import chip_of
from train.roofline.dataless import experiment_of
from train.roofline.gpus import LIMITS, NAMES, WHEELS, target
from train.roofline.program import Program
from train.roofline.study import room_of, study
from train.roofline.topology import devices_of
from train.watch.speed import peak_flops


def fields(text: str) -> dict[str, str]:
    """Return the fields of a description by name, without their groups."""
    return dict(re.findall(r'(\w+): ("[^"]*"|\S+)', text))


def test_the_description_of_an_h200() -> None:
    """As CUDA reports its sizes."""
    expected = {
        "major": "9",
        "feature_extension": "ACCELERATED_FEATURES",
        "core_count": "132",
        "memory_bandwidth": "4800000000000",
        "l2_cache_size": "52428800",
        "device_memory_size": "151397597184",
        "shared_memory_per_core": "233472",
        "shared_memory_per_block_optin": "232448",
        "threads_per_core_limit": "2048",
        "device_description_str": '"NVIDIA H200"',
    }
    assert expected.items() <= fields(target("H200")).items()


@pytest.mark.parametrize("name", NAMES)
def test_every_gpu_has_its_own_description_and_bounds(name: str) -> None:
    found = fields(target(NAMES[name]))
    kind = found["device_description_str"].strip('"')
    chip = chip_of(kind)
    assert chip is not None
    assert chip.die is not None
    assert chip.die.capability in LIMITS
    assert found["core_count"] == str(chip.die.cores)
    assert found["memory_bandwidth"] == f"{chip.memory}{9 * '0'}"
    assert peak_flops(kind) is not None
    assert kind.removeprefix("NVIDIA ").lower().replace(" ", "") == name


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The calls that describe devices, with a compiler that is installed."""
    calls: list[dict[str, Any]] = []

    def describe(**options: Any) -> SimpleNamespace:
        calls.append(options)
        return SimpleNamespace(devices=[])

    monkeypatch.setattr(topologies, "get_topology_desc", describe)
    monkeypatch.setattr(gpus, "version", lambda _: "1.0")
    keep = gpus.attention.check_cudnn_version
    monkeypatch.setattr(gpus.attention, "check_cudnn_version", keep)
    return calls


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("h200", "H200", "1x1x1"),
        ("h100pcie", "H100 PCIe", "1x1x1"),
        ("rtx5090-2", "RTX 5090", "1x1x2"),
        ("h100-8", "H100", "1x1x8"),
    ],
)
def test_gpus_by_name(
    name: str, kind: str, shape: str, described: list[dict[str, Any]]
) -> None:
    assert devices_of(name) == []
    (call,) = described
    assert (call["platform"], call["topology"]) == ("cuda", shape)
    assert call["target_config"] == target(kind)


def test_an_unknown_name_lists_slices_and_gpus() -> None:
    for name in ("v99-8", "h300", "h200-0", "h200-"):
        with pytest.raises(UserError, match=f"`v4-64`.*h200.*here.*`{name}`"):
            devices_of(name)


def test_without_the_compiler(
    monkeypatch: pytest.MonkeyPatch, described: list[dict[str, Any]]
) -> None:
    def missing(wheel: str) -> str:
        if wheel == WHEELS[-1]:
            raise PackageNotFoundError(wheel)
        return "1.0"

    monkeypatch.setattr(gpus, "version", missing)
    with pytest.raises(UserError, match=r"nvcc-cu12 is missing.*'\.\[compile-gpu\]'"):
        devices_of("h200")
    assert described == []


def test_jax_reserves_a_share_of_a_gpus_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu: Any = SimpleNamespace(platform="gpu", device_kind="NVIDIA H200")
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert room_of(gpu) == 0.75 * 141 * 2**30
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")
    assert room_of(gpu) == 0.5 * 141 * 2**30
    gpu.device_kind = "NVIDIA H300"
    assert room_of(gpu) is None


@pytest.mark.parametrize(("capability", "kernel"), [("8.0", "cudnn"), ("7.5", "xla")])
def test_the_kernel_of_a_gpu_that_is_not_here(capability: str, kernel: str) -> None:
    gpu = SimpleNamespace(platform="gpu", compute_capability=capability)
    case: Any = {"precision": "bfloat16", "length": 97, "head_dim": 64}
    assert pick_kernel("auto", device=gpu, **case) == kernel


PROGRAM = """HloModule jit_step, is_scheduled=true

%fused (p: bf16[8,64]) -> bf16[8,64] {
  %p = bf16[8,64]{1,0} parameter(0)
  ROOT %sine = bf16[8,64]{1,0} sine(%p)
}

%body (q: bf16[8,64]) -> bf16[8,64] {
  %q = bf16[8,64]{1,0} parameter(0)
  ROOT %f = bf16[8,64]{1,0} fusion(%q), kind=kLoop, calls=%fused
}

%more (c: bf16[8,64]) -> pred[] {
  %c = bf16[8,64]{1,0} parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (x: bf16[8,64], w: bf16[64,64]) -> bf16[8,64] {
  %x = bf16[8,64]{1,0} parameter(0)
  %w = bf16[64,64]{1,0} parameter(1)
  %mm = (bf16[8,64]{1,0}, s8[33554432]{0}) custom-call(%x, %w), \
custom_call_target="__cublas$lt$matmul"
  %y = bf16[8,64]{1,0} get-tuple-element(%mm), index=0
  %at = (bf16[8,64]{1,0}, f32[8]{0}, u8[0]{0}) custom-call(%y, %y, %y), \
custom_call_target="__cudnn$fmhaSoftmax"
  %z = bf16[8,64]{1,0} get-tuple-element(%at), index=0
  %s = bf16[8,64]{1,0} all-reduce-start(%z), replica_groups={}, to_apply=%fused
  %d = bf16[8,64]{1,0} all-reduce-done(%s)
  ROOT %loop = bf16[8,64]{1,0} while(%d), condition=%more, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_launches_and_bytes_of_a_program() -> None:
    """A product, attention, a sum over devices and five rounds of a fusion.

    Calls do not move the memory that they may use.
    """
    compiled, array = Program(PROGRAM), 2 * 8 * 64
    assert compiled.launches() == 3 + 5
    moved = {run.operation.name: size for size, run in compiled.traffic() if size}
    assert moved == {
        "mm": 2 * array + 2 * 64 * 64,
        "at": 4 * array + 4 * 8,
        "s": 2 * array,
        "f": 5 * 2 * array,
    }


INSTALLED = {distribution.name for distribution in distributions()}


@pytest.fixture
def h200s(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    keep = gpus.attention.check_cudnn_version
    monkeypatch.setattr(gpus.attention, "check_cudnn_version", keep)
    return devices_of("h200-2")


def small(config: Any, **sizes: Any) -> Any:
    return replace(config, batch_size=8, model=replace(config.model, **sizes))


TRM = small(
    TRM_PRESETS["sudoku-attention"][1],
    **{"dim": 128, "heads": 2, "puzzle_dim": 128, "layers": 1, "L_cycles": 1},
)
GPT = small(
    replace(GPT_PRESETS["shakespeare-char"][1], microbatch_size=2),
    **{"n_layer": 2, "n_head": 2, "n_embd": 128, "dropout": 0.0, "unroll": None},
)


@pytest.mark.slow
@pytest.mark.usefixtures("no_persistent_cache")
@pytest.mark.skipif(not INSTALLED.issuperset(WHEELS), reason="needs the GPU's compiler")
@pytest.mark.parametrize(
    ("config", "loops", "forward", "backward"),
    [(TRM, [2], 2 * 2 + 2, 2), (GPT, [2], 2 * 2, 2 * 2)],
    ids=["trm", "gpt"],
)
def test_steps_for_gpus(
    config: TrainTRM | TrainGPT,
    loops: list[int],
    forward: int,
    backward: int,
    h200s: list[Any],
) -> None:
    """In place, with cuDNN's attention and one set of collectives.

    The loops are cycles without gradient, and slices; blocks are in a row.
    """
    facts, program = study(experiment_of(config, make_mesh(MeshConfig(data=2), h200s)))
    assert facts["fits"]
    assert facts["device"] == "NVIDIA H200"
    assert facts["aliased_arrays"] == facts["arrays"]
    assert facts["loops"] == loops
    assert facts["collectives"]
    assert facts["collectives_in_loops"] == 0
    assert program is not None
    calls = Counter[bool]()
    for run in program.runs:
        if "__cudnn$fmha" in run.operation.rest:
            calls["Backward" in run.operation.rest] += run.times
    assert calls == {False: forward, True: backward}
    assert facts["launches"] > 5 * (forward + backward)
