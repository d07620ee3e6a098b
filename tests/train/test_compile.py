"""`python -m train.compile` here, and its bounds for other devices."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from configs import (
    ARC,
    GeneratedSudoku,
    GPTConfig,
    MeshConfig,
    PuzzleDataConfig,
    SudokuExtreme,
    TrainGPT,
    TrainTRM,
    TRMConfig,
    UserError,
)
from data import remote
from data.build import prepare
from data.storage import open_path, upload
from train import cli
from train.compile import PRESETS, main
from train.mesh import make_mesh
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.roofline.cost import flops
from train.roofline.dataless import experiment_of, more_slices, sizes_of
from train.roofline.report import describe
from train.roofline.study import (
    Facts,
    needed_bytes,
    roofline,
    room_of,
    study,
    trace,
)
from train.roofline.topology import devices_of
from train.roofline.whole import Plan, describe_run, plan_of
from train.runs.record import settings
from train.trm import TRMExperiment

QUICKSTART = ["quickstart", "--config.batch-size", "16", "--config.mesh.data", "8"]


def test_a_preset_on_the_devices_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    words = ["--topology", "here", "--top", "3", "--json", str(file)]
    assert main([*QUICKSTART, *words]) == 0
    assert " x fusion" in capsys.readouterr().out
    facts = json.loads(file.read_text())
    assert facts["fits"] is True
    assert facts["mesh"] == {"data": 8, "model": 1}
    assert (facts["batch"], facts["slices"]) == (16, 1)
    assert facts["aliased_arrays"] == facts["arrays"]
    assert facts["flops"] > 10**7
    assert facts["collectives_in_loops"] == 0
    assert facts["bytes"] > facts["state"]["model"]


def test_every_preset_has_sizes_without_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {name: sizes_of(config) for name, (_, config) in PRESETS.items()}
    assert sizes["sudoku"] == {"vocab": 11, "seq": 81, "puzzles": 1}
    assert sizes["arc1"]["puzzles"] == 875_403
    assert sizes["gpt2"] == {"tokens": 50257}
    assert sizes["shakespeare-char"] == {"tokens": 65}
    assert len(sizes) == len(TRM_PRESETS) + len(GPT_PRESETS), "no name twice"
    unknown = replace(
        TRM_PRESETS["sudoku"][1], data=PuzzleDataConfig(paths=("mine",), build=None)
    )
    with pytest.raises(UserError, match="`mine`"):
        sizes_of(unknown)


def test_sizes_of_other_arc_data_are_not_made_up() -> None:
    """Other subsets or augmentations have other identifiers."""
    run = TRM_PRESETS["arc1"][1]
    build = run.data.build
    assert isinstance(build, ARC)
    of = lambda **changes: replace(
        run, data=replace(run.data, build=replace(build, **changes))
    )
    assert sizes_of(of(processes=8, source="elsewhere"))["puzzles"] == 875_403
    for changes in ({"augmentations": 10}, {"subsets": ("training", "evaluation")}):
        with pytest.raises(UserError, match="`datasets/arc1concept-aug-1000`"):
            sizes_of(of(**changes))


def test_sizes_of_data_in_a_store(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data in a store are read, but never built."""
    monkeypatch.setenv("TINY_RECURSIVE_JAX_DATASETS", str(tmp_path / "cache"))
    remote._copied.cache_clear()
    prepare(GeneratedSudoku(size=4, train=16, test=8), tmp_path / "made")
    address = f"{bucket}/{tmp_path.name}/sudoku"
    upload(tmp_path / "made", open_path(address))  # pyright: ignore[reportArgumentType]
    stored = lambda path: replace(
        TRM_PRESETS["quickstart"][1], data=PuzzleDataConfig(paths=(path,), build=None)
    )
    assert sizes_of(stored(address)) == {"vocab": 6, "seq": 16, "puzzles": 1}
    with pytest.raises(UserError, match="`gs://"):
        sizes_of(stored(address + "-elsewhere"))


