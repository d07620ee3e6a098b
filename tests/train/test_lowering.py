"""The train step of every preset can be lowered for GPUs and TPUs, without any.

From shapes alone, with the attention kernel that `auto` selects there.
"""

import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from configs import TrainGPT, TrainTRM, UserError
from data.puzzles.dataset import Puzzle
from data.text.dataset import Tokens
from gpt import attention
from gpt.attention import Kernel, pick_kernel
from train.experiment import AbstractExperiment
from train.gpt import GPTExperiment
from train.mesh import AXES
from train.models import Sizes, build_model
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.state import abstract_state
from train.step import make_train_step
from train.trm import TRMExperiment

# The others differ little and are slow to lower: `pytest -m slow` runs them.
QUICK = ("sudoku-attention", "gpt2", "shakespeare-char")


def some(presets: Iterable[str]) -> list:
    """Return presets as parameters, all except `QUICK` marked as slow."""
    slow = pytest.mark.slow
    return [n if n in QUICK else pytest.param(n, marks=slow) for n in presets]


SUDOKU = {"vocab": 11, "seq": 81, "puzzles": 1}
GRIDS = {"vocab": 12, "seq": 900, "puzzles": 1000}
TRM = {name: config for name, (_, config) in TRM_PRESETS.items()}
GPT = {name: config for name, (_, config) in GPT_PRESETS.items()}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """An A100, as far as our code and JAX's query it: compute capability 8.0."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "compute_capability", lambda _: 8.0)
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(
        cudnn, "check_compute_capability", lambda wanted: float(wanted) <= 8.0
    )
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda _: False)


@pytest.fixture
def tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


def trm_kernel(config: TrainTRM, sizes: Sizes = SUDOKU) -> Kernel:
    return pick_kernel(
        config.model.attention,
        precision=config.precision,
        length=config.model.prefix + sizes["seq"],
        head_dim=config.model.head_dim,
    )


def lower_trm(
    config: TrainTRM, mesh: Mesh, platform: str, sizes: Sizes = SUDOKU
) -> str:
    """Return the program of a preset's train step, on 9x9 Sudoku by default."""
    kernel, size, seq = trm_kernel(config, sizes), config.batch_size, sizes["seq"]
    batch = Puzzle(*(rows(mesh, size, *n) for n in ((seq,), (seq,), ())))
    experiment = TRMExperiment(config, mesh=mesh, sizes=sizes)
    build = lambda: build_model(config, sizes, kernel)
    return lower(experiment, build, batch, platform)


def gpt_kernel(config: TrainGPT) -> Kernel:
    return pick_kernel(
        config.model.attention,
        precision=config.precision,
        length=config.model.block_size,
        head_dim=config.model.n_embd // config.model.n_head,
    )


def lower_gpt(config: TrainGPT, mesh: Mesh, platform: str) -> str:
    """Return the program of a preset's train step on GPT-2's tokens."""
    kernel, shape = gpt_kernel(config), config.model
    text = rows(mesh, config.batch_size, shape.block_size)
    sizes = {"tokens": 50257}
    experiment = GPTExperiment(config, mesh=mesh, sizes=sizes)
    build = lambda: build_model(config, sizes, kernel)
    return lower(experiment, build, Tokens(text, text), platform)


def rows(mesh: Mesh, size: int, *shape: int) -> jax.ShapeDtypeStruct:
    """Return the shape of integers per row of a batch: one call, one step."""
    sharding = NamedSharding(mesh, PartitionSpec(None, None, AXES))
    return jax.ShapeDtypeStruct((1, 1, size, *shape), jnp.int32, sharding=sharding)


