"""`python -m train.compile` on the devices at hand, and what it says of others."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import train.compile
from configs import (
    ARC,
    GeneratedSudoku,
    GPTConfig,
    MeshConfig,
    PuzzleDataConfig,
    TrainGPT,
    TrainTRM,
    TRMConfig,
    UserError,
)
from data import remote
from data.build import prepare
from data.storage import open_path, upload
from train import cli
from train.compile import (
    describe,
    experiment_of,
    main,
    sizes_of,
    slices_flag,
    with_more_slices,
)
from train.mesh import make_mesh
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.roofline.chips import slice_devices
from train.roofline.cost import flops
from train.roofline.study import (
    Facts,
    asked_for,
    roofline,
    room_of,
    study,
    trace,
)
from train.runs.record import settings

QUICKSTART = ["quickstart", "--config.batch-size", "16", "--config.mesh.data", "8"]


def test_a_preset_on_the_devices_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    words = ["--topology", "here", "--top", "3", "--json", str(file)]
    assert main([*QUICKSTART, *words]) == 0
    said = capsys.readouterr().out
    assert "8 x cpu, mesh 8 x 1: 16 examples a step, 2 on a device in 1 slice" in said
    assert "fits      yes" in said
    assert said.count(" x fusion") + said.count(" x dot") >= 1
    found = json.loads(file.read_text())
    assert found["fits"] is True
    assert found["aliased_arrays"] == found["arrays"]
    assert found["flops"] > 10**7
    assert found["collectives_in_loops"] == 0
    assert found["bytes"] > found["state"]["model"]


def test_every_preset_has_sizes_without_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = {
        name: sizes_of(config) for name, (_, config) in train.compile.PRESETS.items()
    }
    assert found["sudoku"] == {"vocab": 11, "seq": 81, "puzzles": 1}
    assert found["arc1"]["puzzles"] == 876_410
    assert found["gpt2"] == {"tokens": 50257}
    assert found["shakespeare-char"] == {"tokens": 65}
    assert len(found) == len(TRM_PRESETS) + len(GPT_PRESETS), "no name twice"
    unknown = replace(
        TRM_PRESETS["sudoku"][1], data=PuzzleDataConfig(paths=("mine",), build=None)
    )
    with pytest.raises(UserError, match="make `mine` first"):
        sizes_of(unknown)


def test_sizes_of_other_arc_data_are_not_made_up() -> None:
    """With other subsets or augmentations there are other identifiers."""
    run = TRM_PRESETS["arc1"][1]
    assert isinstance(run.data.build, ARC)
    of = lambda **changes: replace(
        run, data=replace(run.data, build=replace(run.data.build, **changes))
    )
    assert sizes_of(of(processes=8, source="elsewhere"))["puzzles"] == 876_410
    for changes in ({"augmentations": 10}, {"subsets": ("training", "evaluation")}):
        with pytest.raises(UserError, match="make `datasets/arc1concept-aug-1000`"):
            sizes_of(of(**changes))


def test_sizes_of_data_in_a_store(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read there, though such a path is not built."""
    monkeypatch.setenv("TINY_RECURSIVE_JAX_DATASETS", str(tmp_path / "cache"))
    remote._copied.cache_clear()
    prepare(GeneratedSudoku(size=4, train=16, test=8), tmp_path / "made")
    address = f"{bucket}/{tmp_path.name}/sudoku"
    upload(tmp_path / "made", open_path(address))  # pyright: ignore[reportArgumentType]
    stored = lambda path: replace(
        TRM_PRESETS["quickstart"][1], data=PuzzleDataConfig(paths=(path,), build=None)
    )
    assert sizes_of(stored(address)) == {"vocab": 6, "seq": 16, "puzzles": 1}
    with pytest.raises(UserError, match="make `gs://"):
        sizes_of(stored(address + "-elsewhere"))


def test_the_next_number_of_slices() -> None:
    run = replace(TRM_PRESETS["sudoku"][1], batch_size=24, accumulation=3)
    more = with_more_slices(run, 1)
    assert more is not None
    assert slices_flag(more) == "--config.accumulation 6"
    assert with_more_slices(replace(run, accumulation=24), 1) is None
    text = GPT_PRESETS["gpt2"][1]
    more = with_more_slices(text, 1)
    assert more is not None
    assert slices_flag(more) == "--config.microbatch-size 6"
    assert with_more_slices(replace(text, microbatch_size=1), 1) is None


