"""Runs of `train.gpt` from the command line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs import GPTConfig, TextDataConfig, TextFiles, TrainGPT, UserError
from data.build import prepare
from data.text.tokenizer import Characters
from tests import runs
from tests.runs import Settings, finish, last_step, metrics, wait_for
from tests.tiny import assert_equal
from train import cli
from train.gpt import main
from train.gpt_weights import find_weights, resolve
from train.presets import GPT_PRESETS
from train.runs.loading import LoadedRun, load_run

GOLDEN = runs.ROOT / "tests" / "golden" / "gpt2_hf"
SETTINGS: Settings = {
    "batch-size": 8,
    "microbatch-size": 4,
    "max-iters": 40,
    "model.n-layer": 2,
    "model.n-head": 2,
    "model.n-embd": 16,
    "model.block-size": 8,
    "model.dropout": 0.2,
    "optim.warmup": 5,
    "eval.interval": 10,
    "eval.iters": 3,
    "run.save": "always",
    "run.save-every": 4,
    "run.log-every": 1,
}


def words(settings: Settings) -> list[str]:
    return runs.words("shakespeare-char-cpu", {**SETTINGS, **settings})


def start(settings: Settings, devices: int = 1) -> subprocess.Popen[str]:
    return runs.start("train.gpt", words(settings), devices)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    lines = ["to be or not to be, that is the question"[: rng.integers(9, 40)]]
    lines += [" ".join(rng.permutation(lines[0].split())) for _ in range(60)]
    (folder / "input.txt").write_text("\n".join(lines))
    prepare(
        TextFiles(input=(str(folder / "input.txt"),), tokens="char"), folder / "data"
    )
    return folder / "data"


def settings_of(text: Path, folder: Path, **more: object) -> Settings:
    return {"data.path": text, "run-dir": folder, **more}


@pytest.fixture(scope="session")
def complete(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an uninterrupted run; what it printed is in `out`, `err`."""
    folder = tmp_path_factory.mktemp("complete") / "run"
    out, err = finish(start(settings_of(text, folder)))
    (folder / "out").write_text(out)
    (folder / "err").write_text(err)
    return folder


def test_what_a_run_leaves_and_says(complete: Path) -> None:
    lines = metrics(complete)
    train = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in train] == list(range(1, 41))
    evaluations = [line for line in lines if line["split"] == "eval"]
    assert [line["step"] for line in evaluations] == [10, 20, 30, 40]
    assert {"train_loss", "val_loss"} <= evaluations[0].keys()
    assert evaluations[-1]["val_loss"] < evaluations[0]["val_loss"]
    assert {"loss", "grad_norm", "lr"} <= train[0].keys()
    assert "mfu" not in train[0], "the peak of a CPU is not known"
    rows = map(json.loads, (complete / "metrics.jsonl").read_text().splitlines())
    raw = next(row for row in rows if row["split"] == "train")
    assert raw["tokens_per_second"] == pytest.approx(8 * raw["examples_per_second"])
    out = (complete / "out").read_text()
    assert "40 steps of 8 sequences on a 1 x 1 mesh" in out
    assert f"python -m gpt.sample --run-dir {complete}" in out
    assert (complete / "err").read_text() == "", "no noise"


def test_evaluation_only(complete: Path, text: Path) -> None:
    """Nothing of the run changes; the same sequences, the same loss."""
    before = contents(complete)
    settings = settings_of(text, complete, **{"init-from": "resume"})
    process = runs.start("train.gpt", [*words(settings), "--config.run.eval-only"])
    out, err = finish(process)
    assert "After 40 steps" in out
    assert err == ""
    row = json.loads((complete / "evaluations.jsonl").read_text())
    assert (row["split"], row["examples"]) == ("eval-only", 2 * 3 * 4)
    assert row["weights"] == "checkpoint of step 40"
    (complete / "evaluations.jsonl").unlink()
    last = metrics(complete)[-1]
    assert {k: row[k] for k in ("step", "val_loss")} == {
        k: last[k] for k in ("step", "val_loss")
    }
    assert contents(complete) == before


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def kill(settings: Settings, folder: Path, step: int) -> None:
    """Start a run, or go on with it, and kill it once it has come to a step."""
    process = start(settings)
    wait_for(lambda: last_step(folder) >= step, process)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_killed_and_resumed_bit_for_bit(
    complete: Path, text: Path, tmp_path: Path
) -> None:
    folder, rng = tmp_path / "run", np.random.default_rng()
    for _ in range(3):
        step = min(last_step(folder) + int(rng.integers(2, 12)), 39)
        kill(settings_of(text, folder), folder, step)
    finish(start(settings_of(text, folder)))
    done = [line for line in metrics(complete) if line["step"] <= 40]
    assert metrics(folder) == done[: len(metrics(folder))]


