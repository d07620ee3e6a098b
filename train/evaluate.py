"""Evaluate the checkpoints of a run: `python -m train.evaluate --run-dir RUN`.

    python -m train.evaluate --run-dir runs/mine --mode refill
    python -m train.evaluate --run-dir runs/mine --max-steps 128 --checkpoints all
    python -m train.evaluate --run-dir runs/mine --rollouts.preset sudoku --rows 512

The run is only read, so it may still be training. Results go to a file of their own;
see `docs/evaluate.md`.
"""

import json
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh
from tqdm import tqdm

from configs import (
    MOST_ROWS,
    MOST_STEPS,
    CheckpointName,
    MeshConfig,
    RunConfig,
    TrainTRM,
    UserError,
    ceil_div,
    require,
    require_positive,
    require_within,
)
from data.puzzles.arc.voting import Votes
from data.puzzles.dataset import Puzzle, PuzzleDataset
from data.puzzles.kind import Kind
from data.remote import local_dataset
from data.storage import (
    AnyPath,
    open_path,
    require_writable,
    whole_file,
    write_whole,
)
from train import cli
from train.budget import of_first_process
from train.devices import start
from train.experiment import AbstractExperiment, StepConfig
from train.mesh import everywhere, make_mesh, process_rows, require_divides
from train.queues import QueueStep, make_queue_step, queues, spread
from train.runs.experiments import experiment_in
from train.runs.loading import (
    LoadedRun,
    kept_steps,
    load_run,
)
from train.runs.record import recorded_run
from train.runs.stored import OtherModelError
from train.trm import TRMExperiment
from trm.clamp import Ask, clamp
from trm.evaluation import Answers, Effort, answer
from trm.rollouts import Choice, Rollouts
from trm.scoring import Sums, add, settle
from trm.show.attempts import write_attempts
from trm.show.pictures import require_pillow
from trm.summary import Result, compare, describe, result


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Checkpoints and data to evaluate, and the effort."""

    run_dir: str
    """Folder of a run of `train.trm`."""

    checkpoints: Annotated[
        tuple[CheckpointName | Literal["all"], ...],
        tyro.conf.arg(aliases=("--checkpoint",)),
    ] = ("best",)
    """Checkpoints to evaluate: `best`, `newest`, `all`, or steps."""

    data: tuple[str, ...] = ()
    """Dataset directories. Empty: the run's training data."""

    split: Literal["test", "train"] = "test"
    """Part of the data."""

    puzzles: int | None = None
    """Evaluate the first `puzzles` examples; None: all."""

    minutes: float | None = None
    """Stop each checkpoint after this time. Puzzles are then taken in rounds, so that
    every ARC task gets the same share of its augmentations. None: no limit."""

    experiment: str = ""
    """Python file with an experiment or a kind of puzzle of your own (`FILE.py`, or
    `FILE.py:CLASS`). Empty: import the recorded experiment of the run."""

    mode: Literal["fixed", "halt", "refill"] = "fixed"
    """`fixed`: all steps for every puzzle (official). `halt`: a puzzle stops by the
    rule of training. `refill`: the same answers, but a row whose puzzle has stopped
    takes the next puzzle."""

    max_steps: int | None = None
    """Most supervision steps; may exceed the steps of training (16, 64, 128). None: the
    steps of the rollouts' preset, or of training."""

    rows: int | None = None
    """Puzzles (or rollouts) in work at once, over all devices; they take up the memory.
    None: the run's evaluation batch. Never more than there are."""

    queue: int = 16
    """Puzzles given to the devices at once, in multiples of `rows`."""

    rollouts: Rollouts = field(default_factory=Rollouts)

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type. `auto`: as in training."""

    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Devices. It need not be the mesh of training."""

    out: str = ""
    """File of the results. Empty: `evaluations/<run>-<time>.json`."""

    predictions: str = ""
    """File (`.npz`) of the answers, q_halt and steps of every puzzle. With several
    checkpoints one file each, `<name>-<step>.npz`."""

    submission: str = ""
    """File (`.json`) of ARC's two attempts by vote. With several checkpoints one file
    each, `<name>-<step>.json`."""

    pictures: str = ""
    """Folder for pictures of ARC's tasks with both attempts and their votes: a PNG of
    each task, and all of them in `index.html` (extra `show`). With several checkpoints
    one folder each, `<name>/<step>`."""

    votes: Literal["each", "together"] = "each"
    """ARC: each checkpoint votes alone, or together with the checkpoints before it
    (officially `aggregated_voting`, over all evaluations of a run)."""

    def file(self, name: str, step: int) -> AnyPath:
        """Return the path of `predictions` or `submission` for a checkpoint."""
        path = open_path(getattr(self, name))
        return path.with_stem(f"{path.stem}-{step}") if self.several else path

    @property
    def several(self) -> bool:
        """True if several checkpoints may be evaluated."""
        return self.checkpoints == ("all",) or len(self.checkpoints) > 1

    def check(self) -> None:
        """Raise `UserError` unless all settings are in range and go together."""
        require_positive(self, "queue")
        for name, largest in (("max_steps", MOST_STEPS), ("rows", MOST_ROWS)):
            if getattr(self, name) is not None:
                require_positive(self, name, largest=largest)
        if self.puzzles is not None:
            require_positive(self, "puzzles")
        if self.minutes is not None:
            require_within(self, "(0, inf)", "minutes")
        require(
            "all" not in self.checkpoints or len(self.checkpoints) == 1,
            "`--checkpoints all` must be the only name: got "
            f"`{' '.join(map(str, self.checkpoints))}`. Name all of them, or some.",
        )
        require(
            self.rollouts.resolved().select != "first" or self.mode != "fixed",
            "`--rollouts.select first` needs rollouts that halt: got `--mode fixed`. "
            "Use `--mode refill`.",
        )
        require(
            not self.rollouts.particles or self.mode == "fixed",
            "`--rollouts.particles` needs rollouts that make the same steps: got "
            f"`--mode {self.mode}`. Use `--mode fixed`.",
        )
        require(
            not (self.submission or self.pictures) or self.split == "test",
            "A submission, and its pictures, are for the test split: got `--split "
            "train`. Remove one.",
        )
        if self.pictures:
            require_pillow("--pictures")
        require(
            not self.predictions or self.predictions.endswith(".npz"),
            f"`--predictions` must name an `.npz` file: got `{self.predictions}`.",
        )


