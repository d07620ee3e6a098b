import errno
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import RunConfig, UserError
from tests import tiny
from tests.tiny import assert_equal, mesh_of
from train.runs import checkpoint
from train.runs.checkpoint import Checkpoints, NonFiniteError
from train.runs.integrity import fingerprint
from train.runs.stored import OtherModelError
from train.state import TrainState, abstract_state, init_state
from train.table import make_table

ALL = RunConfig(keep_last=100)


def small_init() -> TrainState:
    """Return a state of few small arrays."""
    weights = {"w": jnp.arange(64, dtype=jnp.float32).reshape(8, 8), "b": jnp.ones(3)}
    return TrainState(
        step=jnp.int32(0),
        updates=jnp.int32(0),
        model=weights,
        ema=jax.tree.map(lambda x: -x, weights),
        table=make_table(jnp.full((4, 2), 0.5)),
        opt_state={"m": jnp.ones((8, 8))},
        carry={"y": jnp.ones((8, 4), jnp.bfloat16), "halted": jnp.ones(8, bool)},
    )


def moved(state: TrainState, step: int) -> TrainState:
    """Return the state with other numbers, at `step`."""

    def move(x: jax.Array) -> jax.Array:
        return x if x.dtype == bool else (x * 1.37 + step).astype(x.dtype)

    numbers = (jnp.int32(step), jnp.int32(3 * step))
    moved = jax.tree.map(move, state)
    return eqx.tree_at(lambda s: (s.step, s.updates), moved, numbers)


@cache
def small(step: int) -> TrainState:
    return moved(init_state(small_init, mesh_of(1, 1)), step)


def abstract() -> TrainState:
    return abstract_state(small_init, mesh_of(1, 1))


def write(folder: Path, *steps: int, config: RunConfig = ALL) -> None:
    checkpoints = Checkpoints(folder, config)
    for step in steps:
        checkpoints.save(small(step))
        checkpoints.score(step, step / 10)
    checkpoints.close()


def read(folder: Path, wanted: TrainState | None = None) -> TrainState | None:
    checkpoints = Checkpoints(folder, ALL)
    try:
        return checkpoints.restore(lambda step: wanted or abstract())
    finally:
        checkpoints.close()


def require_state(state: TrainState | None, expected: TrainState) -> None:
    assert state is not None
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype
    assert_equal(state, expected)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints of the steps 1 and 2."""
    folder = tmp_path_factory.mktemp("checkpoints") / "checkpoints"
    write(folder, 1, 2)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of `written`."""
    return Path(shutil.copytree(written, tmp_path / "checkpoints"))


# -- saving and restoring --------------------------------------------------------------


@pytest.mark.slow
def test_a_whole_state_comes_back_bit_for_bit_on_any_mesh(tmp_path: Path) -> None:
    """Saved on 8 x 1, read on 4 x 2, saved there, read on 1 x 1."""
    init = tiny.init(tiny.adam_rules(), precision="bfloat16")
    state = moved(init_state(init, mesh_of(8, 1)), 7)
    expected = tiny.host(state)
    for number, sizes in enumerate([(8, 1), (4, 2), (1, 1)]):
        wanted = abstract_state(init, mesh_of(*sizes))
        checkpoints = Checkpoints(tmp_path / str(number), ALL)
        checkpoints.save(state)
        restored = checkpoints.restore(lambda step, wanted=wanted: wanted)
        checkpoints.close()
        assert restored is not None
        require_state(tiny.host(restored), expected)
        state = restored
        pairs = zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True)
        assert all(leaf.sharding == like.sharding for leaf, like in pairs)
    assert int(state.step) == 7
    assert int(state.updates) == 21


def test_parts_may_be_empty(tmp_path: Path) -> None:
    """No average, table, carry or moments, like a GPT trained by plain SGD."""

    def init() -> TrainState:
        nothing = {"ema": None, "table": (), "carry": ()}
        return replace(small_init(), opt_state=optax.EmptyState(), **nothing)

    state = moved(init_state(init, mesh_of(1, 1)), 3)
    checkpoints = Checkpoints(tmp_path, ALL)
    checkpoints.save(state)
    restored = checkpoints.restore(lambda step: abstract_state(init, mesh_of(1, 1)))
    checkpoints.close()
    require_state(restored, state)


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert read(tmp_path / "new") is None


def test_a_step_is_saved_once(folder: Path) -> None:
    checkpoints = Checkpoints(folder, ALL)
    checkpoints.save(replace(small(2), table=small(1).table))
    checkpoints.close()
    require_state(read(folder), small(2))


