"""Evaluate what a run has trained: `python -m train.evaluate --run-dir RUN`.

    python -m train.evaluate --run-dir runs/mine --mode refill
    python -m train.evaluate --run-dir runs/mine --max-steps 128 --checkpoints all
    python -m train.evaluate --run-dir runs/mine --rollouts.preset sudoku --rows 512

The run is only read, and may be going on; results go to a file of their own. All of it
is explained in `docs/evaluate.md`.
"""

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh
from tqdm import tqdm

from configs import (
    MOST_ROWS,
    MOST_STEPS,
    MeshConfig,
    RunConfig,
    TrainTRM,
    UserError,
    require,
    require_positive,
)
from data.puzzles.arc.voting import Votes
from data.puzzles.dataset import PuzzleDataset
from data.remote import local_dataset
from train import cli
from train.answers import Arrays, KeptAnswers, named
from train.devices import start
from train.gradients import StepConfig
from train.mesh import everywhere, make_mesh, process_rows
from train.queues import make_queue_step, queues
from train.runs.loading import CheckpointName, LoadedRun, kept_steps, load_run
from train.runs.record import recorded_run
from train.runs.stored import OtherModelError
from trm.evaluation import Answers, Effort, answer
from trm.model import cast
from trm.rollouts import Choice, Rollouts
from trm.scoring import Sums, add, settle
from trm.summary import Result, compare, describe, result


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to evaluate, and how."""

    run_dir: str
    """Folder of a run of `train.trm`."""

    checkpoints: tuple[CheckpointName | Literal["all"], ...] = ("best",)
    """Which of its checkpoints: `best`, `newest`, `all` that are kept, or steps."""

    data: tuple[str, ...] = ()
    """Dataset directories. Empty: those that the run was trained on."""

    split: Literal["test", "train"] = "test"
    """Which part of the data."""

    puzzles: int | None = None
    """First examples of it to evaluate; None: all."""

    mode: Literal["fixed", "halt", "refill"] = "fixed"
    """`fixed`: all steps for every puzzle (official). `halt`: a puzzle stops by the
    rule of training. `refill`: the same answers, but a row that has stopped goes on
    with the next puzzle."""

    max_steps: int | None = None
    """Most supervision steps; may be more than in training (16, 64, 128). None: that
    of the rollouts' preset, or of training."""

    rows: int | None = None
    """Puzzles (or rollouts) in work at once, over all devices: what takes the memory.
    None: the run's evaluation batch."""

    queue: int = 16
    """Puzzles given to the devices at once, in multiples of `rows`."""

    rollouts: Rollouts = field(default_factory=Rollouts)

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type. `auto`: that of training."""

    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Devices. It need not be the mesh of training."""

    out: str = ""
    """File of the results. Empty: `evaluations/<run>-<time>.json`."""

    predictions: str = ""
    """File (`.npz`) of the answers, q_halt and steps of every puzzle. With several
    checkpoints one file each, `<name>-<step>.npz`."""

    submission: str = ""
    """File (`.json`) of ARC's two attempts by vote, named likewise."""

    votes: Literal["each", "together"] = "each"
    """ARC: whether each checkpoint votes alone, or together with those before it
    (officially `aggregated_voting`, over all evaluations of a run)."""

    @property
    def several(self) -> bool:
        """Whether there may be more than one checkpoint."""
        return self.checkpoints == ("all",) or len(self.checkpoints) > 1

    def check(self) -> None:
        """Raise `UserError` unless all settings are in range and go together."""
        require_positive(self, "queue")
        for name, largest in (("max_steps", MOST_STEPS), ("rows", MOST_ROWS)):
            if getattr(self, name) is not None:
                require_positive(self, name, largest=largest)
        if self.puzzles is not None:
            require_positive(self, "puzzles")
        require(
            self.rollouts.resolved().select != "first" or self.mode != "fixed",
            "`--rollouts.select first` needs rollouts that halt: got `--mode fixed`. "
            "Use `--mode refill`.",
        )
        require(
            not self.submission or self.split == "test",
            "A submission is of the test split: got `--split train`. Leave out one.",
        )
        require(
            not self.predictions or self.predictions.endswith(".npz"),
            f"`--predictions` must name an `.npz` file: got `{self.predictions}`.",
        )