@pytest.mark.slow
def test_killed_on_both_sides_of_a_change_of_batch(text: Path, tmp_path: Path) -> None:
    more = {"batch-schedule": "14:16,27:4", "batch-lr": "sqrt"}
    finish(start(settings_of(text, tmp_path / "whole", **more)))
    whole = metrics(tmp_path / "whole")
    batches = [line["batch_size"] for line in whole if line["split"] == "train"]
    assert batches == [8] * 14 + [16] * 13 + [4] * 13
    settings = settings_of(text, tmp_path / "killed", **more)
    for step in (13, 17, 28):
        kill(settings, tmp_path / "killed", step)
    finish(start(settings))
    assert metrics(tmp_path / "killed") == whole


@pytest.mark.slow
def test_another_mesh_evaluates_the_same(text: Path, tmp_path: Path) -> None:
    found = []
    for sizes in ((1, 1), (4, 2)):
        folder = tmp_path / str(sizes[0])
        more = {"mesh.data": sizes[0], "mesh.model": sizes[1], "model.dropout": 0.0}
        more |= {"max-iters": 5, "optim.name": "adamw"}
        finish(start(settings_of(text, folder, **more), devices=8))
        found.append(metrics(folder)[-1]["val_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.slow
def test_best_only_saves_what_is_best(text: Path, tmp_path: Path) -> None:
    """At a rate at which the loss goes up and down."""
    more = {"run.save": "best", "run.keep-last": 100, "eval.interval": 1}
    more |= {"optim.lr": 0.1, "optim.clip": 0.0}
    finish(start(settings_of(text, tmp_path / "run", **more)))
    best, expected = np.inf, set()
    for line in metrics(tmp_path / "run"):
        if line["split"] == "eval" and line["val_loss"] <= best:
            best = line["val_loss"]
            expected.add(line["step"])
    saved = {int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert saved == expected | {40}, "and the last"
    assert 1 < len(saved) < 40


def test_weights_of_fewer_positions_are_no_secret(tmp_path: Path) -> None:
    model = GPTConfig(block_size=32)
    config = TrainGPT(init_from=str(GOLDEN), model=model, run_dir=str(tmp_path))
    with pytest.warns(match="has 24 positions: `block_size` is 24, not 32"):
        assert resolve(config)[0].model.block_size == 24


def test_a_run_begins_with_the_weights_of_another(
    complete: Path, text: Path, tmp_path: Path
) -> None:
    """All of them, dropout as configured; the loss of its evaluation is theirs."""
    model = GPTConfig(n_layer=5, block_size=8, dropout=0.1)
    data = TextDataConfig(path=str(text), build=None)
    where = {"init_from": str(complete), "run_dir": str(tmp_path)}
    config, source = resolve(TrainGPT(model=model, data=data, **where))
    assert source is not None
    theirs = load_run(complete)
    assert config.model.n_layer == theirs.config.model.n_layer == 2
    assert config.model.dropout == 0.1
    assert_equal(source.load("xla"), theirs.model)
    more = {"init-from": complete, "max-iters": 1, "eval.interval": 1}
    finish(start(settings_of(text, tmp_path / "run", **more)))
    first = metrics(tmp_path / "run")[0]
    assert first["loss"] < metrics(complete)[0]["loss"] - 0.1


def test_first_weights_must_be_of_the_same_tokens(
    complete: Path, text: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(text, tmp_path / "other"))
    letters = json.loads((text / "tokenizer.json").read_text())["characters"]
    Characters(letters[::-1]).write(other)
    for path in (text, other):
        data = TextDataConfig(path=str(path), build=None)
        where = {"init_from": str(complete), "run_dir": str(tmp_path)}
        config = TrainGPT(model=GPTConfig(block_size=8), data=data, **where)
        if path == text:
            resolve(config)
        else:
            with pytest.raises(UserError, match=re.escape(str(other))):
                resolve(config)


@pytest.mark.slow
def test_how_a_run_with_first_weights_is_computed_may_change(
    complete: Path, text: Path, tmp_path: Path
) -> None:
    """What is computed may not: a run that goes on refuses it."""
    more = {"init-from": complete, "max-iters": 1, "eval.interval": 1}
    settings = settings_of(text, tmp_path / "run", **more)
    finish(start(settings))
    data = TextDataConfig(path=str(text))
    model = GPTConfig(remat=True, loss_chunk=7, dropout=0.3, n_layer=5)
    where = {"init_from": str(complete), "run_dir": str(tmp_path / "run")}
    resumed, _ = resolve(TrainGPT(data=data, model=model, **where))
    found = resumed.model
    assert (found.remat, found.loss_chunk, found.n_layer) == (True, 7, 2)
    _, err = finish(start(settings | {"model.dropout": 0.3}), 2)
    assert "model.dropout: 0.2 -> 0.3" in err


def test_a_run_of_puzzles_is_no_gpt(monkeypatch: pytest.MonkeyPatch) -> None:
    trm = LoadedRun("trm", None, None, (), 1)
    monkeypatch.setattr("train.gpt_weights.is_run", lambda path: True)
    monkeypatch.setattr("train.gpt_weights.load_run", lambda path: trm)
    with pytest.raises(UserError, match=r"is a run of `train\.trm`"):
        find_weights(TrainGPT(init_from="runs/trm"))


@pytest.mark.slow
def test_first_weights_are_not_missed_later(text: Path, tmp_path: Path) -> None:
    """A run that began with a folder of weights goes on without it."""
    weights = Path(shutil.copytree(GOLDEN, tmp_path / "weights"))
    more: Settings = {"init-from": weights, "max-iters": 10, "eval.interval": 5}
    more |= {"model.block-size": 6, "run.save-every": 2}
    where = settings_of(text, tmp_path / "run", **more)
    process = start(where)
    wait_for(lambda: (tmp_path / "run" / "checkpoints" / "4").is_dir(), process)
    process.kill()
    process.communicate()
    shutil.rmtree(weights)
    out, _ = finish(start(where))
    assert "Going on from step" in out
    finish(runs.start("train.gpt", [*words(where), "--config.run.eval-only"]))


@pytest.mark.slow
def test_float16_run(text: Path, tmp_path: Path) -> None:
    more = {"precision": "float16", "max-iters": 10}
    finish(start(settings_of(text, tmp_path / "run", **more)))
    train = [m for m in metrics(tmp_path / "run") if m["split"] == "train"]
    assert train[-1]["loss_scale"] <= 2.0**16
    assert train[-1]["skipped"] == 0.0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model.n-head": 3}, "`n_head` must divide `n_embd`"),
        ({"steps-per-call": 7}, "`steps_per_call` must divide `max_iters`"),
        ({"batch-size": 6, "mesh.data": 4}, "batch must divide by the 4 devices"),
        ({"init-from": "resume"}, "needs a run to go on with"),
        ({"init-from": "nothing/here/it is"}, "error:"),
        ({"model.vocab-size": 3}, "`vocab_size` must hold the"),
        ({"model.block-size": 100000}, "block"),
        ({"model.attention": "cudnn"}, "kernel `cudnn` needs an NVIDIA GPU"),
        ({"model.attention": "splash"}, "kernel `splash` needs a TPU"),
        ({"data.path": "tests"}, "train.bin"),
    ],
)
def test_bad_input(
    more: Settings,
    said: str,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {**settings_of(text, tmp_path / "run"), "mesh.data": 1, **more}
    monkeypatch.setattr(sys, "argv", ["train.gpt", *words(settings)])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as caught, cli.clean_exit():
        main(*cli.parse(GPT_PRESETS, ""))
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
