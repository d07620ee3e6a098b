"""Official checkpoints into run directories and back, through the command."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub import errors
from jax.sharding import Mesh

from configs import GeneratedSudoku, TRMConfig, UserError
from data.build import prepare
from data.puzzles.dataset import Puzzle
from tests.golden import CASES, FOLDER, Golden
from tests.official import STYLES, rounded, weights_of, write_official
from tests.runs import finish, start
from tests.trm.test_golden import relative
from train.runs.loading import LoadedRun, load_run
from train.runs.record import recorded_run
from train.step import make_eval_step
from trm import convert
from trm.act import init_carry, refill
from trm.build import build_trm
from trm.model import TRM, Prediction
from trm.official.all_config import train_config
from trm.official.infer import Given, infer
from trm.official.names import TABLE, load_official, to_official
from trm.official.pretrained import build_official, choose, find, is_checkpoint, step_of
from trm.official.state_dict import read_state_dict, write_state_dict
from trm.recursion import Latents

ALL = [*CASES, "trm_attention_bfloat16"]


def import_(source: object, out: Path, *more: object) -> LoadedRun:
    convert.main([str(source), "--out", str(out), *map(str, more)])
    return load_run(out)


def suffixes() -> list:
    """Kinds of files; those of PyTorch where it is installed."""
    try:
        import torch  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return [".safetensors"]
    return ["", ".safetensors"]


# -- the golden cases ------------------------------------------------------------------

# Importing takes seconds: `pytest -m slow` does the other cases.
QUICK = ("trm_mlp",)
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ALL if name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_exported_again_it_is_the_same(name: str, tmp_path: Path) -> None:
    """In all three styles of names: bits and types, with latents in bfloat16."""
    golden = Golden(name)
    for style, suffix in zip(STYLES, 2 * suffixes(), strict=False):
        here, there = tmp_path / f"in{style}", tmp_path / f"out{style}"
        path = write_official(here, golden, f"step_12{suffix}", style, narrow=True)
        weights, _ = read_state_dict(path)
        run = import_(here, tmp_path / f"run{style}", "--seq", 16)
        assert run.step == 12
        run_dir = str(tmp_path / f"run{style}")
        convert.main(["--to-official", run_dir, "--out", str(there / f"back{suffix}")])
        again, _ = read_state_dict(there / f"back{suffix}")
        assert again.keys() == weights.keys()
        for key, array in weights.items():
            assert again[key].dtype == array.dtype, key
            assert again[key].tobytes() == array.tobytes(), key


@pytest.mark.parametrize("name", [*QUICK, *[n for n in SLOW if n.values[0] in CASES]])
def test_an_imported_checkpoint_answers_as_the_official_code(
    name: str, tmp_path: Path
) -> None:
    """Golden outputs of one step from fresh latents within 1e-4."""
    golden = Golden(name)
    path = write_official(tmp_path, golden, "attention_hrm.safetensors", before=True)
    run = import_(path, tmp_path / "run", "--seq", 16)
    assert run.step == 0
    batch = golden.batch("step0/batch")
    carry = refill(run.model, init_carry(run.model, 4, 16), batch)

    @jax.jit
    def answer(model: TRM, table: jax.Array) -> Prediction:
        x = model.embed(batch.inputs, table[batch.puzzle_id])
        return model.predict(model.refine(carry.latents, x))

    prediction = answer(run.model, run.table.rows)
    expected = golden.tree("step0/outputs")
    assert relative(prediction.logits, expected["logits"]) < 1e-4
    assert relative(prediction.q_halt, expected["q_halt_logits"]) < 1e-4
    assert relative(prediction.q_continue, expected["q_continue_logits"]) < 1e-4


def test_hrm_of_networks_of_unequal_depth() -> None:
    """Three slow layers and one fast: what the official code answers in three steps.

    `golden/hrm_layers.npz` holds random weights and those answers, in float32.
    """
    options = json.loads((FOLDER / "hrm_layers.json").read_text())
    with np.load(FOLDER / "hrm_layers.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    start = "weights/"
    weights = {
        STYLES[0] + name.removeprefix(start): array
        for name, array in arrays.items()
        if name.startswith(start)
    }
    found = infer(weights, options, Given(seq=16))
    assert (found.config.H_layers, found.config.layers) == (3, 1)
    assert found.notes == ()
    model, table = build_official(found, train_config(found.config, options))
    inputs, ids = (jnp.asarray(arrays[n]) for n in ("inputs", "puzzle_identifiers"))
    carry = init_carry(model, len(ids), 16)
    latents = refill(model, carry, Puzzle(inputs, inputs, ids)).latents
    x = model.embed(inputs, jnp.asarray(table)[ids])

    @jax.jit
    def step(model: TRM, latents: Latents) -> tuple[Latents, Prediction]:
        latents = model.refine(latents, x)
        return latents, model.predict(latents)

    for t in range(3):
        latents, prediction = step(model, latents)
        for ours, name in (
            (prediction.logits, "logits"),
            (prediction.q_halt, "q_halt_logits"),
            (prediction.q_continue, "q_continue_logits"),
        ):
            assert relative(ours, arrays[f"step{t}/{name}"]) < 1e-4, (t, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_evaluates_as_the_official_code(
    name: str, tmp_path: Path, one_device: Mesh
) -> None:
    """All supervision steps within 1e-4.

    The token MLP of this size is chaotic: with weights jiggled by 1e-7 its answers move
    by 8e-3 in these 3 steps (3e-5 in the first), and by 2.2e-2 if LLVM does not
    optimize the program, so it is held to that.
    """
    golden = Golden(name)
    run = import_(write_official(tmp_path, golden), tmp_path / "run", "--seq", 16)
    assert run.config.act == golden.act
    step = make_eval_step(golden.objective, one_device, golden.step_config, run.model)
    batch = golden.batch("step5/batch")
    metrics, prediction = step(run.model, run.table, batch)
    expected, limit = golden.tree("eval"), 5e-2 if name == "trm_mlp" else 1e-4
    assert relative(prediction.logits, expected["logits"]) < limit
    assert relative(prediction.q_halt, expected["q_halt_logits"]) < limit
    np.testing.assert_array_equal(prediction.logits.argmax(-1), expected["preds"])
    exact = float(golden.arrays["eval/metrics/exact_accuracy"])
    assert float(metrics["exact_accuracy"][0]) == exact


@pytest.mark.slow
def test_bfloat16_answers_within_its_rounding(tmp_path: Path, one_device: Mesh) -> None:
    """Two roundings of the same lie sqrt(2) times as far apart as each from it."""
    golden = Golden("trm_attention_bfloat16")
    path = write_official(tmp_path, golden, narrow=True)
    run = import_(path, tmp_path / "run", "--seq", 16)
    assert run.config.precision == "bfloat16"

    def logits(precision: str) -> np.ndarray:
        plan = replace(golden.step_config, precision=precision)
        step = make_eval_step(golden.objective, one_device, plan, run.model)
        _, prediction = step(run.model, run.table, golden.batch("step5/batch"))
        return np.asarray(prediction.logits, np.float64)

    distance = lambda a, b: float(np.sqrt(np.mean((a - b) ** 2)))
    theirs, exact = golden.arrays["eval/logits"], logits("float32")
    assert distance(logits("bfloat16"), theirs) < 1.5 * distance(exact, theirs)


@pytest.mark.parametrize("name", ALL)
def test_every_variant_there_and_back(name: str) -> None:
    """As above without a run between, quickly for all."""
    golden = Golden(name)
    for style in STYLES:
        weights = rounded(weights_of(golden, style))
        found = infer(weights, {}, Given(seq=16, heads=2))
        build = partial(build_trm, found.config, vocab=6, seq=16)
        like = jax.eval_shape(partial(build, key=jax.random.key(0)))
        again = to_official(load_official(weights, like, found.config), found.config)
        assert again.keys() | {TABLE} == found.weights.keys()
        for key, array in again.items():
            stored = found.weights[key]
            assert array.astype(stored.dtype).tobytes() == stored.tobytes()


def test_eqr_has_no_latents_to_keep() -> None:
    """Those of a run without noise are drawn: its checkpoints hold none."""
    config = TRMConfig(variant="eqr", dim=32, prefix=0, puzzle_dim=0)
    build = partial(build_trm, config, vocab=6, seq=16)
    weights = to_official(build(key=jax.random.key(3)), config)
    assert not any(name.endswith("_init") for name in weights)
    like = jax.eval_shape(partial(build, key=jax.random.key(0)))
    model = load_official(weights, like, config)
    for key, array in to_official(model, config).items():
        np.testing.assert_array_equal(array, weights[key])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model))
    assert float(jnp.std(jax.tree.leaves(model.recursion.init())[0])) > 0.5


@pytest.mark.slow
def test_a_run_trained_here_goes_there_and_back(tmp_path: Path) -> None:
    """Its fresh latents are rounded to the compute type, as the official ones are."""
    golden = Golden("trm_mlp")
    path = write_official(tmp_path / "in", golden)
    import_(path, tmp_path / "run")
    tree = json.loads((tmp_path / "run" / "config.json").read_text())
    del tree["recorded"]["official"]  # as `train.trm` writes it
    tree["precision"] = "bfloat16"
    (tmp_path / "run" / "config.json").write_text(json.dumps(tree))
    out = tmp_path / "out" / "mine.safetensors"
    convert.main(["--to-official", str(tmp_path / "run"), "--out", str(out)])
    arrays, _ = read_state_dict(out)
    expected = rounded(weights_of(golden, STYLES[0]))
    assert arrays.keys() == expected.keys()
    for key, array in expected.items():
        assert arrays[key].tobytes() == array.tobytes()
    again = import_(out, tmp_path / "again")
    old, new = recorded_run(tmp_path / "run"), recorded_run(tmp_path / "again")
    same = replace(new[0], run_dir=old[0].run_dir, eval=old[0].eval)
    assert same == old[0], "by the `all_config.yaml` that was written beside it"
    assert old[1]["sizes"] == new[1]["sizes"]
    assert again.step == 0


# -- sizes and words -------------------------------------------------------------------


@pytest.mark.slow
def test_all_steps_of_a_folder(tmp_path: Path) -> None:
    """More of them than a run keeps by itself, each with its own weights."""
    golden = Golden("trm_mlp")
    for step in (9, 10, 200, 1000):
        path = write_official(tmp_path / "in", golden, f"step_{step}.safetensors")
    weights = weights_of(golden) | {TABLE: np.ones((7, 32), np.float32)}
    path = tmp_path / "in" / "step_10.safetensors"
    path.unlink()
    write_state_dict(weights, path)
    assert import_(tmp_path / "in", tmp_path / "one").step == 1000
    run = import_(tmp_path / "in", tmp_path / "all", "--all-steps")
    assert run.step == 1000
    saved = sorted(int(p.name) for p in (tmp_path / "all" / "checkpoints").iterdir())
    assert saved == [9, 10, 200, 1000]
    for step in (200, 1000):
        shutil.rmtree(tmp_path / "all" / "checkpoints" / str(step))
    run = load_run(tmp_path / "all")
    assert run.step == 10
    np.testing.assert_array_equal(run.table.rows, 1.0)


@pytest.mark.slow
def test_another_dataset_gets_the_mean_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(GeneratedSudoku(size=4, train=8, test=4), tmp_path / "data")
    golden = Golden("trm_attention")
    path = write_official(tmp_path, golden)
    run = import_(path, tmp_path / "run", "--data", tmp_path / "data")
    table = weights_of(golden)[TABLE]
    assert run.table.rows.shape == (1, 32)
    np.testing.assert_allclose(run.table.rows[0], table.mean(axis=0), rtol=1e-6)
    out = capsys.readouterr().out
    assert "7 rows" in out
    assert run.config.data.paths == (str(tmp_path / "data"),)


def test_what_nobody_tells_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file alone, of HRM with networks of two and of one layer."""
    weights = weights_of(Golden("hrm"), STYLES[1])
    cut = {n: a for n, a in weights.items() if "H_level.layers.1" not in n}
    write_state_dict(cut, tmp_path / "sudoku_mlp.safetensors")
    source = tmp_path / "sudoku_mlp.safetensors"
    run = import_(source, tmp_path / "run", "--seq", 16, "--heads", 4)
    out = capsys.readouterr().out
    assert "hrm, mixer=attention, positions=rope, 2 fast and 1 slow layers" in out
    assert "positions=rope, H_cycles=2" in out
    assert "heads" not in out
    assert run.config.act.halt == "compare"
    assert run.config.act.continue_loss
    assert len(run.model.recursion.high.blocks) == 1


