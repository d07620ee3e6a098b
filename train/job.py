"""A training run from start to end, the same for every kind of model.

A recipe (`train/trm.py`, `train/gpt.py`) describes its run as a `Job`; everything else
is here and below.
"""

import json
import shlex
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import PyTree

from configs import Piecewise, TrainGPT, TrainTRM, require
from data.storage import AnyPath, append_text, open_path, store_errors
from train.evaluation import Evaluation, evaluate
from train.feed import Split
from train.loop import Intervals, Loop
from train.mesh import BATCH, describe_layout
from train.models import Sizes
from train.objective import Objective
from train.phases import Phase, carried_into
from train.runs.checkpoint import Checkpoints
from train.runs.metrics_file import scores
from train.runs.provenance import code
from train.runs.run_dir import RunDir, make_folder, require_same_model
from train.state import TrainState, abstract_state, init_state
from train.step import EvalStep, TrainStep, make_eval_step, make_train_step
from train.table import make_table
from train.watch.compiling import Watched
from train.watch.report import Report, arranged, require_packages
from train.watch.screen import Screen
from train.watch.speed import Values


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """What is evaluated, and what is made of it."""

    batch_size: int
    """Rows evaluated at once, over all devices."""

    splits: Callable[[Literal["between", "last", "only"]], list[Split]]
    """What to evaluate on the way, at the end, or without training."""

    score: Callable[[Values], float]
    """Score; higher is better."""

    summary: Callable[[Evaluation], str]
    """An evaluation in print."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run trains and how: all that its data decide by their sizes alone."""

    objective: Objective
    """What is evaluated."""

    phases: Piecewise[Phase]
    """How each step is made."""

    init: Callable[[], TrainState]
    """Makes the first state; traced."""

    batch: PyTree
    """Shapes of a batch."""

    episode: bool = False
    """Whether a batch is worked on until all of its rows are done."""


@dataclass(frozen=True, kw_only=True)
class Job(Recipe):
    """A run: what it trains, on what, and for how long."""

    kind: Literal["trm", "gpt"]
    """The recipe that builds the model again from `config.json`."""

    title: str
    """Preset, for the first line of the output."""

    unit: str
    """What a row of the batch is called."""

    sizes: Sizes
    """Sizes of the model that come from the data."""

    data_hash: str
    """Content hash of the data."""

    mesh: Mesh
    intervals: Intervals
    evaluator: Evaluator

    make_batch: Callable[[int], PyTree]
    """The global input of the dispatch that begins at a step."""

    pretrained: Callable[[], tuple[Any, PyTree]] | None = None
    """Gives a model and the rows of a table to start with instead of fresh ones."""

    hint: str = ""
    """What to do with a complete run, given its `folder`."""


def run_job(job: Job, config: TrainTRM | TrainGPT) -> int:
    """Train `job` in its run directory, from its newest checkpoint if there is one.

    Returns:
        The exit status: 0 if the run is complete, else that of a signal.

    Raises:
        UserError: if the directory cannot be used, or holds another run.
        RunError: if the run cannot go on.
    """
    require_packages(config.run)
    abstracts = abstract_states(job)
    abstract = abstracts.at(0)
    eval_config = replace(
        job.phases.at(0).step_config,
        batch_size=job.evaluator.batch_size,
        accumulation=1,
        supervision_steps=1,
    )
    eval_step = make_eval_step(job.objective, job.mesh, eval_config, abstract.model)
    if config.run.eval_only:
        return evaluate_run(job, config, abstract, eval_step)
    record = {
        **{"kind": job.kind, "preset": job.title, "code": code()},
        **{"sizes": job.sizes, "data_hash": job.data_hash},
    }
    with (
        closing(RunDir(config, job.title, record)) as run_dir,
        closing(open_checkpoints(run_dir, config)) as checkpoints,
    ):
        restored = checkpoints.restore(abstracts.at)
        state = first_state(job, abstract) if restored is None else restored
        done, total = int(state.step), job.intervals.total
        require(
            done <= total,
            f"A run cannot be shorter than it is: `{run_dir.folder}` has made {done} "
            f"steps, and the configuration asks for {total}. Ask for more.",
        )
        run_dir.write_config()
        with closing(open_report(job, config, run_dir, done)) as report:
            report.say(_opening(job, run_dir.folder, state, restored is not None))
            if run_dir.new_length:
                report.say(
                    f"The run has another length ({run_dir.new_length}): from here its "
                    "learning rate follows the schedule of the new one."
                )
            loop = Loop(
                phases=job.phases,
                make_step=partial(step_of, job, abstract),
                enter=partial(enter, job),
                make_batch=job.make_batch,
                evaluate=partial(
                    evaluation_of,
                    job,
                    config,
                    Watched(eval_step, "the evaluation", report.screen),
                ),
                score=job.evaluator.score,
                intervals=job.intervals,
                prefetch=config.data.prefetch,
                run=config.run,
                report=report,
                checkpoints=checkpoints,
            )
            evaluation, status = loop.train(state)
            if status != 0:
                where = shlex.quote(str(run_dir.folder))
                report.say(
                    f"Go on with: python -m train.{job.kind} --config.run-dir {where}"
                )
            if status == 0 and evaluation is None:
                report.say("The run is complete: it is evaluated again.")
                evaluation = loop.evaluate(state, True, lambda: False)
            if evaluation is not None:
                report.say(f"\nAfter {total} steps ({run_dir.folder}):")
                report.say(job.evaluator.summary(evaluation))
                if job.hint:
                    report.say("\n" + job.hint.format(folder=run_dir.folder))
            return status


