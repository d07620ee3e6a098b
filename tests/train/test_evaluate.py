"""`python -m train.evaluate` on a small run."""

import hashlib
import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jax.sharding import Mesh

from configs import (
    ACTConfig,
    EvalConfig,
    GeneratedSudoku,
    MeshConfig,
    PuzzleDataConfig,
    RunConfig,
    TrainTRM,
    TRMConfig,
    UserError,
    require,
)
from data.build import prepare
from data.puzzles.arc.voting import Votes
from data.puzzles.kinds import kind_of
from tests import runs
from tests.arc_golden import write_official
from train import evaluate
from train.evaluate import main, new_file
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.runs.run_dir import RunDir
from train.trm import main as train


def small(folder: Path, **model: Any) -> TrainTRM:
    """A run on 4x4 Sudoku of two evaluations and four checkpoints."""
    if not (folder / "data").exists():
        prepare(GeneratedSudoku(size=4, train=64, test=21), folder / "data")
    shape = {"dim": 16, "layers": 1, "prefix": 1, "puzzle_dim": 16, **model}
    return replace(
        TRM_PRESETS["quickstart"][1],
        batch_size=16,
        epochs=6.0,
        run_dir=str(folder / "run"),
        model=TRMConfig(H_cycles=1, L_cycles=1, **shape),
        act=ACTConfig(max_steps=3),
        data=PuzzleDataConfig(paths=(str(folder / "data"),), build=None),
        mesh=MeshConfig(data=1),
        eval=EvalConfig(batch_size=8, epochs=3.0),
        run=RunConfig(save_every=8, keep_every=1, compilation_cache=None),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    assert train("quickstart", small(folder)) == 0
    return folder / "run"


def evaluated(run: Path, out: Path, *words: str) -> list[dict[str, Any]]:
    """What the command writes."""
    base = ["--run-dir", str(run), "--out", str(out / "out.json")]
    main(
        [*base, *words]
        if "--mesh.data" in words
        else [*base, "--mesh.data", "1", *words]
    )
    return json.loads((out / "out.json").read_text())["results"]


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """A hash of every file, and when it was written."""
    return {
        str(path): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_all_checkpoints_as_the_training_loop_saw_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fixed` at the training depth; and not a byte of the run changes."""
    before = contents(run)
    results = evaluated(run, tmp_path, "--checkpoints", "all")
    assert contents(run) == before
    assert [found["step"] for found in results] == [8, 12, 16, 24]
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    seen = {line["step"]: line for line in lines if line["split"] == "eval"}
    assert seen.keys() == {12, 24}
    for found in results:
        assert found["puzzles"] == found["scored"] == 21
        assert found["values"]["by_the_rules"] >= found["values"]["exact_accuracy"]
        assert found["curve"]["accuracy"][-1] == found["values"]["accuracy"]
        for name in found["values"].keys() & seen.get(found["step"], {}).keys():
            theirs = seen[found["step"]][name]
            assert found["values"][name] == pytest.approx(theirs, rel=1e-5), name
    said = capsys.readouterr().out
    assert "The best by exact_accuracy is step" in said
    assert said.count("puzzles solved") == 4


def test_modes_meshes_and_files(run: Path, tmp_path: Path) -> None:
    """`refill` on eight devices and a small queue answers as `halt` on one.

    There are never more rows than puzzles.
    """
    files = [tmp_path / "halt.npz", tmp_path / "refill.npz"]
    common = ["--max-steps", "5", "--checkpoints", "12", "--predictions"]
    halt_words = [*common, str(files[0]), "--mode", "halt", "--rows", "16777216"]
    (halt,) = evaluated(run, tmp_path, *halt_words)
    assert halt["work"]["row_steps"] <= 21 * 5
    refill_words = ["--mode", "refill", "--queue", "2", "--mesh.data", "4"]
    refill_words += ["--mesh.model", "2"]
    (refill,) = evaluated(run, tmp_path, *common, str(files[1]), *refill_words)
    for name in ("exact_accuracy", "steps", "q_halt_accuracy"):
        assert refill["values"][name] == halt["values"][name]
    assert refill["curve"]["exact_accuracy"] == halt["curve"]["exact_accuracy"]
    assert len(refill["curve"]["accuracy"]) == 5
    one, other = map(np.load, files)
    assert set(one) == {
        *("number", "inputs", "labels", "puzzle_id"),
        *("predictions", "q_halt", "steps", "exact"),
    }
    np.testing.assert_array_equal(one["number"], np.arange(21))
    for name in ("predictions", "steps", "exact", "inputs"):
        np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_allclose(one["q_halt"], other["q_halt"], atol=1e-5)
    right = (one["predictions"] == one["labels"]).all(1)
    np.testing.assert_array_equal(right, one["exact"])
    assert halt["values"]["exact_accuracy"] == right.mean()


def test_two_files_of_one_name(tmp_path: Path) -> None:
    names = [new_file(tmp_path / "run-1.json").name for _ in range(3)]
    assert names == ["run-1.json", "run-1-2.json", "run-1-3.json"]


@pytest.mark.slow
def test_rollouts(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--rollouts.number", "3", "--rollouts.sigma", "0.5", "--mode", "refill"]
    words += ["--rollouts.symmetries"]
    (found,) = evaluated(run, tmp_path, *words, "--rollouts.select", "first")
    shares = found["rollouts"]
    for rule in ("best_q", "mode", "residual", "first", "rules"):
        assert shares["1/any"] <= shares["3/any"]
        assert 0 <= shares[f"3/{rule}"] <= shares["3/any"] <= 1
    assert found["values"]["exact_accuracy"] == shares["3/first"]
    assert "any: pass@K" in capsys.readouterr().out
    words += ["--rollouts.rounds", "3"]
    (again,) = evaluated(run, tmp_path, *words, "--rows", "4", "--queue", "1")
    assert again["rollouts"] == shares
    assert "by rules" in capsys.readouterr().out
    (spread,) = evaluated(run, tmp_path, *words, "--mesh.data", "4")
    assert spread["clamp"] == again["clamp"]
    assert len(again["clamp"]["steps"]) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--checkpoints", "13"], "8, 12, 16, 24"),
        (["--checkpoints", "8", "all"], "`8 all`"),
        (["--rollouts.select", "first"], "--mode fixed"),
        (["--rollouts.sigma", "-1"], "`sigma`.*-1"),
        (["--rollouts.particles", "--mode", "halt"], "--mode fixed"),
        (
            [
                "--rollouts.particles",
                "--rollouts.sigma",
                "0.3",
                "--rollouts.number",
                "3",
            ],
            "a multiple of the 3 rollouts: got 8. Use `--rows 9`",
        ),
        (["--submission", "s.json"], r"test_puzzles\.json"),
        (["--pictures", "p"], r"test_puzzles\.json"),
        (["--pictures", "p", "--split", "train"], "--split train"),
        (["--data", "nowhere"], "nowhere"),
        (["--rows", "7", "--mesh.data", "2"], "2 devices.*7"),
        (["--predictions", "a.json"], r"a\.json"),
    ],
)
def test_bad_settings(words: list[str], said: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        evaluated(run, tmp_path, *words)


def test_rollouts_need_noise_and_rules() -> None:
    sudoku, arc = kind_of("sudoku", 36, 8), kind_of("arc", 900, 12)
    particles, rules = (
        evaluate.Rollouts(particles=True),
        evaluate.Rollouts(select="rules"),
    )
    evaluate.require_differences(particles, sudoku, noisy=True)
    with pytest.raises(UserError, match=r"needs noise.*--rollouts\.sigma 0\.3"):
        evaluate.require_differences(particles, sudoku, noisy=False)
    evaluate.require_differences(rules, sudoku, noisy=False)
    with pytest.raises(UserError, match=r"starting over changes nothing"):
        evaluate.require_differences(evaluate.Rollouts(rounds=2), sudoku, noisy=True)
    with pytest.raises(UserError, match=r"a kind with rules"):
        evaluate.require_differences(rules, arc, noisy=False)


def test_data_of_another_size(run: Path, tmp_path: Path) -> None:
    prepare(GeneratedSudoku(size=6, train=1, test=1), tmp_path / "data")
    with pytest.raises(UserError, match=r"`seq_len`.*36.*16"):
        evaluated(run, tmp_path, "--data", str(tmp_path / "data"))


@pytest.mark.filterwarnings("ignore:The checkpoint of step")
def test_checkpoints_that_the_run_removes_are_left_out_of_all(
    one_device: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = {8}

    def load(run_dir: str, step: int, *_: object) -> int:
        require(step not in removed, f"The checkpoint of step {step} does not exist.")
        return step

    monkeypatch.setattr(evaluate, "load_run", load)
    monkeypatch.setattr(evaluate, "kept_steps", lambda run_dir: [8, 12])
    settings = evaluate.Settings(run_dir="run", checkpoints=("all",))
    assert [*evaluate.loaded_runs(settings, one_device, None)] == [12]
    removed.add(12)
    with pytest.raises(UserError, match="No checkpoint of `run`"):
        list(evaluate.loaded_runs(settings, one_device, None))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_left_out_of_all(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "checkpoints" / "16" / "ema" / "manifest.ocdbt").unlink()
    with pytest.warns(UserWarning, match="are damaged: step 16"):
        results = evaluated(copy, tmp_path, "--checkpoints", "all", "--puzzles", "4")
    assert [found["step"] for found in results] == [8, 12, 24]
    with pytest.raises(UserError, match="are damaged: step 16"):
        evaluated(copy, tmp_path, "--checkpoints", "16")


@pytest.mark.slow
def test_a_run_without_a_puzzle_table(tmp_path: Path) -> None:
    config = replace(small(tmp_path, prefix=0, puzzle_dim=0), epochs=3.0)
    assert train("quickstart", config) == 0
    (found,) = evaluated(tmp_path / "run", tmp_path, "--mode", "refill")
    assert found["scored"] == 21


@pytest.mark.slow
def test_two_processes_answer_as_one(run: Path, tmp_path: Path) -> None:
    """Each with one device; the first writes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = ["--run-dir", str(run), "--mode", "refill", "--checkpoints", "24"]
    common += ["--predictions", str(tmp_path / "two.npz"), "--mesh.distributed"]
    common += ["--out", str(tmp_path / "two.json"), "--mesh.processes", "2"]
    common += ["--mesh.coordinator", f"127.0.0.1:{port}", "--mesh.process"]
    started = [runs.start("train.evaluate", [*common, str(i)]) for i in range(2)]
    (said, _), (quiet, _) = [runs.finish(process) for process in started]
    assert "puzzles solved" in said
    assert "puzzles solved" not in quiet
    (two,) = json.loads((tmp_path / "two.json").read_text())["results"]
    file = tmp_path / "one.npz"
    words = ["--mode", "refill", "--checkpoints", "24", "--predictions", str(file)]
    (one,) = evaluated(run, tmp_path, *words)
    for name in ("exact_accuracy", "steps", "q_halt_accuracy"):
        assert two["values"][name] == one["values"][name]
    with np.load(tmp_path / "two.npz") as split, np.load(file) as whole:
        np.testing.assert_array_equal(split["number"], whole["number"])
        np.testing.assert_array_equal(split["predictions"], whole["predictions"])


@pytest.mark.slow
def test_arc_votes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint at a time, and both together; what is saved votes the same."""
    data = write_official(tmp_path / "data")
    preset = TRM_PRESETS["arc1"][1]
    config = replace(
        preset,
        batch_size=8,
        epochs=1.0,
        precision="float32",
        run_dir=str(tmp_path / "run"),
        model=replace(
            preset.model, dim=16, heads=2, layers=1, H_cycles=1, L_cycles=1, prefix=1,
            puzzle_dim=16, expansion=1.0,
        ),
        act=replace(preset.act, max_steps=1),
        data=PuzzleDataConfig(paths=(str(data),), build=None),
        mesh=MeshConfig(data=1),
        eval=EvalConfig(batch_size=2, epochs=1000.0, final_puzzles=2),
        run=RunConfig(compilation_cache=None, save_every=1),
    )  # fmt: skip
    assert train("arc1", config) == 0
    files = ["--predictions", str(tmp_path / "p.npz")]
    files += ["--rows", "10", "--submission", str(tmp_path / "s.json")]
    files += ["--pictures", str(tmp_path / "pictures")]
    words = ["--checkpoints", "all", "--votes", "together", *files]
    first, second = evaluated(tmp_path / "run", tmp_path, *words)
    assert "ARC/pass@1" in capsys.readouterr().out
    votes = Votes.of_datasets([data])
    for found in (first, second):
        names = ("puzzle_id", "inputs", "predictions", "q_halt")
        with np.load(tmp_path / f"p-{found['step']}.npz") as archive:
            saved = dict(archive)
        votes.add(*(saved[name] for name in names))
        assert votes.metrics() == found["votes"]
    submission = json.loads((tmp_path / f"s-{second['step']}.json").read_text())
    assert submission == votes.submission()
    for found in (first, second):
        folder = tmp_path / "pictures" / str(found["step"])
        drawn = {path.name for path in folder.iterdir()}
        assert drawn == {"index.html", *(f"{name}.png" for name in votes.tasks)}
    alone = evaluated(tmp_path / "run", tmp_path, *words[:2], *files)[1]
    votes = Votes.of_datasets([data])
    votes.add(*(saved[name] for name in names))
    assert alone["votes"] == votes.metrics()


def test_a_run_of_a_gpt(tmp_path: Path) -> None:
    """It has a command of its own."""
    run = RunDir(
        replace(GPT_PRESETS["shakespeare-char"][1], run_dir=str(tmp_path / "run")),
        "shakespeare-char",
        {"kind": "gpt", "sizes": {"tokens": 65}},
    )
    run.write_config()
    run.close()
    with pytest.raises(UserError, match=r"python -m gpt\.evaluate --run-dir .*/run"):
        evaluated(tmp_path / "run", tmp_path)
