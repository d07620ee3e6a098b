"""ARC datasets: ours has what the official builder's has, and both train."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import data.puzzles.arc.build
from configs import (
    ARC,
    EvalConfig,
    MeshConfig,
    PuzzleDataConfig,
    RunConfig,
    TRMConfig,
    UserError,
)
from data.prepare import main as prepare_main
from data.puzzles.arc.build import build
from data.puzzles.arc.grid import as_canvas, crop, parse_name, undo
from data.puzzles.arc.tasks import read_json, read_subsets
from data.puzzles.arc.voting import Votes
from data.puzzles.dataset import Metadata, PuzzleDataset
from tests.arc_golden import RAW, write_official
from train.presets import TRM_PRESETS
from train.trm import main

CONFIG = ARC(
    source=str(RAW),
    subsets=("training", "evaluation"),
    augmentations=5,
    processes=1,
)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("official") / "dataset")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ours") / "dataset"
    build(CONFIG, out)
    return out


def load(folder: Path, split: str) -> dict[str, np.ndarray]:
    names = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices")
    names = (*names, "group_indices")
    return {name: np.load(folder / split / f"all__{name}.npy") for name in names}


def to_corner(canvas: np.ndarray) -> np.ndarray:
    """A canvas whose grid is moved back to the corner."""
    canvas = as_canvas(canvas)
    row, column = np.argwhere(canvas >= 2).min(axis=0)
    back = np.zeros_like(canvas)
    back[: len(canvas) - row, : len(canvas) - column] = canvas[row:, column:]
    return back.reshape(1, -1)


def groups(folder: Path, split: str) -> dict[str, list[list[str]]]:
    """Of each task its puzzles: the pairs of each, with the augmentation undone."""
    arrays, names = load(folder, split), read_json(folder / "identifiers.json")
    sides = [
        [crop(to_corner(own))[0] for own in arrays[name]]
        for name in ("inputs", "labels")
    ]
    found: dict[str, list[list[str]]] = {}
    ends = arrays["group_indices"]
    for first, last in itertools.pairwise(ends.tolist()):
        tasks = set()
        puzzles = []
        for i in range(first, last):
            name, *image = parse_name(names[arrays["puzzle_identifiers"][i]])
            tasks.add(name)
            examples = range(*arrays["puzzle_indices"][i : i + 2])
            pairs = [
                [undo(side[j], *image).tolist() for side in sides] for j in examples
            ]
            puzzles.append(sorted(map(str, pairs)))
        (task,) = tasks
        found[task] = puzzles
    return found


@pytest.mark.parametrize("split", ["train", "test"])
def test_groups_are_the_official_ones(official: Path, ours: Path, split: str):
    """The same tasks, so many puzzles of each, and the same pairs undone of each."""
    assert groups(ours, split) == groups(official, split)


@pytest.mark.parametrize("split", ["train", "test"])
def test_arrays_and_metadata_are_the_official_ones(
    official: Path, ours: Path, split: str
):
    found, wanted = load(ours, split), load(official, split)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
    metadata = Metadata.read(ours / split)
    assert metadata == Metadata.read(official / split)
    assert metadata.kind == "arc"


def test_identifiers_and_test_puzzles_are_as_the_official_ones(
    official: Path, ours: Path
):
    names, theirs = (read_json(own / "identifiers.json") for own in (ours, official))
    assert names[0] == theirs[0] == "<blank>"
    assert len(set(names)) == len(names) == len(theirs)
    shape = lambda name: [len(part) for part in name.split("|||")]
    assert sorted(map(shape, names)) == sorted(map(shape, theirs))
    tasks, theirs = (read_json(own / "test_puzzles.json") for own in (ours, official))
    assert tasks == theirs


def test_tokens_are_the_official_ones_where_nothing_is_random(
    official: Path, ours: Path
):
    """The test pairs of the tasks themselves: padding, border and colors."""

    def originals(folder: Path):
        arrays, names = load(folder, "test"), read_json(folder / "identifiers.json")
        labels = [names[i] for i in arrays["puzzle_identifiers"]]
        tokens = np.stack([arrays["inputs"], arrays["labels"]], axis=1)
        return {
            name: own.tolist()
            for name, own in zip(labels, tokens, strict=True)
            if "|||" not in name
        }

    found = originals(ours)
    assert len(found) == 5
    assert found == originals(official)


def test_answers_from_the_labels_solve_every_test_task(ours: Path):
    arrays = load(ours, "test")
    assert len(arrays["inputs"]) == len(arrays["puzzle_identifiers"])  # one input each
    votes = Votes.of_datasets([ours])
    q = np.zeros(len(arrays["inputs"]))
    votes.add(arrays["puzzle_identifiers"], arrays["inputs"], arrays["labels"], q)
    assert votes.metrics([1]) == {"ARC/pass@1": 1.0}
    for name, answers in votes.submission().items():
        pairs = read_json(ours / "test_puzzles.json")[name]["test"]
        assert [a["attempt_1"] for a in answers] == [p["output"] for p in pairs]


def test_the_seed_decides_and_not_the_number_of_processes(ours: Path, tmp_path: Path):
    options = ["--subsets", "training", "evaluation", "--augmentations", "5"]
    command = ["arc", "--source", str(RAW), *options]
    prepare_main([*command, "--out", str(tmp_path / "two"), "--processes", "2"])
    build(replace(CONFIG, seed=1), tmp_path / "other")
    for split in ("train", "test"):
        first, two, other = (
            load(folder, split)["inputs"]
            for folder in (ours, tmp_path / "two", tmp_path / "other")
        )
        assert (first == two).all()
        assert (first != other).any()
        digests = [
            Metadata.read(folder / split).extra["content_hash"]
            for folder in (ours, tmp_path / "two", tmp_path / "other")
        ]
        assert digests[0] == digests[1] != digests[2]


def test_without_augmentations_there_is_the_task_alone(tmp_path: Path):
    build(replace(CONFIG, augmentations=0), tmp_path / "plain")
    names = read_json(tmp_path / "plain" / "identifiers.json")
    assert len(names) == 11
    assert not any("|||" in name for name in names)


def test_a_smaller_canvas_has_all_of_the_tasks_that_fit(tmp_path: Path):
    config, out = replace(CONFIG, side=13), tmp_path / "small"
    build(config, out)
    tasks = [task for tasks in read_subsets(CONFIG).values() for task in tasks]
    fitting = {task.name: task for task in tasks if task.side <= 13}
    assert len(fitting) == 5
    trained, tested = groups(out, "train"), groups(out, "test")
    assert trained.keys() == fitting.keys()
    as_text = lambda pairs: sorted(str([a.tolist(), b.tolist()]) for a, b in pairs)
    for name, task in fitting.items():
        shown = task.train if name in tested else [*task.train, *task.test]
        assert trained[name] == [as_text(shown)] * 6
    for name, puzzles in tested.items():
        assert puzzles == [as_text(fitting[name].test)] * 6
    arrays, votes = load(out, "test"), Votes.of_datasets([out])
    assert arrays["inputs"].shape[1] == Metadata.read(out / "test").seq_len == 169
    q = np.zeros(len(arrays["inputs"]))
    votes.add(arrays["puzzle_identifiers"], arrays["inputs"], arrays["labels"], q)
    assert votes.metrics([1]) == {"ARC/pass@1": 1.0}
    with pytest.raises(UserError, match="side=12"):
        build(replace(CONFIG, side=12), tmp_path / "none")


def test_secret_solutions_leave_a_submission_to_make(tmp_path: Path):
    for path in RAW.iterdir():
        if path.name != "mini_evaluation_solutions.json":
            shutil.copy(path, tmp_path)
    build(replace(CONFIG, source=str(tmp_path)), tmp_path / "out")
    arrays = load(tmp_path / "out", "test")
    assert (arrays["labels"] >= 2).sum() == len(arrays["labels"])  # one cell: unknown
    votes = Votes.of_datasets([tmp_path / "out"])
    assert votes.metrics() == {}
    assert sorted(votes.submission()) == sorted(
        read_json(RAW / "mini_evaluation_challenges.json")
    )


def test_a_dataset_that_does_not_fit_onto_the_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    full = lambda path: shutil._ntuple_diskusage(10, 10, 0)
    monkeypatch.setattr(data.puzzles.arc.build.shutil, "disk_usage", full)
    with pytest.raises(UserError, match=r"needs 464,400 bytes.*has 0"):
        build(CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_files_are_the_users_error(tmp_path: Path):
    (tmp_path / "x_training_challenges.json").write_text('{"a": ')
    command = ["arc", "--source", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="x_training_challenges"):
        prepare_main([*command, "--subsets", "training", "--test", "training"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "made_by", ["official", pytest.param("ours", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_a_run_trains_and_evaluates_on_it(
    made_by: str, request: pytest.FixtureRequest, tmp_path: Path
):
    folder = request.getfixturevalue(made_by)
    preset = TRM_PRESETS["arc1"][1]
    config = replace(
        preset,
        batch_size=32,
        epochs=1.0,
        precision="float32",
        run_dir=str(tmp_path / "run"),
        model=TRMConfig(
            dim=16,
            heads=2,
            expansion=1.0,
            layers=1,
            mixer="attention",
            positions="rope",
            H_cycles=1,
            L_cycles=1,
            prefix=1,
            puzzle_dim=16,
        ),
        act=replace(preset.act, max_steps=1),
        data=PuzzleDataConfig(paths=(str(folder),), build=None),
        mesh=MeshConfig(data=1),
        eval=EvalConfig(batch_size=30),
        run=RunConfig(compilation_cache=None),
    )
    assert main("arc1", config) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert any("accuracy" in json.dumps(json.loads(line)) for line in lines)


def test_batches_are_puzzles_of_the_groups(official: Path):
    dataset = PuzzleDataset([official], "train", batch_size=32)
    batch = dataset.batch(0)
    assert batch.inputs.shape == (32, 900)
    assert (batch.labels[batch.labels != -100] >= 1).all()