def open_checkpoints(run_dir: RunDir, config: TrainTRM | TrainGPT) -> Checkpoints:
    """The checkpoints of a run that is to go on.

    Raises:
        UserError: if they cannot be used, or are of another configuration.
    """
    checkpoints = Checkpoints(
        run_dir.folder / "checkpoints",
        config.run,
        settings=run_dir.settings,
        scores=scores(run_dir.folder),
    )
    run_dir.require_same_as(checkpoints.settings)
    return checkpoints


def open_report(
    job: Job, config: TrainTRM | TrainGPT, run_dir: RunDir, done: int
) -> Report:
    """The reports of a run that has made `done` steps."""
    return Report(
        run_dir.folder,
        config.run,
        run_dir.settings,
        name=run_dir.recorded["id"],
        total=job.intervals.total,
        done=done,
    )


def abstract_states(job: Job) -> Piecewise[TrainState]:
    """Shapes, types and shardings of the state before each step.

    Where the batch changes, the state after the last step is already of the next.
    """
    first = abstract_state(job.init, job.mesh)

    def abstract(phase: Phase) -> TrainState:
        if not jax.tree.leaves(first.carry):
            return first
        carry = jax.eval_shape(partial(carried_into, phase), first.model, first.carry)
        place = lambda new, old: jax.ShapeDtypeStruct(
            new.shape, new.dtype, sharding=old.sharding
        )
        carry = jax.tree.map(place, carry, first.carry)
        return eqx.tree_at(lambda state: state.carry, first, carry)

    return job.phases.map(abstract)


def enter(job: Job, phase: Phase, state: TrainState) -> TrainState:
    """The state as the first step of a phase takes it."""
    size = phase.step_config.batch_size
    if all(len(leaf) == size for leaf in jax.tree.leaves(state.carry)):
        return state
    rows = NamedSharding(job.mesh, BATCH)
    resize = jax.jit(partial(carried_into, phase), out_shardings=rows)
    carry = resize(state.model, state.carry)
    return eqx.tree_at(lambda state: state.carry, state, carry)


def step_of(job: Job, abstract: TrainState, phase: Phase) -> TrainStep:
    """The compiled step of a phase."""
    return make_train_step(
        phase.objective,
        phase.optimizer,
        job.mesh,
        phase.step_config,
        abstract,
        episode=job.episode,
    )


def evaluation_of(
    job: Job,
    config: TrainTRM | TrainGPT,
    step: Watched,
    state: TrainState,
    last: bool,
    stop: Callable[[], bool],
) -> Evaluation | None:
    """An evaluation of a state: on the way, or the last; None if it was stopped."""
    splits = job.evaluator.splits("last" if last else "between")
    model, table = state.evaluated, state.table
    depth = config.data.prefetch
    return evaluate(step, model, table, splits, prefetch=depth, stop=stop)


