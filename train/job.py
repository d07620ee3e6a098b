"""A training run from start to end, the same for every kind of model.

A train script describes its run as a `Job`; everything else is here and below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from configs import RunConfig
from train.checkpoint import Checkpoints
from train.evaluate import EvalBatches, evaluate_splits
from train.gradients import Plan
from train.loop import Intervals, Loop
from train.mesh import describe_layout
from train.report import Report, Values
from train.state import TrainState, abstract_state, init_state
from train.step import Rules, make_eval_step, make_train_step
from train.objective import Metrics, Task


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run trains, on what, and for how long."""

    title: str
    """Preset, for the first line of the output."""

    unit: str
    """What a row of the batch is called."""

    score: Callable[[Values], float]
    """By which the best checkpoint is chosen, the higher the better."""

    mesh: Mesh
    task: Task
    rules: Rules
    plan: Plan
    eval_plan: Plan
    intervals: Intervals

    episode: bool
    """Whether a batch is worked on until all of its rows are done."""

    prefetch: int
    """Batches prepared ahead."""

    init: Callable[[], TrainState]
    """Makes the first state; traced."""

    make_batch: Callable[[int], PyTree]
    """The global input of the dispatch that begins at a step."""

    eval_batches: Callable[[bool], EvalBatches]
    """What to evaluate; the flag: the last time."""

    pretrained: Callable[[], Any] | None = None
    """Gives weights to start with instead of fresh ones."""

    rates: Callable[[float], Values] = lambda rate: {}
    """What else to report, given the examples a second of training."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    state: TrainState
    status: int
    """0 if it is complete, else the exit status of a signal."""

    eval_step: Callable[[Any, PyTree, PyTree], tuple[Metrics, PyTree]]


def run_job(
    job: Job, folder: Path, config: RunConfig, settings: dict[str, Any]
) -> Outcome:
    """Train `job` in a run directory, from its newest checkpoint if there is one.

    Raises:
        ValueError: if the directory holds checkpoints that cannot be used.
        NonFiniteError: if the loss is no longer a number.
    """
    abstract = abstract_state(job.init, job.mesh)
    checkpoints = Checkpoints(folder / "checkpoints", config)
    restored = checkpoints.restore(abstract)
    state = first_state(job, abstract) if restored is None else restored
    done = int(state.step)
    report = Report(
        folder, config, settings, total=job.intervals.total, done=done, rates=job.rates
    )
    report.say(_opening(job, folder, state, resumed=restored is not None))
    eval_step = make_eval_step(job.task, job.mesh, job.eval_plan, abstract.model)

    def evaluate(state: TrainState, last: bool) -> tuple[Values, float]:
        model, table = state.evaluated, state.table
        return evaluate_splits(eval_step, model, table, job.eval_batches(last))

    try:
        if config.eval_only:
            values, rate = evaluate(state, True)
            report.record(done, "eval", values, rate)
            status = 0
        else:
            step = make_train_step(
                job.task, job.rules, job.mesh, job.plan, abstract, episode=job.episode
            )
            state, status = Loop(
                step=step,
                make_batch=job.make_batch,
                evaluate=evaluate,
                score=job.score,
                intervals=job.intervals,
                examples=job.plan.batch_size * job.plan.passes,
                prefetch=job.prefetch,
                run=config,
                report=report,
                checkpoints=checkpoints,
            ).train(state)
    finally:
        checkpoints.close()
        report.close()
    return Outcome(state=state, status=status, eval_step=eval_step)


def first_state(job: Job, abstract: TrainState) -> TrainState:
    """The state before the first step."""
    state = init_state(job.init, job.mesh)
    if job.pretrained is None:
        return state
    model = job.pretrained()
    place = lambda x, like: jax.device_put(x, like.sharding)
    state = eqx.tree_at(
        lambda s: s.model, state, jax.tree.map(place, model, abstract.model)
    )
    if state.ema is None:
        return state
    return eqx.tree_at(lambda s: s.ema, state, jax.tree.map(jnp.copy, state.model))


def _opening(job: Job, folder: Path, state: TrainState, *, resumed: bool) -> str:
    """What is about to happen, and where every parameter lies."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.model))
    sizes = f"{job.mesh.shape['data']} x {job.mesh.shape['model']}"
    lines = [
        f"{folder}: {job.title}, {parameters:,} parameters, "
        f"{job.intervals.total:,} steps of {job.plan.batch_size} {job.unit} on a "
        f"{sizes} mesh ({jax.devices()[0].device_kind})"
    ]
    if resumed:
        lines.append(f"Going on from step {int(state.step)}.")
    else:
        lines.append(describe_layout(state.model, job.mesh))
    return "\n".join(lines)