# -- what is needed --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is the same for all checkpoints of a run."""

    effort: Effort
    select: Choice
    mesh: Mesh
    rows: int
    """In work at once on each device."""

    dataset: PuzzleDataset
    """Its batch is a queue."""

    examples: int
    """Of the dataset, from its beginning."""

    step: Callable[..., Answers]
    """`model, table, puzzles, their numbers -> answers`, compiled."""


def make_work(settings: Settings, config: TrainTRM, run: LoadedRun) -> Work:
    """What is the same for all checkpoints.

    Raises:
        UserError: if data, run and mesh do not go together.
    """
    mesh = make_mesh(settings.mesh)
    rollouts = settings.rollouts.resolved()
    if rollouts.number > 1 and rollouts.sigma == 0.0 and config.model.variant != "eqr":
        warnings.warn(
            "Without noise all rollouts of a puzzle are the same: give "
            "`--rollouts.sigma` or `--rollouts.preset`.",
            stacklevel=2,
        )
    rows = settings.rows or config.eval.batch_size or config.batch_size
    process_rows(mesh, rows)  # or it says why not
    paths = settings.data or config.data.paths
    dataset = PuzzleDataset(paths, settings.split, batch_size=1)
    require_fits(dataset, run)
    examples = min(settings.puzzles or dataset.num_examples, dataset.num_examples)
    size = min(-(-rows * settings.queue // rollouts.number), examples)
    size = -(-size // mesh.size) * mesh.size
    local = process_rows(mesh, size)
    effort = Effort(
        steps=settings.max_steps or rollouts.steps or config.act.max_steps,
        early=settings.mode != "fixed",
        refill=settings.mode == "refill",
        rollouts=rollouts.number,
        sigma=rollouts.sigma,
        seed=settings.rollouts.seed,
    )
    precision = settings.precision
    precision = config.precision if precision == "auto" else precision
    step_config = StepConfig(batch_size=size, precision=precision, seed=0)
    rows //= mesh.size
    function = partial(answer, effort=effort, act=config.act, rows=rows)
    return Work(
        effort=effort,
        select=rollouts.select,
        mesh=mesh,
        rows=rows,
        dataset=PuzzleDataset(paths, settings.split, batch_size=size, rows=local),
        examples=examples,
        step=make_queue_step(function, cast, mesh, step_config, run.model),
    )


def warn_of_other_data(paths: Sequence[str], record: dict[str, Any]) -> None:
    """Warn if puzzles with rows of their own in the table are not those of the run."""
    train = PuzzleDataset(paths, "train", batch_size=1)
    known = record.get("data_hash")
    if train.metadata.num_puzzle_identifiers > 1 and known not in (
        None,
        train.content_hash,
    ):
        warnings.warn(
            "The data are not those that the run was trained on: rows of its puzzle "
            "table stand for other puzzles.",
            stacklevel=2,
        )


def require_fits(dataset: PuzzleDataset, run: LoadedRun) -> None:
    """Raise `UserError` unless the model knows the data: cells, tokens, puzzles."""
    metadata, sizes = dataset.metadata, run.sizes
    for name, needed, known in (
        ("seq_len", metadata.seq_len, sizes["seq"]),
        ("vocab_size", metadata.vocab_size, sizes["vocab"]),
        ("num_puzzle_identifiers", metadata.num_puzzle_identifiers, sizes["puzzles"]),
    ):
        require(
            needed == known if name == "seq_len" else needed <= known,
            f"The data must fit the run: its `{name}` is {needed}, and that of the run "
            f"{known}. Name other data with `--data`.",
        )


# -- evaluating ------------------------------------------------------------------------


def evaluate_checkpoint(
    work: Work, run: LoadedRun, keep: Callable[[Arrays], None]
) -> Result:
    """What a checkpoint reaches; `keep` gets puzzles and answers, queue by queue."""
    total: Sums = {}
    sweeps, seconds = 0, 0.0
    quiet = None if jax.process_index() == 0 else True
    with tqdm(total=work.examples, unit="puzzle", disable=quiet) as bar:
        for puzzles, numbers in queues(work.dataset, work.examples, work.mesh):
            if not total:  # compile, which does not count, and answer nothing
                nothing = jnp.full_like(numbers, -1)
                jax.block_until_ready(work.step(run.model, run.table, puzzles, nothing))
            begin = time.perf_counter()
            answers = work.step(run.model, run.table, puzzles, numbers)
            jax.block_until_ready(answers)
            seconds += time.perf_counter() - begin
            answers, puzzles, numbers = everywhere((answers, puzzles, numbers))
            real = np.flatnonzero(numbers >= 0)
            puzzles = jax.tree.map(lambda a, real=real: a[real], puzzles)
            chosen, sums = settle(
                answers, real, puzzles.labels, work.effort, work.select
            )
            ruled = work.dataset.kind.is_solution(puzzles.inputs, chosen.predictions)
            if ruled is not None:
                sums["by_the_rules"] = (int(ruled.sum()), len(ruled))
            total = add(total, sums)
            sweeps += int(answers.sweeps.sum())
            keep({"number": numbers[real], **puzzles._asdict(), **vars(chosen)})
            bar.update(len(real))
    return result(
        total,
        work.effort,
        step=run.step,
        puzzles=work.examples,
        row_steps=sweeps * work.rows,
        seconds=seconds,
    )


def loaded_runs(settings: Settings) -> Iterator[LoadedRun]:
    """The checkpoints that the settings name, one after another.

    Raises:
        UserError: if there is no such run or checkpoint. Of all of them a damaged one
            is left out, with a warning.
    """
    mesh, names = make_mesh(settings.mesh), settings.checkpoints
    if names == ("all",):
        names = tuple(kept_steps(settings.run_dir))
    for checkpoint in names or ("newest",):
        if checkpoint == "all":
            raise UserError(
                "`--checkpoints all` must stand alone: got "
                f"`{' '.join(map(str, names))}`. Name all of them, or some."
            )
        try:
            run = load_run(settings.run_dir, checkpoint, mesh)
        except UserError as error:
            if settings.checkpoints != ("all",) or isinstance(error, OtherModelError):
                raise
            warnings.warn(str(error), stacklevel=2)
            continue
        yield run


def evaluate_run(settings: Settings) -> Iterator[Result]:
    """What each checkpoint of a run reaches; writes the files of its answers.

    Raises:
        UserError: if run, data and settings do not go together.
    """
    config, record = recorded_run(settings.run_dir, TrainTRM)
    paths = settings.data or config.data.paths
    folders = map(local_dataset, paths)
    is_arc = all((folder / "test_puzzles.json").is_file() for folder in folders)
    require(
        is_arc or not settings.submission,
        f"A submission needs an ARC dataset, with a `test_puzzles.json`: got "
        f"{', '.join(paths)}. Name it with `--data`.",
    )
    warn_of_other_data(paths, record)
    first = jax.process_index() == 0
    is_arc = is_arc and settings.split == "test" and first
    votes, work = None, None
    for run in loaded_runs(settings):
        work = work or make_work(settings, config, run)
        if is_arc and (votes is None or settings.votes == "each"):
            votes = Votes.of_datasets(paths)
        kept = KeptAnswers(votes, bool(settings.predictions) and first)
        found = evaluate_checkpoint(work, run, kept)
        if votes is not None:
            found["votes"] = votes.metrics()
        path = partial(named, step=run.step, several=settings.several)
        if settings.predictions and first:
            kept.save(path(settings.predictions))
        if settings.submission and votes is not None:
            votes.write_submission(path(settings.submission))
        yield found


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
    run = Path(settings.run_dir).name
    default = f"evaluations/{run}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path = Path(settings.out or default)
    for file in (path, Path(settings.predictions), Path(settings.submission)):
        file.parent.mkdir(parents=True, exist_ok=True)  # or it says why not, at once
    results: list[Result] = []
    for found in evaluate_run(settings):
        results.append(found)
        if jax.process_index() == 0:
            print(f"\n{run}, step {found['step']}:\n{describe(found)}", flush=True)
            about = {"settings": asdict(settings), "results": results}
            path.write_text(json.dumps(about, indent=1) + "\n")
    if jax.process_index() == 0:
        print("\n" + compare(results) if len(results) > 1 else "")
        print(f"Written to {path}.")


if __name__ == "__main__":
    cli.run(main)
