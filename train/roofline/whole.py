"""Estimate a whole run: its steps, evaluations and compiling."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from configs import TrainGPT, TrainTRM, ceil_div
from train.roofline.dataless import amounts_of
from train.roofline.study import Facts
from train.trm import steps_of
from train.watch.terminal import clock


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Numbers of steps and evaluations of a run."""

    steps: int
    evaluations: int
    """Before the last one."""

    between: tuple[int, ...]
    """Examples of each split in an evaluation before the last one."""

    last: tuple[int, ...]
    """Examples of each split in the last evaluation."""

    def batches(self, size: int) -> int:
        """Return the batches of `size` examples of all evaluations."""
        count = lambda splits: sum(ceil_div(examples, size) for examples in splits)
        return self.evaluations * count(self.between) + count(self.last)


def plan_of(config: TrainTRM | TrainGPT) -> Plan:
    """Return the plan of a run, whose data need not exist.

    Raises:
        UserError: if the amount of data is not known.
    """
    if isinstance(config, TrainGPT):
        steps, every = config.max_iters, config.eval.interval
        splits = (config.eval.iters * config.microbatch_size,) * 2
        between = last = splits
    else:
        epoch, test = amounts_of(config)
        steps = steps_of(config, epoch * config.epochs)
        every = steps_of(config, epoch * config.eval.epochs)
        between = (min(config.eval.puzzles or test, test),)
        last = (min(config.eval.final_puzzles or test, test),)
    evaluations = (steps - 1) // every
    return Plan(steps=steps, evaluations=evaluations, between=between, last=last)


def describe_run(plan: Plan, step: Facts) -> Iterator[str]:
    """Yield the lines of a report.

    Args:
        plan: of the run.
        step: facts of its largest step, and under `evaluation` of its evaluation.
    """
    evaluation = step["evaluation"]
    yield (
        f"run       {plan.steps:,} steps, {plan.evaluations} evaluations of "
        f"{sum(plan.between):,} examples, then one of {sum(plan.last):,}"
    )
    if not evaluation["fits"]:
        yield "          the evaluation does not fit: lower `--config.eval.batch-size`"
        return
    if "seconds" not in step:
        return
    dispatches = plan.steps / step["updates"], plan.batches(evaluation["examples"])
    compiling = max(
        facts["lower_s"] + facts["compile_s"] for facts in (step, evaluation)
    )
    bounds = [facts["seconds"][facts["bound"]] for facts in (step, evaluation)]
    yield _times("at best", bounds, dispatches, compiling)
    if "estimate" in step:
        estimates = [facts["estimate"] for facts in (step, evaluation)]
        yield _times("estimate", estimates, dispatches, compiling)
    if None in evaluation["loops"]:
        yield "          of an evaluation that stops puzzles early, one step is counted"
    yield "          not in it: start-up, data, and saves, which run beside the steps"


def _times(
    name: str,
    seconds: Sequence[float],
    dispatches: Sequence[int | float],
    compiling: int | float,
) -> str:
    """Return a line with the times of steps, evaluations, compiling, and their sum."""
    steps, evaluations = (s * n for s, n in zip(seconds, dispatches, strict=True))
    return (
        f"{name:9} {clock(steps):>8} of steps, {clock(evaluations)} of evaluations, "
        f"{clock(compiling)} of compiling as here: "
        f"{clock(steps + evaluations + compiling)} in all"
    )