def lower(experiment: AbstractExperiment, build: Any, batch: Any, platform: str) -> str:
    experiment.build, experiment.total = build, 10**6
    mesh, state = experiment.mesh, abstract_state(experiment.init, experiment.mesh)
    parts = experiment, experiment.optimizer, mesh, experiment.step_config, state
    step = make_train_step(*parts, compiled=False)
    traced = jax.jit(step).trace(state, batch)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def calls(program: str) -> dict[str, int]:
    """Return how often a program calls each attention kernel."""
    called = re.findall(r"stablehlo.custom_call @([\w$]+)", program)
    kernels = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward", "tpu_custom_call")
    return {name: called.count(name) for name in kernels if name in called}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", some(TRM))
def test_trm_on_a_gpu(name: str, one_device: Mesh) -> None:
    config = TRM[name]
    half = config.precision != "float32"
    fused = config.model.mixer == "attention" and half
    assert trm_kernel(config) == ("cudnn" if half else "xla")
    assert (len(calls(lower_trm(config, one_device, "cuda"))) == 2) == fused


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", some(GPT))
def test_gpt_on_a_gpu(name: str, one_device: Mesh) -> None:
    config = GPT[name]
    called = calls(lower_gpt(config, one_device, "cuda"))
    half, dropout = config.precision != "float32", config.model.dropout > 0
    assert gpt_kernel(config) == ("cudnn" if half else "xla")
    assert len(called) == (2 if half and not dropout else 0)


@pytest.mark.usefixtures("tpu")
@pytest.mark.parametrize("name", some(TRM))
def test_trm_on_a_tpu(name: str, one_device: Mesh) -> None:
    """Splash does not support a length of 97."""
    assert trm_kernel(TRM[name]) == "tiles"
    assert calls(lower_trm(TRM[name], one_device, "tpu")) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("tpu")
def test_grids_of_arc_on_a_tpu(one_device: Mesh) -> None:
    """A length of 916 is padded for splash."""
    assert trm_kernel(TRM["arc1"], GRIDS) == "splash"
    assert calls(lower_trm(TRM["arc1"], one_device, "tpu", GRIDS))


@pytest.mark.usefixtures("tpu")
@pytest.mark.parametrize("name", some(GPT))
def test_gpt_on_a_tpu(name: str, one_device: Mesh) -> None:
    config = GPT[name]
    splash = config.model.block_size >= 128
    assert gpt_kernel(config) == ("splash" if splash else "tiles")
    dropout = config.model.dropout > 0
    assert bool(calls(lower_gpt(config, one_device, "tpu"))) == (splash and not dropout)


@pytest.mark.parametrize(
    ("backend", "capability", "sizes"),
    [
        ("cpu", 0.0, {}),
        ("gpu", 0.0, {}),  # AMD
        ("gpu", 7.5, {}),
        ("gpu", 9.0, {"precision": "float32"}),
        ("gpu", 9.0, {"head_dim": 136}),
    ],
)
def test_cudnn_is_refused_where_it_cannot_run(
    backend: str,
    capability: float,
    sizes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(attention, "compute_capability", lambda _: capability)
    case = {"precision": "bfloat16", "length": 97, "head_dim": 64} | sizes
    assert pick_kernel("auto", **case) == "xla"
    with pytest.raises(UserError, match="cudnn"):
        pick_kernel("cudnn", **case)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("head_dim", [20, 64, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_odd_lengths_and_any_width_on_a_gpu(causal: bool, head_dim: int) -> None:
    """A position of padding is masked if others would see it."""
    shape = jax.ShapeDtypeStruct((2, 97, 8, head_dim), jnp.bfloat16)

    def score(*qkv: jax.Array) -> jax.Array:
        mixed = attention.attend(*qkv, causal=causal, kernel="cudnn")
        return jnp.sum(mixed.astype(jnp.float32))

    traced = jax.jit(jax.grad(score, (0, 1, 2))).trace(shape, shape, shape)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert set(calls(program).values()) == {1}
    masks = re.findall(r"mask_type\\22: \\22(\w+)\\22", program)
    assert masks == 2 * ["CAUSAL" if causal else "PADDING"]