# -- what is needed --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Work:
    """The part of an evaluation that all checkpoints of a run share."""

    effort: Effort
    mesh: Mesh
    rows: int
    """In work at once on each device."""

    dataset: PuzzleDataset
    """Its batch is a queue."""

    examples: int
    """Evaluate this many, from the first on."""

    step: QueueStep


def make_work(settings: Settings, experiment: TRMExperiment, run: LoadedRun) -> Work:
    """Open the data and compile the answer to a queue.

    Raises:
        UserError: if data, run and mesh do not go together.
    """
    config, mesh = experiment.config, experiment.mesh
    rollouts, turned = settings.rollouts.resolved(), settings.rollouts.symmetries
    rows = settings.rows or config.eval.batch_size or config.batch_size
    require_divides(mesh, rows)
    paths = settings.data or config.data.paths
    dataset = PuzzleDataset(paths, settings.split, batch_size=1)
    require_fits(dataset, run)
    drawn = config.model.variant == "eqr" or config.model.flow != "none"
    noisy = rollouts.sigma > 0.0 or drawn
    require_differences(settings.rollouts, dataset.kind, noisy)
    examples = min(settings.puzzles or dataset.num_examples, dataset.num_examples)
    size = min(ceil_div(rows * settings.queue, rollouts.number), examples)
    size = ceil_div(size, mesh.size) * mesh.size
    effort = Effort(
        steps=settings.max_steps or rollouts.steps or config.act.max_steps,
        early=settings.mode != "fixed",
        refill=settings.mode == "refill",
        rollouts=rollouts.number,
        sigma=rollouts.sigma,
        particles=settings.rollouts.particles,
        seed=settings.rollouts.seed,
    )
    precision = settings.precision
    precision = config.precision if precision == "auto" else precision
    rows = min(rows, size * rollouts.number) // mesh.size
    require(
        not effort.particles or rows % effort.rollouts == 0,
        f"With `--rollouts.particles` the rows of a device must be a multiple of the "
        f"{effort.rollouts} rollouts: got {rows}. Use `--rows "
        f"{ceil_div(rows, effort.rollouts) * effort.rollouts * mesh.size}`.",
    )
    function = partial(
        answer,
        effort=effort,
        halting=experiment.halting,
        puzzle_loss=experiment.puzzle_loss,
        rows=rows,
        views=dataset.kind.views(effort.rollouts, effort.seed) if turned else None,
    )
    step_config = StepConfig(batch_size=size, precision=precision, seed=0)
    local = process_rows(mesh, size)
    return Work(
        effort=effort,
        mesh=mesh,
        rows=rows,
        dataset=PuzzleDataset(
            paths,
            settings.split,
            batch_size=size,
            rows=local,
            in_rounds=settings.minutes is not None,
        ),
        examples=examples,
        step=make_queue_step(function, experiment.cast, mesh, step_config, run.model),
    )


