"""Solve puzzles with a trained model, from Python.

run = load_run("runs/quickstart")
(solution,) = solve(run, ".53..61...255.6.3.3..6..43...26.25.3")
print(solution)
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from configs import TrainTRM, UserError, require
from data.puzzles.dataset import Metadata, Puzzle
from data.puzzles.kind import Kind
from data.puzzles.kinds import kind_of
from data.puzzles.questions import Question, table_rows
from data.puzzles.symmetry import Symmetry
from data.remote import local_dataset
from train.runs.loading import LoadedRun
from train.table import Table, make_table
from train.trm import TRMExperiment
from trm.evaluation import Effort, answer
from trm.model import TRM, cast
from trm.official.all_config import train_config
from trm.official.infer import Given
from trm.official.pretrained import build_official, read_official, step_of
from trm.show.frames import Solution, frames_of

Precision = Literal["auto", "float32", "bfloat16"]
MOST_AT_ONCE = 64
"""Puzzles that go through the model together."""


class Trace(NamedTuple):
    """The answers of a model after each step."""

    answers: Int[np.ndarray, "steps puzzles seq"]
    """The likeliest token of each cell."""

    q_halt: Float[np.ndarray, "steps puzzles"]
    """Probability that the answer is right, by the halting head."""

    halts: Bool[np.ndarray, "steps puzzles"]
    """True where the rule of training would stop."""


def run_kind(run: LoadedRun) -> Kind:
    """Return the kind of puzzle that a run was trained on.

    It is read from the dataset if that is there, else guessed by the sizes.

    Raises:
        UserError: if the run is not of a TRM.
    """
    require(
        run.kind == "trm",
        f"Puzzles need a run of `train.trm`: got one of `train.{run.kind}`. Name "
        "another with `--run-dir`.",
    )
    vocab, seq = run.sizes["vocab"], run.sizes["seq"]
    name = None
    with suppress(UserError, OSError):
        metadata = Metadata.read(local_dataset(run.config.data.paths[0]) / "train")
        if (metadata.vocab_size, metadata.seq_len) == (vocab, seq):
            name = metadata.kind
    return kind_of(name, seq, vocab)


def load_official(source: str, given: Given | None = None) -> LoadedRun:
    """Load an official checkpoint as a run; see `read_official`.

    Raises:
        UserError: if there is none, or its model is unknown.
    """
    official, path = read_official(source, given)
    if official.notes:
        warnings.warn(
            f"Not given by {source}, so assumed: {', '.join(official.notes)}. If that "
            "is wrong, import it with `python -m trm.convert`, which has options.",
            stacklevel=2,
        )
    config = train_config(official.config, official.options)
    model, rows = build_official(official, config)
    step = step_of(path.name) or 0
    return LoadedRun("trm", config, model, make_table(rows), step, official.sizes)


def solve(
    run: LoadedRun,
    puzzles: str | Integer[np.ndarray, "puzzles seq"] | Sequence[Question],
    *,
    steps: int = 0,
    attempts: int = 1,
    precision: Precision = "auto",
    kind: Kind | None = None,
) -> list[Solution]:
    """Solve puzzles step by step.

    Args:
        run: of a TRM.
        puzzles: text, as `python -m trm.solve` takes it, or tokens.
        steps: supervision steps to make; 0: the steps of training.
        attempts: at each puzzle; see `best_of`.
        precision: compute type. `auto`: float32 on a CPU, else the run's.
        kind: how puzzles are written, checked and drawn; None: see `run_kind`.

    Raises:
        UserError: if a puzzle is not of this run's kind and size, or has no symmetries
            for several attempts.
    """
    kind = kind or run_kind(run)
    seq, vocab = run.sizes["seq"], run.sizes["vocab"]
    if isinstance(puzzles, str):
        questions = kind.read(puzzles)
    elif isinstance(puzzles, np.ndarray):
        questions = [Question(f"puzzle {i}", t) for i, t in enumerate(puzzles, start=1)]
    else:
        questions = list(puzzles)
    for question in questions:
        tokens = question.tokens
        require(
            len(tokens) == seq and 0 <= int(tokens.min()) <= int(tokens.max()) < vocab,
            f"A puzzle of this run must be {seq} tokens of 0 .. {vocab - 1}: "
            f"{question.name} is {len(tokens)} of {tokens.min()} .. {tokens.max()}. "
            "Use a run of its kind and size.",
        )
    require(bool(questions), "There must be a puzzle to solve: got none. Give one.")
    tokens = np.stack([question.tokens for question in questions])
    names = [question.identifier for question in questions]
    dataset = local_dataset(run.config.data.paths[0])
    ids = table_rows(names, dataset, len(run.table.rows))
    answered = partial(think, run, ids=ids, steps=steps, precision=precision)
    if attempts == 1:
        trace = answered(tokens)
    else:
        trace = best_of(kind.views(attempts, seed=0), tokens, answered)
    return [
        Solution(kind, q, frames_of(kind, q, trace.answers[:, i], trace.q_halt[:, i]))
        for i, q in enumerate(questions)
    ]


def best_of(
    views: Symmetry,
    inputs: Integer[np.ndarray, "puzzles seq"],
    answered: Callable[[Integer[np.ndarray, "puzzles seq"]], Trace],
) -> Trace:
    """Return the surest of several attempts at each puzzle.

    An attempt sees the puzzles under a symmetry, and its answers are turned back. The
    one with the highest `q_halt` after the last step is taken.
    """
    traces = []
    for view in map(Symmetry, views.cells, views.tokens):
        trace = answered(view.apply(inputs))
        traces.append(trace._replace(answers=view.inverse().apply(trace.answers)))
    best = np.argmax([trace.q_halt[-1] for trace in traces], axis=0)
    take = lambda *arrays: np.stack(
        [arrays[attempt][:, puzzle] for puzzle, attempt in enumerate(best)], axis=1
    )
    return Trace(*map(take, *traces))


def think(
    run: LoadedRun,
    inputs: Integer[np.ndarray, "puzzles seq"],
    *,
    ids: Integer[np.ndarray, " puzzles"] | None = None,
    steps: int = 0,
    precision: Precision = "auto",
) -> Trace:
    """Return the answers after each step; see `solve`.

    Args:
        run: of a TRM.
        inputs: tokens.
        ids: rows of the puzzle table; None: the blank row.
        steps: supervision steps to make; 0: the steps of training.
        precision: compute type.
    """
    if precision == "auto":
        on_cpu = jax.default_backend() == "cpu"
        precision = "float32" if on_cpu else run.config.precision
    model = cast(run.model, jnp.dtype(precision))
    rows = np.zeros(len(inputs), int) if ids is None else ids
    steps = steps or run.config.act.max_steps
    own = experiment_of(run)
    by_step = answer_by_step(model, run.table, inputs, rows, own, steps, MOST_AT_ONCE)
    boards, q_halt, halts = (np.swapaxes(a, 0, 1) for a in jax.device_get(by_step))
    return Trace(boards, q_halt, halts)


def experiment_of(run: LoadedRun) -> TRMExperiment:
    """Return the experiment of a run, the same each time: programs are kept for it."""
    return _experiment(run.experiment or TRMExperiment, run.config, *run.sizes.items())


@cache
def _experiment(kind: Any, config: TrainTRM, *sizes: tuple[str, int]) -> TRMExperiment:
    return kind(config, sizes=dict(sizes))


@partial(jax.jit, static_argnames=("experiment", "steps", "at_once"))
def answer_by_step(
    model: TRM,
    table: Table,
    inputs: Any,
    rows: Any,
    experiment: TRMExperiment,
    steps: int,
    at_once: int,
) -> Any:
    """Return boards, probabilities and wishes to halt by puzzle and step."""
    tokens, rows = inputs.astype(jnp.int32), rows.astype(jnp.int32)
    answers = answer(
        model,
        jnp.asarray(table.rows)[rows],
        Puzzle(tokens, jnp.zeros_like(tokens), rows),
        jnp.arange(tokens.shape[0], dtype=jnp.int32),
        effort=Effort(steps=steps),
        halting=experiment.halting,
        puzzle_loss=experiment.puzzle_loss,
        rows=at_once,
        boards=True,
    )
    return answers.boards, jax.nn.sigmoid(answers.q_halt), answers.wanted