def test_the_next_number_of_slices() -> None:
    run = replace(TRM_PRESETS["sudoku"][1], batch_size=24)
    assert more_slices(run, 1, 3) == {"accumulation": 6}
    assert more_slices(run, 1, 24) == {}
    text = GPT_PRESETS["gpt2"][1]
    assert more_slices(text, 1, 40) == {"microbatch_size": 6}
    assert more_slices(replace(text, microbatch_size=1), 1, 480) == {}


def test_slices_divide_the_rows_of_a_device() -> None:
    """In every batch of the schedule."""
    run = replace(TRM_PRESETS["sudoku"][1], batch_size=768)
    assert more_slices(run, 32, 4) == {"accumulation": 8}  # 24 puzzles each
    assert more_slices(run, 32, 24) == {}
    growing = replace(run, batch_schedule="9:1152")  # then 36
    assert more_slices(growing, 32, 4) == {"accumulation": 12}


def on(platform: str, devices: int, batch: int, seq: int, **changes: int) -> int:
    """Return the slices of a Sudoku run's batch on devices that are not here."""
    config = replace(TRM_PRESETS["sudoku"][1], batch_size=batch, **changes)
    experiment = TRMExperiment(config, sizes={"seq": seq})
    kind = SimpleNamespace(platform=platform)
    mesh = SimpleNamespace(size=devices, devices=np.array([kind]))
    vars(experiment)["mesh"] = mesh
    return experiment.step_config.accumulation


@pytest.mark.parametrize(
    ("devices", "batch", "seq", "slices"),
    [
        (32, 6144, 81, 8),  # 192 puzzles of 97 positions: 24 in a slice
        (32, 768, 81, 1),
        (32, 768, 900, 8),  # 24 of 916: 3 in a slice
        (32, 32 * 53, 81, 1),  # a prime number cannot be split
        (8, 8, 900, 1),
    ],
)
def test_slices_that_auto_makes(
    devices: int, batch: int, seq: int, slices: int
) -> None:
    assert on("tpu", devices, batch, seq) == slices
    assert on("tpu", devices, batch, seq, accumulation=1) == 1
    assert on("cpu", devices, batch, seq) == on("gpu", devices, batch, seq) == 1