def test_a_state_that_is_not_finite_is_not_saved(folder: Path) -> None:
    checkpoints = Checkpoints(folder, ALL)
    table = make_table(small(3).table.rows.at[1, 1].set(jnp.inf))
    with pytest.raises(NonFiniteError, match="step 2"):
        checkpoints.save(replace(small(3), table=table))
    checkpoints.close()
    require_state(read(folder), small(2))


# -- retention -------------------------------------------------------------------------


def test_the_last_the_best_and_every_mth_are_kept(tmp_path: Path) -> None:
    """Also when the run is resumed in between, and without `metrics.jsonl`."""
    config = RunConfig(keep_last=2, keep_best=1, keep_every=4)
    scores = {2: 0.1, 3: 0.9, 6: 0.5, 9: 0.2}
    for steps in (range(1, 6), range(6, 11)):
        checkpoints = Checkpoints(tmp_path, config)
        for step in steps:
            checkpoints.save(small(step))
            if step in scores:
                checkpoints.score(step, scores[step])
        checkpoints.close()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"3", "4", "8", "9", "10"}


def test_only_the_last_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, config=RunConfig(keep_last=1, keep_best=0))
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


@pytest.mark.parametrize("content", [None, "garbled", '"0.1"', "[]"])
def test_a_checkpoint_that_may_be_the_best_is_kept(
    folder: Path, content: str | None
) -> None:
    """Earlier versions saved no scores, and their `metrics.jsonl` may be lost."""
    for path in folder.glob("*/score.json"):
        path.unlink() if content is None else path.write_text(content)
    write(folder, 3, 4, 5, config=RunConfig(keep_last=1))
    assert {path.name for path in folder.iterdir()} == {"1", "2", "4", "5"}


def test_scores_of_metrics_are_saved_with_checkpoints(folder: Path) -> None:
    (folder / "1" / "score.json").unlink()
    Checkpoints(folder, ALL, scores={1: 0.7}).close()
    checkpoints = Checkpoints(folder, ALL, read_only=True)
    assert checkpoints.best == 0.7
    wanted = abstract()
    restored = checkpoints.restore_weights(wanted.model, wanted.table, best=True)
    assert restored is not None
    assert restored[-1] == 1