def evaluate_run(
    job: Job,
    config: TrainTRM | TrainGPT,
    abstract: TrainState,
    step: EvalStep,
) -> int:
    """Evaluate the newest checkpoint of a run, or first weights, on all there is.

    Nothing of the run changes, which may be going on: what comes out is printed, and
    added to `evaluations.jsonl` beside it.

    Returns:
        The exit status.

    Raises:
        UserError: if there is nothing to evaluate, or it is of another configuration.
    """
    folder = open_path(config.run_dir) if config.run_dir else None
    found = None if folder is None else read_weights(folder, config, abstract)
    if found is None:
        require(
            job.pretrained is not None or folder is None,
            f"An evaluation needs a checkpoint: there is none in `{folder}`. Name the "
            "directory of a run with `--config.run-dir`, or weights with "
            "`--config.init-from`; without either, fresh ones are evaluated.",
        )
        state = first_state(job, abstract)
        found = state.evaluated, state.table, 0
    model, table, done = found
    if folder is not None:
        make_folder(folder)
    splits = job.evaluator.splits("only")
    prefetch = config.data.prefetch
    with closing(Screen()) as screen:
        watched = Watched(step, "the evaluation", screen)
        evaluation = evaluate(watched, model, table, splits, prefetch=prefetch)
    assert evaluation is not None
    if jax.process_index() != 0:
        return 0
    print(f"\nAfter {done} steps ({folder or job.title}):")
    print(job.evaluator.summary(evaluation))
    if folder is not None:
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        row = {
            "step": done,
            "split": "eval-only",
            "time": now,
            "weights": config.init_from if done == 0 else f"checkpoint of step {done}",
            "examples": evaluation.examples,
            **arranged(evaluation.values, {"examples_per_second": evaluation.rate}),
        }
        append_text(folder / "evaluations.jsonl", json.dumps(row) + "\n")
    return 0


def read_weights(
    folder: AnyPath, config: TrainTRM | TrainGPT, abstract: TrainState
) -> tuple[Any, PyTree, int] | None:
    """The weights to evaluate of the newest checkpoint, the table and the step.

    Raises:
        UserError: if the run is of another model, or no checkpoint can be read.
    """
    with store_errors():
        if not (folder / "checkpoints").is_dir():
            return None
    require_same_model(folder, config)
    checkpoints = Checkpoints(folder / "checkpoints", config.run, read_only=True)
    try:
        return checkpoints.restore_weights(abstract.model, abstract.table, best=False)
    finally:
        checkpoints.close()


def first_state(job: Job, abstract: TrainState) -> TrainState:
    """The state before the first step."""
    state = init_state(job.init, job.mesh)
    if job.pretrained is None:
        return state
    like = (abstract.model, abstract.table)
    model, rows = job.pretrained()
    first = (model, make_table(rows, job.mesh.size))
    model, table = jax.tree.map(placed, first, like)
    state = TrainState(**{**vars(state), "model": model, "table": table})
    if state.ema is None:
        return state
    return eqx.tree_at(lambda s: s.ema, state, jax.tree.map(jnp.copy, state.model))


def placed(leaf: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
    """An array that every process has, as one over the devices of all."""
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, like.sharding, whole.__getitem__)


def _opening(job: Job, folder: AnyPath, state: TrainState, resumed: bool) -> str:
    """What is about to happen; where every parameter lies goes to a file."""
    batches = dict.fromkeys(p.step_config.batch_size for p in job.phases.values)
    sizes = f"{job.mesh.shape['data']} x {job.mesh.shape['model']}"
    lines = [
        f"{folder}: {job.title}, {job.intervals.total:,} steps of "
        f"{', then '.join(map(str, batches))} {job.unit} "
        f"on a {sizes} mesh ({jax.devices()[0].device_kind})"
    ]
    table, total = describe_layout(state.model, job.mesh)
    if jax.process_index() == 0:
        (folder / "parameters.txt").write_text(f"{table}\n{total}\n")
    lines.append(f"{total}: {folder}/parameters.txt")
    if resumed:
        lines.append(f"Going on from step {int(state.step)}.")
    return "\n".join(lines)
