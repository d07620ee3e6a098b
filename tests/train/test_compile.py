"""`python -m train.compile` on the devices at hand, and what it says of others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import train.compile
from configs import PuzzleDataConfig, UserError
from train.compile import describe, main, sizes_of, slices_flag, with_more_slices
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.roofline.chips import slice_devices
from train.roofline.study import roofline, sent

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


def test_the_next_number_of_slices() -> None:
    run = replace(TRM_PRESETS["sudoku"][1], batch_size=24, accumulation=3)
    more = with_more_slices(run)
    assert more is not None
    assert slices_flag(more) == "--config.accumulation 6"
    assert with_more_slices(replace(run, accumulation=24)) is None
    text = GPT_PRESETS["gpt2"][1]
    more = with_more_slices(text)
    assert more is not None
    assert slices_flag(more) == "--config.microbatch-size 6"
    assert with_more_slices(replace(text, microbatch_size=1)) is None


FACTS = {
    "device": "TPU v4",
    "mesh": {"data": 4, "model": 1},
    "batch": 8,
    "slices": 1,
    "examples": 16,
    "state": {"model": 10**6, "batch": 0},
    "arrays": 3,
    "aliased_arrays": 3,
    "flops": 275 * 10**10,
    "bytes": 1228 * 10**6 * 30,
    "collectives": {"all-reduce": (1, 10**6), "all-gather": (2, 4 * 10**6)},
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
    mesh = train.compile.make_mesh(replace(TRM_PRESETS["sudoku"][1].mesh, data=4))
    assert sent(FACTS["collectives"], mesh) == 0.75 * (2 * 10**6 + 4 * 10**6)
    found = roofline(FACTS, mesh)
    assert found["seconds"]["compute"] == pytest.approx(0.010)
    assert found["seconds"]["memory"] == pytest.approx(0.030)
    assert found["seconds"]["network"] == pytest.approx(15e-6)
    assert found["bound"] == "memory"
    assert found["best_rate"] == pytest.approx(16 / 0.030)
    facts = FACTS | found | {"rates": {"mfu": 0.123}}
    said = "\n".join(describe(facts, TRM_PRESETS["sudoku"][1], False))
    assert "an MFU of 12%" in said
    assert "15.00 ms a step by memory: 36.8 GB  <- the bound" in said
    assert "at most 533 examples a second" in said
    assert roofline(FACTS | {"device": "cpu"}, mesh) == {}


def test_a_run_that_does_not_fit() -> None:
    """The compiler's numbers, and the flag to try."""
    config = TRM_PRESETS["sudoku"][1]
    facts = FACTS | {"fits": False, "peak": 47.1 * 2**30, "room": 30.75 * 2**30}
    said = "\n".join(describe(facts, config, False))
    assert "no: 47.10 GiB of 30.75 GiB a device" in said
    assert "Try `--config.accumulation 2`, or `--fit`." in said
    assert "Try" not in "\n".join(describe(facts, config, True))


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