# -- damage ----------------------------------------------------------------------------


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [delete, truncate, empty, flip])
def test_whatever_file_is_damaged(written: Path, tmp_path: Path, spoil: Any) -> None:
    """Read the newest state exactly, or the one before and warn; each file in turn."""
    files = [path.relative_to(written) for path in (written / "2").rglob("*")]
    files = [path for path in sorted(files) if (written / path).is_file()]
    assert len(files) > 40
    if spoil is flip:  # Orbax may not open the folder then: a `UserError`
        files.remove(Path("2/_CHECKPOINT_METADATA"))
    outcomes = []
    for number, path in enumerate(files):
        folder = tmp_path / str(number) / "checkpoints"
        shutil.copytree(written, folder)
        spoil(folder / path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            state = read(folder)
        messages = [str(warning.message) for warning in caught]
        assert state is not None
        step = int(state.step)
        require_state(state, small(step))
        assert any("is damaged" in text for text in messages) == (step == 1), path
        outcomes.append(step)
    assert {1, 2} == set(outcomes), "some files are needed, some are not"


@pytest.mark.parametrize(
    "part", ["counters", "model", "ema", "table", "opt_state", "carry"]
)
def test_a_missing_part_is_damage_and_not_another_model(
    folder: Path, part: str
) -> None:
    shutil.rmtree(folder / "2" / part)
    with pytest.warns(UserWarning, match="step 2 is damaged"):
        state = read(folder)
    require_state(state, small(1))


def test_damage_is_quarantined_and_the_step_saved_again(folder: Path) -> None:
    delete(folder / "2" / "_CHECKPOINT_METADATA")
    checkpoints = Checkpoints(folder, ALL)
    with pytest.warns(UserWarning, match="step 2 is damaged"):
        require_state(checkpoints.restore(lambda step: abstract()), small(1))
    assert checkpoints.newest == 1
    assert (folder.parent / "damaged" / "2" / "model").is_dir()
    checkpoints.save(small(2))
    checkpoints.close()
    require_state(read(folder), small(2))


@pytest.mark.parametrize("content", ["[]", "7", '{"custom_metadata": []}'])
def test_metadata_of_another_type_are_damage(folder: Path, content: str) -> None:
    """Orbax cannot open the folder."""
    (folder / "2" / "_CHECKPOINT_METADATA").write_text(content)
    with pytest.raises(UserError, match="step 2: "):
        Checkpoints(folder, ALL, read_only=True)
    with pytest.warns(UserWarning, match="step 2 is damaged"):
        require_state(read(folder), small(1))


def test_what_takes_the_place_of_a_checkpoint_is_quarantined(folder: Path) -> None:
    """A link to itself, which would fail the save of step 3."""
    (folder / "3").symlink_to(folder / "3")
    with pytest.warns(UserWarning, match="step 3 is damaged"):
        write(folder, 3)
    require_state(read(folder), small(3))


def test_a_file_that_takes_the_place_of_the_quarantine(folder: Path) -> None:
    (folder.parent / "damaged").touch()
    shutil.rmtree(folder / "2" / "model")
    with pytest.raises(UserError, match="Could not move"):
        read(folder)


def test_a_lack_of_resources_is_no_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(checkpoint, "read_state", fail)
    with pytest.raises(UserError, match="ulimit -n"):
        read(folder)
    assert {path.name for path in folder.iterdir()} == {"1", "2"}


@pytest.mark.filterwarnings("ignore:The checkpoint at step 1 is gone")
def test_a_checkpoint_that_the_run_removes_is_gone(folder: Path) -> None:
    """And not damaged."""
    wanted = abstract()
    checkpoints = Checkpoints(folder, ALL, read_only=True)
    shutil.rmtree(folder / "1")
    with pytest.raises(UserError, match="step 1 does not exist: the steps are 2"):
        checkpoints.restore_weights(wanted.model, wanted.table, best=True, only=1)


def test_the_folder_of_another_step_is_damage(folder: Path) -> None:
    (folder / "2").rename(folder / "3")
    with pytest.warns(UserWarning, match="step 3 is damaged"):
        require_state(read(folder), small(1))


def test_an_array_of_another_checkpoint_is_damage(folder: Path) -> None:
    """Orbax reads it without an error."""
    shutil.rmtree(folder / "2" / "ema")
    shutil.copytree(folder / "1" / "ema", folder / "2" / "ema")
    with pytest.warns(UserWarning, match=r"`ema\.b`"):
        require_state(read(folder), small(1))


def test_all_damaged_is_an_error(folder: Path) -> None:
    for step in ("1", "2"):
        shutil.rmtree(folder / step / "model")
    with pytest.raises(UserError, match=r"step 2: .*step 1: "):
        read(folder)
    assert {path.name for path in folder.iterdir()} == {"1", "2"}, "left as they were"


@pytest.mark.parametrize("name", ["w", "extra"])
def test_another_model_is_an_error(folder: Path, name: str) -> None:
    """The older checkpoint is not tried."""

    def init() -> TrainState:
        state = small_init()
        return replace(state, model={**state.model, name: jnp.zeros((4, 8))})

    with pytest.raises(OtherModelError, match=rf"`model\.{name}`.*float32\[4,8\]"):
        read(folder, abstract_state(init, mesh_of(1, 1)))


def test_a_model_without_an_average_is_another_model(folder: Path) -> None:
    init = lambda: replace(small_init(), ema=None)
    with pytest.raises(OtherModelError, match=r"`ema\.b`"):
        read(folder, abstract_state(init, mesh_of(1, 1)))


def test_foreign_files_do_no_harm(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "backup").mkdir()
    (folder / "backup" / "2").mkdir()
    (folder / "3.orbax-checkpoint-tmp").mkdir()
    (folder / "3.orbax-checkpoint-tmp" / "model").mkdir()
    require_state(read(folder), small(2))
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "backup" / "2").is_dir()


def test_an_empty_folder_named_like_a_step_is_quarantined(folder: Path) -> None:
    (folder / "99").mkdir()
    with pytest.warns(UserWarning, match="step 99 is damaged"):
        require_state(read(folder), small(2))


def test_the_folder_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match=str(tmp_path)):
        Checkpoints(tmp_path / "checkpoints", ALL)


# -- checksums -------------------------------------------------------------------------


def variants(x: np.ndarray) -> Iterator[np.ndarray]:
    yield np.zeros_like(x)
    yield x[::-1]
    yield x.T.reshape(x.shape)
    changed = x.copy()
    changed[3, 2] = np.nextafter(changed[3, 2], np.float32(10))
    yield changed


def test_different_arrays_have_different_checksums() -> None:
    for x in (np.full((8, 4), 2.0, np.float32), np.eye(8, 4, dtype=np.float32)):
        (expected,) = fingerprint([jnp.asarray(x)])[0].values()
        for other in variants(x):
            same = bool((other == x).all())
            assert (fingerprint([jnp.asarray(other)])[0]["0"] == expected) == same


def test_checksums_do_not_depend_on_the_mesh() -> None:
    init = tiny.init(tiny.adam_rules(), precision="bfloat16")
    one, other = (init_state(init, mesh_of(*sizes)) for sizes in [(1, 1), (4, 2)])
    assert fingerprint(one) == fingerprint(other)
