"""Runs of `train.gpt` from the command line."""

import json
import re
import shutil
import subprocess
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
    **runs.TINY_GPT,
    "max-iters": 40,
    "optim.warmup": 5,
    "eval.interval": 10,
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


@pytest.mark.slow
def test_a_run_whose_loops_begin_late(text: Path, tmp_path: Path) -> None:
    """The run is resumed exactly where they begin."""
    late = {"model.loops": "0-1x2", "loops-from": 0.5, "run.keep-every": 20}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finish(start(settings_of(text, whole, **late)))
    lines = metrics(whole)
    blocks = [line["blocks"] for line in lines if line["split"] == "train"]
    assert blocks == [2] * 20 + [4] * 20
    shutil.copytree(whole, stopped)
    later = [path for path in (stopped / "checkpoints").iterdir() if path.name != "20"]
    for path in later:
        shutil.rmtree(path)
    finish(start(settings_of(text, stopped, **late)))
    assert metrics(stopped) == lines


@pytest.fixture(scope="session")
def complete(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an uninterrupted run, with its output in `out` and `err`."""
    folder = tmp_path_factory.mktemp("complete") / "run"
    out, err = finish(start(settings_of(text, folder)))
    (folder / "out").write_text(out)
    (folder / "err").write_text(err)
    return folder


def test_a_run_writes_its_files_and_prints_progress(complete: Path) -> None:
    lines = metrics(complete)
    train = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in train] == list(range(1, 41))
    evaluations = [line for line in lines if line["split"] == "eval"]
    assert [line["step"] for line in evaluations] == [10, 20, 30, 40]
    assert {"train_loss", "val_loss"} <= evaluations[0].keys()
    assert evaluations[-1]["val_loss"] < evaluations[0]["val_loss"]
    bits = evaluations[0]["val_loss"] / np.log(2)  # a byte per character
    assert evaluations[0]["val_bits_per_byte"] == pytest.approx(bits)
    assert {"loss", "grad_norm", "lr"} <= train[0].keys()
    assert "mfu" not in train[0], "the peak of a CPU is unknown"
    rows = map(json.loads, (complete / "metrics.jsonl").read_text().splitlines())
    raw = next(row for row in rows if row["split"] == "train")
    assert raw["tokens_per_second"] == pytest.approx(8 * raw["examples_per_second"])
    out = (complete / "out").read_text()
    assert "1 x 1 mesh" in out
    assert f"python -m gpt.sample --run-dir {complete}" in out
    assert (complete / "err").read_text() == ""


def test_evaluation_only(complete: Path, text: Path) -> None:
    """It changes nothing in the run, and gives the same loss."""
    before = contents(complete)
    settings = settings_of(text, complete, **{"init-from": "resume"})
    process = runs.start("train.gpt", [*words(settings), "--config.run.eval-only"])
    _, err = finish(process)
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
    """Return every file of a run."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def kill(settings: Settings, folder: Path, step: int) -> None:
    """Start or resume a run, and kill it once it has reached a step."""
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
    losses = []
    for sizes in ((1, 1), (4, 2)):
        folder = tmp_path / str(sizes[0])
        more = {"mesh.data": sizes[0], "mesh.model": sizes[1], "model.dropout": 0.0}
        more |= {"max-iters": 5, "optim.name": "adamw"}
        finish(start(settings_of(text, folder, **more), devices=8))
        losses.append(metrics(folder)[-1]["val_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_best_saves_only_improvements(text: Path, tmp_path: Path) -> None:
    """At a learning rate at which the loss goes up and down."""
    more = {"run.save": "best", "run.keep-last": 100, "eval.interval": 1}
    more |= {"optim.lr": 0.1, "optim.clip": 0.0}
    finish(start(settings_of(text, tmp_path / "run", **more)))
    best, expected = np.inf, set()
    for line in metrics(tmp_path / "run"):
        if line["split"] == "eval" and line["val_loss"] <= best:
            best = line["val_loss"]
            expected.add(line["step"])
    saved = {int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert saved == expected | {40}, "the last step is always saved"
    assert 1 < len(saved) < 40


def test_weights_of_fewer_positions_give_a_warning(tmp_path: Path) -> None:
    model = GPTConfig(block_size=32)
    config = TrainGPT(init_from=str(GOLDEN), model=model, run_dir=str(tmp_path))
    with pytest.warns(match="24, not 32"):
        assert resolve(config)[0].model.block_size == 24


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_another(
    complete: Path, text: Path, tmp_path: Path
) -> None:
    """With all weights, its own dropout, and a lower first loss."""
    model = GPTConfig(n_layer=5, block_size=8, dropout=0.1)
    data = TextDataConfig(path=str(text), build=None)
    where = {"init_from": str(complete), "run_dir": str(tmp_path)}
    config, source = resolve(TrainGPT(model=model, data=data, **where))
    assert source is not None
    first = load_run(complete)
    assert config.model.n_layer == first.config.model.n_layer == 2
    assert config.model.dropout == 0.1
    assert_equal(source.load("xla"), first.model)
    more = {"init-from": complete, "max-iters": 1, "eval.interval": 1}
    finish(start(settings_of(text, tmp_path / "run", **more)))
    line = metrics(tmp_path / "run")[0]
    assert line["loss"] < metrics(complete)[0]["loss"] - 0.1


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
def test_a_run_with_first_weights_may_change_its_computation(
    complete: Path, text: Path, tmp_path: Path
) -> None:
    """Its model may not change: a run that resumes refuses it."""
    more = {"init-from": complete, "max-iters": 1, "eval.interval": 1}
    settings = settings_of(text, tmp_path / "run", **more)
    finish(start(settings))
    data = TextDataConfig(path=str(text))
    model = GPTConfig(remat=True, loss_chunk=7, dropout=0.3, n_layer=5)
    where = {"init_from": str(complete), "run_dir": str(tmp_path / "run")}
    resumed, _ = resolve(TrainGPT(data=data, model=model, **where))
    model = resumed.model
    assert (model.remat, model.loss_chunk, model.n_layer) == (True, 7, 2)
    _, err = finish(start(settings | {"model.dropout": 0.3}), 2)
    assert "model.dropout: 0.2 -> 0.3" in err


def test_a_run_of_a_trm_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    trm = LoadedRun("trm", None, None, (), 1)
    monkeypatch.setattr("train.gpt_weights.is_run", lambda path: True)
    monkeypatch.setattr("train.gpt_weights.load_run", lambda *_: trm)
    with pytest.raises(UserError, match="runs/trm"):
        find_weights(TrainGPT(init_from="runs/trm"))


@pytest.mark.slow
def test_first_weights_are_not_needed_to_resume(text: Path, tmp_path: Path) -> None:
    """A run that began with a folder of weights resumes without it."""
    weights = Path(shutil.copytree(GOLDEN, tmp_path / "weights"))
    more: Settings = {"init-from": weights, "max-iters": 10, "eval.interval": 5}
    more |= {"model.block-size": 6, "run.save-every": 2}
    where = settings_of(text, tmp_path / "run", **more)
    process = start(where)
    wait_for(lambda: (tmp_path / "run" / "checkpoints" / "4").is_dir(), process)
    process.kill()
    process.communicate()
    shutil.rmtree(weights)
    finish(start(where))
    assert last_step(tmp_path / "run") == 10
    finish(runs.start("train.gpt", [*words(where), "--config.run.eval-only"]))


@pytest.mark.slow
def test_float16_run(text: Path, tmp_path: Path) -> None:
    more = {"precision": "float16", "max-iters": 10}
    finish(start(settings_of(text, tmp_path / "run", **more)))
    train = [m for m in metrics(tmp_path / "run") if m["split"] == "train"]
    assert train[-1]["loss_scale"] <= 2.0**16
    assert train[-1]["skipped"] == 0.0


@pytest.mark.parametrize(
    ("more", "value"),
    [
        ({"model.n-head": 3}, "`n_head`"),
        ({"steps-per-call": 7}, "steps_per_call=7"),
        ({"batch-size": 6, "mesh.data": 4}, "4 devices"),
        ({"init-from": "resume"}, "--config.init-from resume"),
        ({"init-from": "nothing/here/it is"}, "nothing/here/it is"),
        ({"model.vocab-size": 3}, "`vocab_size`"),
        ({"model.block-size": 100000}, "block"),
        ({"model.attention": "cudnn"}, "cudnn"),
        ({"model.attention": "splash"}, "splash"),
        ({"data.path": "tests"}, "train.bin"),
    ],
)
def test_bad_input(
    more: Settings,
    value: str,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {**settings_of(text, tmp_path / "run"), "mesh.data": 1, **more}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as caught, cli.clean_exit():
        main(*cli.parse(GPT_PRESETS, "", words(settings)))
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert value in message
    assert "Traceback" not in message