def warn_of_other_data(paths: Sequence[str], record: dict[str, Any]) -> None:
    """Warn if puzzles look up rows of the table that were trained for other puzzles."""
    train = PuzzleDataset(paths, "train", batch_size=1)
    known = record.get("data_hash")
    if train.metadata.num_puzzle_identifiers > 1 and known not in (
        None,
        train.content_hash,
    ):
        warnings.warn(
            "The run was trained on other data, so its puzzle table has rows for other "
            "puzzles.",
            stacklevel=2,
        )


def require_differences(rollouts: Rollouts, kind: Kind, noisy: bool) -> None:
    """Check what rollouts need of noise and of the kind of puzzle.

    Raises:
        UserError: if particles have no noise, or the kind has no rules to choose by.
    """
    if rollouts.resolved().number > 1 and not (rollouts.symmetries or noisy):
        warnings.warn(
            "Without noise and symmetries all rollouts of a puzzle are the same. Add "
            "`--rollouts.symmetries`, `--rollouts.sigma` or `--rollouts.preset`.",
            stacklevel=2,
        )
    require(
        noisy or not rollouts.particles,
        "`--rollouts.particles` needs noise, or copies of a rollout remain the same. "
        "Add `--rollouts.sigma 0.3`.",
    )
    require(
        rollouts.resolved().sigma > 0.0 or rollouts.rounds == 1,
        "`--rollouts.rounds` needs noise, or starting over changes nothing. Add "
        "`--rollouts.sigma 0.3`.",
    )
    searches = rollouts.select == "rules" or rollouts.rounds > 1
    require(
        kind.faults is not None or not searches,
        "`--rollouts.select rules` and `--rollouts.rounds` need puzzles of a kind with "
        "rules, such as Sudoku or mazes. Leave them out.",
    )


def require_fits(dataset: PuzzleDataset, run: LoadedRun) -> None:
    """Raise `UserError` unless the model has the data's cells, tokens and puzzles."""
    metadata, sizes = dataset.metadata, run.sizes
    for name, needed, known in (
        ("seq_len", metadata.seq_len, sizes["seq"]),
        ("vocab_size", metadata.vocab_size, sizes["vocab"]),
        ("num_puzzle_identifiers", metadata.num_puzzle_identifiers, sizes["puzzles"]),
    ):
        require(
            needed == known if name == "seq_len" else needed <= known,
            f"The data must fit the run: its `{name}` is {needed}, the run's {known}. "
            "Name other data with `--data`.",
        )


# -- evaluating ------------------------------------------------------------------------

Arrays = dict[str, np.ndarray]
"""Puzzles and their answers, a row each."""


