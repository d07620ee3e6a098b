"""TRM runs that start from other weights and train the model or only the table."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import (
    EvalConfig,
    GeneratedSudoku,
    RunConfig,
    TableConfig,
    TrainTRM,
    TRMConfig,
    UserError,
)
from data.build import prepare
from tests.golden import Golden
from tests.official import weights_of, write_official
from tests.runs import quick
from tests.tiny import assert_equal
from train.models import build_model
from train.presets import TRM_PRESETS
from train.runs.loading import LoadedRun, load_run
from train.runs.record import recorded_run
from train.table import make_table
from train.trm import TRMExperiment, main
from train.trm_weights import resolve
from trm import convert
from trm.official.infer import Official
from trm.official.names import TABLE

NAME = "trm_attention"
# Warning filters are shared with the thread that saves.
pytestmark = pytest.mark.filterwarnings("ignore:Some donated buffers")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4x4 Sudoku: 16 cells and 6 tokens, as in the golden cases."""
    folder = tmp_path_factory.mktemp("init") / "data"
    prepare(GeneratedSudoku(size=4, train=8, test=4), folder)
    return folder


def config(dataset: Path, run_dir: Path, source: object, **changes: Any) -> TrainTRM:
    return quick(
        dataset,
        init_from=str(source),
        run_dir=str(run_dir),
        eval=EvalConfig(epochs=8.0, batch_size=4),
        run=RunConfig(compilation_cache=None),
        **changes,
    )


def official(rows: int, width: int = 32) -> Official:
    golden = Golden(NAME)
    table = np.arange(rows * width, dtype=np.float32).reshape(rows, width)
    weights = weights_of(golden) | {TABLE: table}
    return Official(weights=weights, config=golden.config, vocab=6, seq=16)


def first_weights(source: Any, config: TrainTRM, sizes: dict[str, int]) -> Any:
    experiment = TRMExperiment(config, sizes=sizes)
    experiment.source = source
    return experiment.first_weights()


# -- the puzzle table ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init_table", "puzzles", "expected"),
    [
        ("keep", 3, lambda table: table),
        ("keep", 5, lambda table: np.tile(table.mean(axis=0), (5, 1))),
        ("mean", 3, lambda table: np.tile(table.mean(axis=0), (3, 1))),
        ("zeros", 3, lambda table: np.zeros((3, 32))),
        ("zeros", 5, lambda table: np.zeros((5, 32))),
    ],
)
def test_the_table_of_first_weights(
    init_table: Any, puzzles: int, expected: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    source = official(3)
    setting = TrainTRM(model=source.config, init_table=init_table)
    sizes = {"vocab": 6, "seq": 16, "puzzles": puzzles}
    model, table = first_weights(source, setting, sizes)
    np.testing.assert_array_equal(table, expected(source.weights[TABLE]))
    assert table.dtype == jnp.float32
    embedding = source.weights["embed_tokens.embedding_weight"]
    np.testing.assert_array_equal(model.embedding.weight, embedding)
    warned = bool(capsys.readouterr().out)
    assert warned == ((init_table, puzzles) == ("keep", 5))


def test_first_weights_for_other_puzzles() -> None:
    source = official(3)
    setting = TrainTRM(model=source.config)
    sizes = {"vocab": 11, "seq": 16, "puzzles": 3}
    with pytest.raises(UserError, match=r"\(11, 32\)"):
        first_weights(source, setting, sizes)
    narrow = official(3, width=20)
    sizes = {"vocab": 6, "seq": 16, "puzzles": 3}
    with pytest.raises(UserError, match="width 32"):
        first_weights(narrow, setting, sizes)


def test_first_weights_of_a_run() -> None:
    """Also of a variant without official names."""
    setting = TRM_PRESETS["quickstart"][1]
    sizes = {"vocab": 6, "seq": 16, "puzzles": 3}
    model, _ = build_model(replace(setting, seed=5), sizes)
    run = LoadedRun("trm", setting, model, make_table(jnp.ones((2, 32))), 7)
    first, table = first_weights(run, replace(setting, init_table="mean"), sizes)
    assert jax.tree.structure(first) == jax.tree.structure(model)
    assert_equal(first, model)
    np.testing.assert_array_equal(table, np.ones((3, 32)))
    with pytest.raises(UserError, match=r"mixer\.mlp\.gate_up` is float32\[17,128\]"):
        first_weights(run, setting, sizes | {"seq": 36})


# -- settings --------------------------------------------------------------------------


def test_bad_settings() -> None:
    with pytest.raises(UserError, match="`init_from`"):
        TrainTRM(init_from="")
    with pytest.raises(UserError, match="`freeze`"):
        TrainTRM(freeze=True, model=TRMConfig(prefix=0, puzzle_dim=0))


def test_a_frozen_network_has_no_moments() -> None:
    experiment = TRMExperiment(TrainTRM(freeze=True), sizes={})
    optimizer = experiment.make_optimizer(10)
    weights = {"w": jnp.ones(3)}
    assert jax.tree.leaves(optimizer.tx.init(weights)) == []
    moments = optimizer.tx.init(weights)
    updates: Any = optimizer.tx.update(weights, moments, weights)[0]
    np.testing.assert_array_equal(updates["w"], 0.0)


def test_the_rate_of_what_is_trained_is_reported() -> None:
    config = TrainTRM(table=TableConfig(lr=1e-2))
    small = replace(config.model, prefix=0, puzzle_dim=0)
    for changes, expected in (
        ({}, (1e-4, 1e-2)),
        ({"freeze": True}, (1e-2, None)),
        ({"model": small}, (1e-4, None)),
    ):
        experiment = TRMExperiment(replace(config, **changes), sizes={})
        optimizer = experiment.make_optimizer(5000)
        rates = optimizer.schedule, optimizer.table_schedule
        found = [rate and float(rate(jnp.int32(4000))) for rate in rates]
        assert found == pytest.approx(expected)


def test_the_model_is_that_of_the_weights(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_official(tmp_path, Golden(NAME), "mlp.safetensors")
    configured = config(dataset, tmp_path / "run", path)
    resolved, source = resolve(configured)
    assert source is not None
    assert resolved.model == Golden(NAME).config
    assert resolved.act == configured.act
    assert "prefix" not in capsys.readouterr().out
    (tmp_path / "all_config.yaml").unlink()
    resolved, _ = resolve(configured)
    assert "prefix=16" in capsys.readouterr().out
    assert resolve(replace(configured, init_from="scratch"))[1] is None


def test_no_such_weights(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        resolve(config(dataset, tmp_path / "run", "nowhere"))
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"recorded": {"kind": "what"}}')
    with pytest.raises(UserError, match="what"):
        resolve(config(dataset, tmp_path / "run", tmp_path / "gpt"))


# -- runs ------------------------------------------------------------------------------


def leaves(folder: Path) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load_run(folder).model)]