def test_the_plan_of_the_papers_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official 65,104 steps; evaluations after each 6,510, the tenth of 65,100."""
    monkeypatch.chdir(tmp_path)
    config = TRM_PRESETS["sudoku"][1]
    plan = plan_of(config)
    assert (plan.steps, plan.evaluations) == (65_104, 10)
    assert plan.batches(768) == 10 * 14 + 551
    text = plan_of(GPT_PRESETS["gpt2"][1])
    assert (text.steps, text.evaluations) == (600_000, 299)
    assert text.batches(32) == 300 * 2 * 75  # 200 times 12 sequences of each split
    cut = replace(config, data=PuzzleDataConfig(build=SudokuExtreme(min_difficulty=9)))
    with pytest.raises(UserError, match="sudoku-extreme-1k"):
        plan_of(cut)


def test_the_time_of_a_run() -> None:
    """60 steps of 1 s, 30 by the bound; 4 batches of evaluation, of 5 s and 10 s."""
    plan = Plan(steps=60, evaluations=1, between=(8,), last=(20,))
    evaluation = {"examples": 8, "fits": True, "lower_s": 1.0, "compile_s": 3.0}
    evaluation |= {"loops": [16]}
    evaluation |= {"seconds": {"memory": 5.0}, "bound": "memory", "estimate": 10.0}
    facts = evaluation | {"updates": 2, "compile_s": 6.0, "evaluation": evaluation}
    facts |= {"seconds": {"memory": 1.0}, "estimate": 2.0}
    lines = "\n".join(describe_run(plan, facts))
    assert "0:30 of steps, 0:20 of evaluations, 0:07 of compiling" in lines
    assert "1:00 of steps, 0:40 of evaluations, 0:07 of compiling" in lines
    assert "0:57 in all" in lines
    assert "1:47 in all" in lines
    facts["evaluation"] = evaluation | {"fits": False}
    assert "does not fit" in "\n".join(describe_run(plan, facts))


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("quickstart --config.batch-size 20", 20),
        ("gpt2 --config.batch-size 12", 12),
        ("quickstart --config.batch-schedule 9:20", 20),
        ("quickstart --config.accumulation 4", 4),
    ],
)
def test_a_batch_that_training_would_refuse(words: str, value: int) -> None:
    with pytest.raises(UserError, match=f"got {value}"):
        main(words.split())


SMALL = replace(
    TRM_PRESETS["quickstart"][1],
    batch_size=8,
    model=TRMConfig(
        dim=16, layers=1, heads=2, H_cycles=1, L_cycles=1, prefix=1, puzzle_dim=16
    ),
    data=PuzzleDataConfig(paths=("none",), build=GeneratedSudoku(size=4)),
)
SMALL_TEXT = replace(
    GPT_PRESETS["shakespeare-char-cpu"][1],
    batch_size=8,
    model=GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=16),
)


def studied(config: TrainTRM | TrainGPT) -> Facts:
    """Return the facts without times."""
    mesh = make_mesh(MeshConfig(data=2))
    facts, _ = study(experiment_of(config, mesh))
    return {name: value for name, value in facts.items() if not name.endswith("_s")}


@pytest.mark.parametrize("config", [SMALL, SMALL_TEXT], ids=["trm", "gpt"])
def test_the_largest_of_several_batches(config: TrainTRM | TrainGPT) -> None:
    growing = replace(config, batch_schedule="5:16,9:4")
    assert studied(growing) == studied(replace(config, batch_size=16))


def test_the_deepest_of_several_depths() -> None:
    """At any place in the schedule."""
    deep = lambda *depth: replace(SMALL, model=SMALL.model_at(depth))
    mesh = make_mesh(MeshConfig(data=2))

    def work(config: TrainTRM) -> int:
        traced, _, _ = trace(experiment_of(config, mesh))
        return flops(traced.jaxpr.jaxpr)

    most = work(deep(1, 3))
    for schedule in ("0:1x1,5:1x2,30%:1x3", "30%:1x3,500:1x1"):
        assert work(replace(SMALL, depth_schedule=schedule)) == most
    assert replace(deep(3, 3), depth_schedule="0:2x2").deepest == (2, 2)
    assert replace(deep(3, 3), depth_schedule="5:2x2").deepest == (3, 3)


def test_both_kinds_of_runs_are_read_from_files(tmp_path: Path) -> None:
    """Even a GPT's, though the first preset is a TRM."""
    runs = {"trm": (SMALL, "sudoku"), "gpt": (SMALL_TEXT, "gpt2")}
    for kind, (config, preset) in runs.items():
        file = tmp_path / "config.json"
        file.write_text(json.dumps(settings(config) | {"recorded": {"kind": kind}}))
        words = ["--config-file", str(file), "--config.batch-size", "16"]
        assert cli.parse(PRESETS, "", words) == (
            preset,
            replace(config, batch_size=16),
        )


FACTS = {
    "device": "TPU v4",
    "mesh": {"data": 4, "model": 1},
    "batch": 8,
    "slices": 1,
    "examples": 16,
    "updates": 2,
    "state": {"model": 10**6, "batch": 0},
    "arrays": 3,
    "aliased_arrays": 3,
    "flops": 275 * 10**10,
    "bytes": 1228 * 10**6 * 30,
    "collectives": {"all-reduce": (1, 10**6), "all-gather": (2, 4 * 10**6)},
    "sent": 0.75 * (2 * 10**6 + 4 * 10**6),
    "collectives_in_loops": 0,
    "loops": [2],
    "launches": None,
    "code": 0,
    "room": None,
    "peak": 2**30,
    "compile_s": 1.0,
    "fits": True,
    "cycles": {},
    "without_cycles": {},
}