def answer_all(
    work: Work, run: LoadedRun, select: Choice, rounds: int
) -> Iterator[tuple[Arrays, Sums]]:
    """Yield puzzles with their answers, and sums of their metrics, queue by queue."""
    compiled = False
    for puzzles, numbers in queues(work.dataset, work.examples, work.mesh):
        step = partial(work.step, run.model, run.table, puzzles)
        if not compiled:  # an empty queue, so that compiling does not count
            jax.block_until_ready(step(jnp.full_like(numbers, -1)))
            compiled = True
        begin = time.perf_counter()
        answers = jax.block_until_ready(step(numbers))
        seconds = time.perf_counter() - begin
        answers, puzzles, numbers = everywhere((answers, puzzles, numbers))
        real = np.flatnonzero(numbers >= 0)
        puzzles = jax.tree.map(lambda a, real=real: a[real], puzzles)
        chosen, sums = judge(work, answers, real, puzzles, select)
        sums["work/row_steps"] = int(answers.sweeps.sum()) * work.rows, 1
        sums["work/seconds"] = seconds, 1
        if rounds > 1:
            ask = asking(work, run, puzzles, numbers[real], select)
            first, kind = (chosen, sums), work.dataset.kind
            sums = sums | clamp(ask, kind, puzzles.inputs, first, rounds)
        del chosen["sure"]
        yield {"number": numbers[real], **puzzles._asdict(), **chosen}, sums


def judge(
    work: Work, answers: Answers, places: np.ndarray, puzzles: Puzzle, select: Choice
) -> tuple[Arrays, Sums]:
    """Choose among the answers to puzzles at these places of a queue; see `settle`."""
    copies = work.effort.rollouts
    items = (places[:, None] * copies + np.arange(copies)).ravel()
    questions = puzzles.inputs.repeat(copies, axis=0)
    tokens = np.asarray(answers.tokens)[items]
    ruled = work.dataset.kind.is_solution(questions, tokens)
    return settle(answers, places, puzzles.labels, work.effort, select, ruled)


def asking(
    work: Work, run: LoadedRun, puzzles: Puzzle, numbers: np.ndarray, select: Choice
) -> Ask:
    """Return what `clamp` calls: answers to some of the puzzles, as other boards.

    Each round draws other noise.
    """

    def ask(number: int, some: np.ndarray, boards: np.ndarray) -> tuple[Arrays, Sums]:
        asked = jax.tree.map(lambda a: a[some], puzzles)
        others = (numbers[some] + number * work.examples).astype(np.int32)
        boarded, size = asked._replace(inputs=boards), work.dataset.batch_size
        queue, queued, places = spread(boarded, others, size, work.mesh)
        answers = everywhere(work.step(run.model, run.table, queue, queued))
        return judge(work, answers, places, asked, select)

    return ask


def loaded_runs(
    settings: Settings, mesh: Mesh, experiment: type[AbstractExperiment] | None
) -> Iterator[LoadedRun]:
    """Load the checkpoints of the settings one after another.

    Args:
        settings: run and checkpoints.
        mesh: the devices.
        experiment: class of the run's experiment; None to import the recorded one.

    Raises:
        UserError: if there is no such run or checkpoint. With `all`, a checkpoint
            that is damaged, or that the run removed, is left out with a warning.
    """
    names, loaded = settings.checkpoints, False
    if names == ("all",):
        names = tuple(kept_steps(settings.run_dir)) or ("newest",)
    for checkpoint in names:
        assert checkpoint != "all"
        try:
            run = load_run(settings.run_dir, checkpoint, mesh, experiment)
        except UserError as error:
            if settings.checkpoints != ("all",) or isinstance(error, OtherModelError):
                raise
            warnings.warn(str(error), stacklevel=2)
            continue
        loaded = True
        yield run
    require(loaded, f"No checkpoint of `{settings.run_dir}` could be read.")