def test_slices_divide_what_a_device_has_of_every_batch() -> None:
    run = replace(TRM_PRESETS["sudoku"][1], batch_size=768)
    more = with_more_slices(replace(run, accumulation=4), 32)  # 24 puzzles each
    assert more is not None
    assert slices_flag(more) == "--config.accumulation 8"
    assert with_more_slices(replace(run, accumulation=24), 32) is None
    growing = replace(run, batch_schedule="9:1152", accumulation=4)  # then 36
    more = with_more_slices(growing, 32)
    assert more is not None
    assert slices_flag(more) == "--config.accumulation 12"


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["quickstart", "--config.batch-size", "20"], "8 devices of the mesh: got 20"),
        (["gpt2", "--config.batch-size", "12"], "8 devices of the mesh: got 12"),
        (
            ["quickstart", "--config.batch-schedule", "9:20"],
            "8 devices of the mesh: got 20",
        ),
        (
            ["quickstart", "--config.accumulation", "4"],
            "`accumulation` must divide the 2 puzzles of a device: got 4",
        ),
    ],
)
def test_a_batch_that_training_would_refuse(words: list[str], refused: str) -> None:
    with pytest.raises(UserError, match=refused):
        main(words)


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
    """What is known but for seconds."""
    mesh = make_mesh(MeshConfig(data=2))
    facts, _ = study(experiment_of(config, mesh))
    return {name: value for name, value in facts.items() if not name.endswith("_s")}


@pytest.mark.parametrize("config", [SMALL, SMALL_TEXT], ids=["trm", "gpt"])
def test_of_several_batches_the_largest(config: TrainTRM | TrainGPT) -> None:
    growing = replace(config, batch_schedule="5:16,9:4")
    assert studied(growing) == studied(replace(config, batch_size=16))


def test_of_several_depths_the_deepest() -> None:
    """Wherever it begins, and in a run of any length."""
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


def test_runs_of_both_kinds_are_taken_from_their_files(
    tmp_path: Path,
) -> None:
    """A GPT's too, though the first preset is a TRM."""
    for config, preset in ((SMALL, "sudoku"), (SMALL_TEXT, "gpt2")):
        file = tmp_path / "config.json"
        file.write_text(json.dumps(settings(config)))
        words = ["--config-file", str(file), "--config.batch-size", "16"]
        found = cli.parse(train.compile.PRESETS, "", words)
        assert found == (preset, replace(config, batch_size=16))


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
    "code": 0,
    "room": None,
    "peak": 2**30,
    "compile_s": 1.0,
    "fits": True,
}


def test_the_roofline() -> None:
    """10 ms of products, 30 ms of memory for two steps of 8 examples."""
    found = roofline(FACTS)
    assert found["seconds"]["compute"] == pytest.approx(0.010)
    assert found["seconds"]["memory"] == pytest.approx(0.030)
    assert found["seconds"]["network"] == pytest.approx(15e-6)
    assert found["bound"] == "memory"
    assert found["best_rate"] == pytest.approx(16 / 0.030)
    facts = FACTS | found | {"rates": {"mfu": 0.123}}
    said = "\n".join(describe(facts, TRM_PRESETS["sudoku"][1], False))
    assert "an MFU of 12%" in said
    assert "5.00 ms a step by compute: 1.38 TFLOP" in said
    assert "15.00 ms a step by memory: 18.4 GB  <- the bound" in said
    assert "ms a step by network: 2.5 MB in collectives" in said
    assert "all-reduce 0.5 (0.5 MB), all-gather 1 (2.0 MB)" in said
    assert "at most 533 examples a second" in said
    assert roofline(FACTS | {"device": "cpu"}) == {}


def test_a_run_that_does_not_fit() -> None:
    """The compiler's numbers, and the flag to try."""
    config = TRM_PRESETS["sudoku"][1]
    facts = FACTS | {"fits": False, "peak": 47.1 * 2**30, "room": 30.75 * 2**30}
    said = "\n".join(describe(facts, config, False))
    assert "no: 47.10 GiB of 30.75 GiB a device" in said
    assert "Try `--config.accumulation 2`, or `--fit`." in said
    assert "Try" not in "\n".join(describe(facts, config, True))


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
def test_what_a_refused_program_would_take(refusal: str, gib: float | None) -> None:
    assert asked_for(refusal) == (None if gib is None else pytest.approx(gib * 2**30))


def test_what_a_tpu_has_for_programs() -> None:
    """As libtpu says it, a little less than all of its memory."""
    tpu = lambda kind: SimpleNamespace(platform="tpu", device_kind=kind)
    assert room_of(tpu("TPU v4")) == 30.75 * 2**30
    assert room_of(tpu("TPU v5 lite")) == 15.75 * 2**30
    assert room_of(tpu("TPU v9")) is None


@pytest.mark.parametrize("name", ["v9-8", "v4", "v4-", "h100", "v4-64x2"])
def test_a_slice_that_there_is_not(name: str) -> None:
    with pytest.raises(UserError, match="A slice must be named as `v4-64`"):
        slice_devices(name)


def test_a_number_of_chips_that_has_no_shape() -> None:
    with pytest.raises(UserError, match="power of two of chips: got `v4-24`"):
        slice_devices("v4-24")


def test_without_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: object) -> None:
        raise RuntimeError("JAX TPU support not installed; cannot generate topology.")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", missing)
    with pytest.raises(UserError, match=r"no TPU: `pip install -e '\.\[tpu\]'`"):
        slice_devices("v4-64")