def test_a_checkpoint_of_another_shape(tmp_path: Path) -> None:
    golden = Golden("trm_attention")
    weights = weights_of(golden)
    weights["L_level.layers.1.mlp.down_proj.weight"] = np.zeros((32, 99), np.float32)
    path = tmp_path / "step_1.safetensors"
    write_state_dict(weights, path)
    with pytest.raises(UserError, match=r"down_proj\.weight.*\(32, 256"):
        import_(path, tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing is left of it"
    path.unlink()
    weights = weights_of(golden)
    del weights["L_level.layers.0.self_attn.qkv_proj.weight"]
    write_state_dict(weights | {"lora.weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(UserError, match=r"`L_lev.*qkv.*`lora\.weight`"):
        import_(path, tmp_path / "run")


@pytest.mark.parametrize("value", [np.float32(np.nan), np.int32(3)])
def test_weights_that_are_no_numbers(value: np.generic, tmp_path: Path) -> None:
    weights = weights_of(Golden("trm_mlp"))
    weights["q_head.bias"] = np.full(2, value)
    write_state_dict(weights, tmp_path / "step_1.safetensors")
    with pytest.raises(UserError, match=r"q_head\.bias"):
        import_(tmp_path / "step_1.safetensors", tmp_path / "run")


def test_a_dataset_of_other_puzzles(tmp_path: Path) -> None:
    prepare(GeneratedSudoku(size=6, train=4, test=2), tmp_path / "six")
    path = write_official(tmp_path, Golden("trm_attention"))
    with pytest.raises(UserError, match=r"8 tokens.*6"):
        import_(path, tmp_path / "run", "--data", tmp_path / "six")
    path = write_official(tmp_path / "mlp", Golden("trm_mlp"))
    with pytest.raises(UserError, match=r"36 cells.*19"):
        import_(path, tmp_path / "run", "--data", tmp_path / "six")


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--to-official"):
        convert.main(["--out", str(tmp_path / "run")])
    with pytest.raises(UserError, match="`a` and `b`"):
        convert.main(["a", "--to-official", "b", "--out", str(tmp_path / "run")])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    with pytest.raises(UserError, match="run"):
        convert.main(["a", "--out", str(tmp_path / "run")])


def test_a_damaged_all_config(tmp_path: Path) -> None:
    path = write_official(tmp_path, Golden("trm_mlp"))
    for text in ("arch: [", "- 1", "arch: !!python/object/apply:os.mkdir ['/x']"):
        (tmp_path / "all_config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"all_config\.yaml"):
            import_(path, tmp_path / "run")


# -- sources ---------------------------------------------------------------------------


def test_which_files_are_checkpoints() -> None:
    yes = ["step_1", "a/checkpoint", "model.safetensors", "x.pth", "step_3_epoch50k"]
    no = [".gitattributes", "README.md", "all_config.yaml", "trm.py", "LICENSE"]
    no += ["step_9_all_preds.0", ".cache/step_1", "submission.json", "a.png"]
    assert [name for name in yes + no if is_checkpoint(name)] == yes
    assert [step_of(name) for name in ("a/step_12", "maze_hard_step_32550", "x")] == [
        12,
        32550,
        None,
    ]


def test_one_checkpoint_of_several() -> None:
    steps = ["step_9", "step_10", "all_config.yaml", "step_10_all_preds.0"]
    assert choose(steps, "x") == ["step_9", "step_10"]
    assert choose(["model.pt", "README.md"], "x") == ["model.pt"]
    two_runs = ["step_32550_sudoku_epoch50k", "step_39060_sudoku_epoch_60k"]
    for names in (["a/step_1", "b/step_2"], ["mlp.pt", "attention.pt"], two_runs):
        with pytest.raises(UserError, match=f"`x/{min(names)}`"):
            choose(names, "x")
    with pytest.raises(UserError, match="`x`"):
        choose(["README.md"], "x")


@pytest.mark.parametrize("source", ["nowhere", "./no/file", "no/such/../file", "/a/b"])
def test_no_such_source(source: str) -> None:
    with pytest.raises(UserError, match=source):
        find(source)


FILES = ["README.md", "v1/all_config.yaml", "v1/step_5", "v2/step_7"]


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("me/mine/v1", ["v1/step_5", "v1/all_config.yaml"]),
        ("me/mine/v2/step_7", ["v2/step_7"]),
    ],
)
def test_models_of_the_hub(
    source: str, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(model: str, file: str) -> str:
        asked.append(file)
        return f"/cache/{model}/{file}"

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_: FILES)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    ((path, config),) = find(source)
    assert sorted(asked) == sorted(files)
    assert path == Path("/cache/me/mine") / files[0]
    assert (config is None) == (len(files) == 1)
    with pytest.raises(UserError, match="`me/mine/v1/step_5`"):
        find("me/mine")


def test_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[str]:
        raise errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", fail)
    with pytest.raises(UserError, match=r"me/mine.*no connection"):
        find("me/mine")


def test_the_command_runs_as_a_module(tmp_path: Path) -> None:
    (tmp_path / "step_1").write_bytes(b"no checkpoint")
    words = [str(tmp_path / "step_1"), "--out", str(tmp_path / "out")]
    _, err = finish(start("trm.convert", words), 2)
    (line,) = err.splitlines()
    assert line.startswith("error:")
    assert not (tmp_path / "out").exists()