def evaluate_run(settings: Settings) -> Iterator[Result]:
    """Yield the result of each checkpoint, and write the files of its answers.

    Raises:
        UserError: if run, data and settings do not go together.
    """
    config, record = recorded_run(settings.run_dir)
    require(
        isinstance(config, TrainTRM),
        f"`{settings.run_dir}` is a run of `train.{record['kind']}`, without puzzles. "
        f"Evaluate it with `python -m gpt.evaluate --run-dir {settings.run_dir}`.",
    )
    paths = settings.data or config.data.paths
    folders = map(local_dataset, paths)
    is_arc = all((folder / "test_puzzles.json").is_file() for folder in folders)
    require(
        is_arc or not (settings.submission or settings.pictures),
        "A submission, and its pictures, need an ARC dataset, with a "
        "`test_puzzles.json`: got "
        f"{', '.join(paths)}. Name it with `--data`.",
    )
    warn_of_other_data(paths, record)
    first = jax.process_index() == 0
    is_arc = is_arc and settings.split == "test" and first
    select, rounds = settings.rollouts.resolved().select, settings.rollouts.rounds
    votes, work, mesh = None, None, make_mesh(settings.mesh)
    named = experiment_in(settings.experiment) if settings.experiment else None
    for run in loaded_runs(settings, mesh, named):
        kind: Any = run.experiment or TRMExperiment
        require(
            issubclass(kind, TRMExperiment),
            f"`train.evaluate` needs a `TRMExperiment`: got `{kind.__name__}`. Name "
            "its file with `--experiment`.",
        )
        experiment = kind(config, mesh=mesh, sizes=run.sizes)
        work = work or make_work(settings, experiment, run)
        if is_arc and (votes is None or settings.votes == "each"):
            votes = Votes.of_datasets(paths)
        total: Sums = {}
        parts: list[Arrays] = []
        answered, end = 0, time.monotonic() + 60 * (settings.minutes or math.inf)
        with tqdm(total=work.examples, unit="puzzle", disable=not first) as bar:
            for arrays, sums in answer_all(work, run, select, rounds):
                total = add(total, sums)
                if votes is not None:
                    names = ("puzzle_id", "inputs", "predictions", "q_halt")
                    votes.add(*(arrays[name] for name in names))
                if settings.predictions and first:
                    parts.append(arrays | narrow(arrays, "inputs", "predictions"))
                bar.update(len(arrays["number"]))
                answered += len(arrays["number"])
                if of_first_process(end - time.monotonic()) < 0:
                    break
        puzzles = {"puzzles": answered, "whole": work.dataset.num_examples}
        found = result(total, work.effort, step=run.step, **puzzles)
        if votes is not None and found["scored"]:
            found["votes"] = votes.metrics()
        if parts:
            whole: Any = {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}
            with whole_file(settings.file("predictions", run.step)) as file:
                np.savez_compressed(file, **whole)
        if settings.submission and votes is not None:
            votes.write_submission(settings.file("submission", run.step))
        if settings.pictures and votes is not None:
            folder = open_path(settings.pictures)
            write_attempts(
                votes, folder / str(run.step) if settings.several else folder
            )
        yield found


def narrow(arrays: Arrays, *names: str) -> Arrays:
    """Return the named arrays of tokens in their smallest type."""
    smallest = lambda a: a.astype(np.min_scalar_type(int(a.max(initial=0))))
    return {name: smallest(arrays[name]) for name in names}


def new_file(path: Path) -> Path:
    """Create an empty file and return its path: NAME-2, NAME-3, ... if NAME exists."""
    name, number = path.stem, 1
    while True:
        try:
            path.touch(exist_ok=False)
            return path
        except FileExistsError:
            number += 1
            path = path.with_stem(f"{name}-{number}")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option or a file is wrong.
    """
    settings = tyro.cli(
        Settings, prog="python -m train.evaluate", description=__doc__, args=args
    )
    settings.check()
    start(settings.mesh, RunConfig())
    run, first = Path(settings.run_dir).name, jax.process_index() == 0
    default = f"evaluations/{run}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path = open_path(settings.out or default)
    page = settings.pictures and f"{settings.pictures}/index.html"
    for file in (str(path), settings.predictions, settings.submission, page):
        if file and first:
            require_writable(open_path(file))
    results: list[Result] = []
    for found in evaluate_run(settings):
        results.append(found)
        if first:
            print(f"\n{run}, step {found['step']}:\n{describe(found)}", flush=True)
            about = {"settings": asdict(settings), "results": results}
            if not settings.out and len(results) == 1:
                path = new_file(Path(default))
            write_whole(path, json.dumps(about, indent=1) + "\n")
    if first:
        print("\n" + compare(results) if len(results) > 1 else "")
        print(f"Written to {path}.")


if __name__ == "__main__":
    cli.run(main)