@pytest.mark.slow
def test_the_source_may_be_removed(dataset: Path, tmp_path: Path) -> None:
    golden = Golden(NAME)
    source = write_official(tmp_path / "in", golden)
    first = config(dataset, tmp_path / "run", source)
    assert main("quickstart", first) == 0
    changed = load_run(tmp_path / "run")
    before = weights_of(golden)["lm_head.weight"].T
    assert not np.array_equal(changed.model.head.weight, before)
    assert np.abs(np.asarray(changed.model.head.weight) - before).max() < 0.1, "near"
    shutil.rmtree(tmp_path / "in")
    assert main("quickstart", replace(first, epochs=8.0)) == 0
    assert load_run(tmp_path / "run", "newest").step == 8
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    assert recorded["init_from"] == str(source)
    assert recorded["model"]["prefix"] == 3


@pytest.mark.slow
def test_a_frozen_run_trains_the_table_alone(dataset: Path, tmp_path: Path) -> None:
    """From the averaged weights of another run; and it resumes."""
    source = write_official(tmp_path / "in", Golden(NAME))
    assert main("quickstart", config(dataset, tmp_path / "one", source)) == 0
    frozen = config(dataset, tmp_path / "two", tmp_path / "one", freeze=True)
    assert main("quickstart", frozen) == 0
    assert main("quickstart", replace(frozen, epochs=8.0)) == 0
    for before, after in zip(
        leaves(tmp_path / "one"), leaves(tmp_path / "two"), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    one, two = load_run(tmp_path / "one"), load_run(tmp_path / "two", "newest")
    assert two.step == 8
    assert not np.array_equal(one.table.rows, two.table.rows)


@pytest.mark.slow
def test_an_imported_run_is_trained_on(dataset: Path, tmp_path: Path) -> None:
    """With its own settings, from the step in its name, with fresh moments."""
    source = write_official(tmp_path / "in", Golden(NAME))
    out = ["--out", str(tmp_path / "run")]
    convert.main([str(source), *out, "--data", str(dataset)])
    imported, _ = recorded_run(tmp_path / "run")
    assert imported.init_from == "scratch"
    quick = config(dataset, tmp_path / "run", "scratch")
    same = {"mesh": quick.mesh, "eval": quick.eval, "run": quick.run}
    setting = replace(imported, epochs=4.0, **same)
    assert main("imported", setting) == 0
    run = load_run(tmp_path / "run", "newest")
    assert run.step == 8
    before = weights_of(Golden(NAME))["lm_head.weight"].T
    assert not np.array_equal(run.model.head.weight, before)


@pytest.mark.slow
def test_first_weights_are_evaluated(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a run, or into a new folder."""
    source = write_official(tmp_path / "in", Golden(NAME))
    setting = config(dataset, tmp_path / "run", source)
    setting = replace(setting, run=replace(setting.run, eval_only=True))
    assert main("quickstart", replace(setting, run_dir="")) == 0
    assert "exact_accuracy" in capsys.readouterr().out
    assert main("quickstart", setting) == 0
    row = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text())
    assert (row["step"], row["weights"]) == (0, str(source))