def test_the_roofline() -> None:
    """10 ms of products, 30 ms of memory for two steps of 8 examples."""
    bounds = roofline(FACTS)
    assert bounds["seconds"]["compute"] == pytest.approx(0.010)
    assert bounds["seconds"]["memory"] == pytest.approx(0.030)
    assert bounds["seconds"]["network"] == pytest.approx(15e-6)
    assert bounds["bound"] == "memory"
    assert bounds["best_rate"] == pytest.approx(16 / 0.030)
    facts = FACTS | bounds | {"rates": {"mfu": 0.123}, "launches": 3000}
    lines = "\n".join(describe(facts, {}))
    for amount in (
        "5.00 ms",
        "15.00 ms",
        "1.38 TFLOP",
        "18.4 GB",
        "2.5 MB",
        "1,500 kernels",
    ):
        assert f" {amount}" in lines  # of one step
    for amount in ("all-reduce 0.5 (0.5 MB)", "all-gather 1 (2.0 MB)", "533", "12%"):
        assert amount in lines
    assert roofline(FACTS | {"device": "cpu"}) == {}


def test_the_estimate_of_the_compiler() -> None:
    """105 million cycles at 1.05 GHz for two steps."""
    cycles = {"cycles": {"product": 84 * 10**6, "copy": 21 * 10**6}}
    facts = FACTS | cycles | {"without_cycles": {"kernel": 8}}
    bounds = roofline(facts)
    assert bounds["estimate"] == pytest.approx(0.100)
    lines = "\n".join(describe(facts | bounds | {"rates": {}}, {}))
    for part in (
        "50.00 ms",
        "product 40.0, copy 10.0",
        "kernel 4",
        " by the estimate 160",
    ):
        assert part in lines


def test_a_run_that_does_not_fit() -> None:
    """The compiler's numbers, and the flag to try."""
    facts = FACTS | {"fits": False, "peak": 47.1 * 2**30, "room": 30.75 * 2**30}
    lines = "\n".join(describe(facts, {"accumulation": 2}))
    for part in ("47.10 GiB", "30.75 GiB", "`--config.accumulation 2`"):
        assert part in lines
    assert "--config" not in "\n".join(describe(facts, {}))


@pytest.mark.parametrize(
    ("refusal", "gib"),
    [
        ("Ran out of memory in memory space hbm. Used 47.10G of 30.75G hbm.", 47.1),
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries "
            "(200.00G) exceeds available HBM (30.75G).",
            200.0,
        ),
        ("Ran out of memory in memory space vmem. Used 20.1M of 16.0M vmem.", None),
    ],
)
def test_memory_of_a_refused_program(refusal: str, gib: float | None) -> None:
    assert needed_bytes(refusal) == (
        None if gib is None else pytest.approx(gib * 2**30)
    )


def test_memory_of_a_tpu() -> None:
    tpu = lambda kind: SimpleNamespace(platform="tpu", device_kind=kind)
    assert room_of(tpu("TPU v4")) == 30.75 * 2**30
    assert room_of(tpu("TPU v5 lite")) == 15.75 * 2**30
    assert room_of(tpu("TPU v9")) is None


@pytest.mark.parametrize("name", ["v9-8", "v4", "v4-", "h100-0", "v4-64x2", "v4-24"])
def test_a_slice_that_does_not_exist(name: str) -> None:
    with pytest.raises(UserError, match=f"`{name}`"):
        devices_of(name)


def test_without_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: object) -> None:
        raise RuntimeError("JAX TPU support not installed; cannot generate topology.")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", missing)
    with pytest.raises(UserError, match=r"pip install -e '\.\[tpu\]'"):
        devices_of("v4-64")
