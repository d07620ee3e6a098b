"""Train an experiment from start to end; the same for every kind of model.

    from train.run import train
    from train.trm import TRMExperiment

    train(TRMExperiment(config))

A step is made, its metrics are read while the next one runs, and a state is saved only
after its metrics were seen to be finite, and before it is evaluated.
"""

import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from configs import MeshConfig, ceil_div, require
from data.storage import AnyPath, write_whole
from train.budget import (
    EACH,
    FIRST,
    Budget,
    Speed,
    new_length,
    of_first_process,
)
from train.devices import Interrupt
from train.evaluation import Evaluation
from train.experiment import AbstractExperiment, Phase
from train.feed import Prefetch
from train.mesh import describe_layout
from train.programs import (
    compiled_evaluation,
    compiled_step,
    dispatch,
    enter,
    first_state,
)
from train.runs.checkpoint import Checkpoints
from train.runs.experiments import name_of, own_experiment
from train.runs.metrics_file import scores
from train.runs.provenance import code
from train.runs.run_dir import RunDir
from train.state import TrainState, abstract_state
from train.watch.log import Log
from train.watch.speed import Values
from train.watch.terminal import Terminal
from train.watch.tracing import Tracing
from train.watch.trackers import Tracker, open_trackers, require_packages

Hook = tuple[int, Callable[[int, TrainState], object]]
"""`every, function(step, state)`: called after the first step at or past each multiple
of `every`. The next step deletes the state's arrays: copy what is kept."""


def train(
    experiment: AbstractExperiment,
    hooks: Sequence[Hook] = (),
    trackers: Sequence[Tracker] = (),
) -> int:
    """Train in the run's directory, from its newest checkpoint if there is one.

    Args:
        experiment: to train.
        hooks: called between steps.
        trackers: log the run's numbers, besides the configured ones; closed at the end.

    Returns:
        The exit status: 0 if the run is complete, else 128 plus the signal's number.

    Raises:
        UserError: if the directory cannot be used, or holds another run.
        RunError: if the run has to stop.
    """
    config = experiment.config
    require(
        not config.seeds and not config.run.eval_only,
        "`train` makes one run and trains it: got "
        f"seeds={config.seeds}, eval_only={config.run.eval_only}. Use "
        "`train.seeds.run(TRMExperiment, title, config)`.",
    )
    require_packages(config.run)
    experiment.check()
    phases = experiment.phases()
    with open_run(experiment, phases) as run:
        phases = run.experiment.phases()
        state = run.restore(phases) or first_state(experiment)
        run.begin(state, trackers)
        status = None
        while status is None:
            state, status = make_steps(run, state, hooks)
        return status


def make_steps(
    run: "Run", state: TrainState, hooks: Sequence[Hook]
) -> tuple[TrainState, int | None]:
    """Make the steps that are left; return the state and the exit status.

    The status is None if the run has got another length (`run.minutes`).
    """
    phases, call = run.experiment.phases(), run.experiment.config.steps_per_call
    done, prefetch = int(state.step), run.experiment.config.data.prefetch
    programs = run.compile(phases, state)
    evaluation = run.missed_evaluation(state)
    for phase, after in zip(phases, [*phases[1:], None], strict=True):
        steps = range(max(done, phase.first), phase.end, call)
        make = partial(dispatch, phase.experiment)
        with Prefetch(make, steps, prefetch) as batches:
            for first in steps:
                batch = batches.get()
                with run.traced(first + 1, first + call):
                    state, metrics = programs[phase](state, batch)
                before, done = done, first + call
                if done == phase.end and after is not None:
                    state = enter(after.experiment, state)
                run.note(done, metrics, phase, batches.waited)
                for every, hook in hooks:
                    if crossed(every, before, done):
                        hook(done, state)
                stop = run.stop_wanted()
                if run.evaluation_due(done) and not stop:
                    evaluation = run.save_and_evaluate(state)
                    stop = evaluation is None
                elif stop or run.save_due(before, done):
                    run.save(state)
                if stop:
                    return state, run.stopped(state)
                if run.gets_new_length(done, state):
                    return state, None
    return state, run.finished(state, evaluation)


def resume_command(kind: str, folder: AnyPath, mesh: MeshConfig) -> str:
    """Return a line with the command that resumes a run on these processes."""
    command = f"python -m train.{kind} --config.run-dir {shlex.quote(str(folder))}"
    if not mesh.distributed:
        return f"Resume with: {command}"
    command += " --config.mesh.distributed"
    if mesh.processes is not None:
        command += (
            f" --config.mesh.coordinator {mesh.coordinator}"
            f" --config.mesh.processes {mesh.processes} --config.mesh.process NUMBER"
        )
    return f"Resume with, in every process: {command}"


def crossed(every: int, before: int, after: int) -> bool:
    """Return whether `(before, after]` has a multiple of `every`."""
    return after // every > before // every


def slow_warmup(experiment: AbstractExperiment) -> Iterator[str]:
    """Return a warning if the learning rate still rises after half of the run."""
    rate, half = experiment.optimizer.schedule, experiment.total // 2
    before, after = (float(rate(jnp.int32(step))) for step in (half, half + 1))
    if before < after and not experiment.episode:
        yield (
            f"warning: After half of the {experiment.total:,} steps the learning rate "
            f"still rises: it is {before:.2g}. Use a smaller `--config.optim.warmup`."
        )


def parts_evaluated(experiment: AbstractExperiment) -> Iterator[str]:
    """Return a line for each evaluation that does not use a whole split."""
    between, last = map(experiment.eval_splits, ("between", "last"))
    for name, splits in (("Earlier evaluations", between), ("Last evaluation", last)):
        for split in splits:
            if split.whole is not None and split.examples < split.whole:
                yield (
                    f"{name}: only the first {split.examples:,} of {split.whole:,} "
                    f"{experiment.unit}."
                )


# -- a run under way -------------------------------------------------------------------


@contextmanager
def open_run(
    experiment: AbstractExperiment, phases: Sequence[Phase]
) -> Iterator["Run"]:
    """Open the directory of a run, locked, with its checkpoints.

    Raises:
        UserError: if it cannot be used, or holds another run.
    """
    record = {
        "kind": experiment.kind,
        "experiment": name_of(type(experiment)),
        "preset": experiment.title,
        "code": code(),
        "sizes": experiment.sizes,
        "data_hash": experiment.data_hash,
        "slices": [phase.experiment.step_config.accumulation for phase in phases],
    }
    config = experiment.config
    with closing(RunDir(config, experiment.title, record)) as directory:
        checkpoints = Checkpoints(
            directory.folder / "checkpoints",
            config.run,
            settings=directory.settings,
            scores=scores(directory.folder),
        )
        with closing(checkpoints), ExitStack() as stack:
            earlier = checkpoints.settings
            directory.require_same_as(earlier)
            run = Run(experiment, directory, checkpoints, stack)
            run.set_time(earlier)
            yield run


class Run:
    """The files, reports and signals of a run under way."""

    def __init__(
        self,
        experiment: AbstractExperiment,
        directory: RunDir,
        checkpoints: Checkpoints,
        stack: ExitStack,
    ):
        self.experiment, self._config = experiment, experiment.config
        self._directory, self._checkpoints = directory, checkpoints
        self._stack = stack
        self._programs: dict[Any, Any] = {}
        self._evaluate: Callable[..., Evaluation | None] | None = None
        self._budget: Budget | None = None
        self._check, self._compiling = 0, 0.0
        self._saving: float | None = None  # seconds of a save
        self._rate: float | None = None  # examples a second of an evaluation

    @property
    def _total(self) -> int:
        """Steps of the run."""
        return self.experiment.total

    def restore(self, phases: Sequence[Phase]) -> TrainState | None:
        """Return the newest readable state; None if there is no checkpoint."""

        def abstract(step: int) -> TrainState:
            phase = [phase for phase in phases if phase.first <= step][-1]
            return abstract_state(phase.experiment.init, self.experiment.mesh)

        return self._checkpoints.restore(abstract)

    def begin(self, state: TrainState, trackers: Sequence[Tracker]) -> int:
        """Write `config.json`, open the log, and return the steps made so far."""
        done, total, folder = int(state.step), self._total, self._directory.folder
        require(
            done <= total,
            f"A run cannot get shorter than it is: `{folder}` has made {done} steps, "
            f"and {total} are configured. Use more `epochs` or `max_iters`.",
        )
        self._directory.record_changes(done)
        self._directory.write_config()
        configured = open_trackers(
            folder,
            self._config.run,
            self._directory.settings,
            name=self._directory.recorded["id"],
            done=done,
        )
        newest = lambda: self._checkpoints.newest
        log = Log([*configured, *trackers], Terminal(total), newest, done)
        self._log = self._stack.enter_context(closing(log))
        self._interrupt = self._stack.enter_context(closing(Interrupt()))
        steps, made = self._config.run.profiled, range(done + 1, total + 1)
        self._tracing = Tracing(steps, folder / "profile", made)
        self._stack.callback(self._tracing.stop)
        for line in self._opening(state):
            log.say(line)
        return done

    def _opening(self, state: TrainState) -> Iterator[str]:
        """Return what is about to happen; the layout of parameters goes to a file."""
        experiment, folder = self.experiment, self._directory.folder
        sizes = " x ".join(str(n) for n in experiment.mesh.shape.values())
        batches = ", then ".join(map(str, dict.fromkeys(self._config.batches.values)))
        yield (
            f"{folder}: {experiment.title}, {self._total:,} steps of {batches} "
            f"{experiment.unit} on a {sizes} mesh ({jax.devices()[0].device_kind})"
        )
        table, total = describe_layout(state.model, experiment.mesh)
        if jax.process_index() == 0:
            write_whole(folder / "parameters.txt", f"{table}\n{total}\n")
        yield f"{total}: {folder}/parameters.txt"
        if self._checkpoints.newest is not None:
            yield f"Resuming from step {int(state.step)}."
        if self._directory.changes:
            yield f"Changed from here on: {'; '.join(self._directory.changes)}."
        if self._budget is None:
            yield from slow_warmup(experiment)
        else:
            used, minutes = self._budget.used / 60, self._config.run.minutes
            yield f"{used:.1f} of {minutes:g} minutes are used; the length will change."
        yield from parts_evaluated(experiment)

    def compile(self, phases: Sequence[Phase], state: TrainState) -> dict[Phase, Any]:
        """Compile the evaluation, and beside it the steps of the phases that are left.

        Phases of the same configuration share a program.
        """
        terminal, weights = self._log.terminal, (state.evaluated, state.table)
        left = [phase for phase in phases if phase.end > int(state.step)]
        steps, evaluation = self._programs, None
        with self._log.pause("compile"), ThreadPoolExecutor(1) as thread:
            if self._evaluate is None:
                whole = self.experiment, *weights, terminal
                evaluation = thread.submit(compiled_evaluation, *whole)
            begin = time.monotonic()
            for phase in left:
                config = phase.experiment.config
                if config not in steps:
                    steps[config] = compiled_step(phase, state, terminal)
            self._compiling = max(self._compiling, time.monotonic() - begin)
            if evaluation is not None:
                self._evaluate = evaluation.result()
        return {phase: steps[phase.experiment.config] for phase in left}

    # -- between two steps -------------------------------------------------------------

    @contextmanager
    def traced(self, first: int, last: int) -> Iterator[None]:
        """Start the profiler where it is due, and give the dispatch its number."""
        if self._tracing.starts(first, last):
            with self._log.pause("profile"):
                self._tracing.start()
        with self._tracing.step(last):
            yield

    def note(self, done: int, metrics: Any, phase: Phase, waited: float) -> None:
        """Take in the dispatch that ended at `done`; report the line before.

        Raises:
            NonFiniteError: if a number of the line before is not finite.
            SaveError: if the save under way has failed.
        """
        self._interrupt.listen()
        step, call = phase.experiment.step_config, self._config.steps_per_call
        ends = crossed(self._config.run.log_every, done - call, done)
        rates = lambda rate: phase.experiment.rates(rate) | phase.values
        self._log.note(
            done,
            metrics,
            examples=call * step.batch_size * step.supervision_steps,
            waited=waited,
            rates=rates if ends or done == phase.end else None,
        )
        if self._tracing.stops(done):
            with self._log.pause("profile"):
                self._tracing.stop()
        self._checkpoints.check()

    def stop_wanted(self) -> bool:
        """Return whether a signal asked any process to stop. Collective."""
        return self._interrupt.wanted()

    def evaluation_due(self, done: int) -> bool:
        """Return whether to evaluate after the dispatch that ended at `done`."""
        before = max(done - self._config.steps_per_call, 0)
        return done == self._total or crossed(self.experiment.eval_every, before, done)

    def save_due(self, before: int, done: int) -> bool:
        """Return whether to save between two evaluations."""
        run = self._config.run
        return run.save == "always" and crossed(run.save_every, before, done)

    def save(self, state: TrainState) -> None:
        """Start saving a state, unless it is saved already."""
        if int(state.step) != self._checkpoints.newest:
            if self._budget is not None:
                self._directory.recorded["seconds"] = round(self._budget.used, 1)
            with self._log.pause("save"):
                self._checkpoints.save(state)

    def save_and_evaluate(self, state: TrainState) -> Evaluation | None:
        """Return the evaluation of a state, recorded; None if it was interrupted.

        The state is saved first, unless only the best are and it is not the last.
        """
        if self._config.run.save == "always" or int(state.step) == self._total:
            self.save(state)
        best = self._checkpoints.best
        evaluation = self._recorded(state, self._interrupt.wanted)
        if evaluation is None or self.experiment.score(evaluation.values) >= best:
            self.save(state)
        return evaluation

    # -- a time budget -----------------------------------------------------------------

    def set_time(self, earlier: Mapping[str, Any]) -> None:
        """Start the clock of `run.minutes`; a resumed run keeps its length at first.

        Args:
            earlier: the content of `config.json` that the newest checkpoint has.
        """
        minutes, record = self._config.run.minutes, earlier.get("recorded", {})
        if minutes is None:
            return
        self._budget = Budget(60 * minutes, record.get("seconds", 0.0))
        call = self._config.steps_per_call
        total = max(self._total, 10 * call)  # enough to measure the speed
        if "steps" in record:
            longer = max(minutes / (earlier["run"]["minutes"] or minutes), 1.0)
            total = ceil_div(math.ceil(record["steps"] * longer), call) * call
        self._set_length(total)

    def _set_length(self, total: int) -> None:
        """Give the run another length."""
        self.experiment = self.experiment.of_length(total)
        self._directory.recorded["steps"] = total

    def gets_new_length(self, done: int, state: TrainState) -> bool:
        """Change the length if the run would not end in time; return if it changed.

        Collective.

        Raises:
            UserError: if the time is too short for the last evaluation.
        """
        budget = self._budget
        if budget is None or not self._check <= done < self._total:
            return False
        jax.block_until_ready(state.step)
        call, every = self._config.steps_per_call, self.experiment.eval_every
        step = budget.step_seconds(done, self._log.paused)
        if math.isnan(step):  # the first steps are slower
            self._check = done + 4 * call
            return False
        wait = budget.left() - (1 - FIRST) * budget.seconds
        if wait > 0 and done + call < self._total:
            self._check = min(done + max(int(wait / step), call), self._total - call)
            return False
        if self._saving is None:
            self._saving = self._time_save(state)
        if self._rate is None and not self._recorded(state, self._interrupt.wanted):
            return False  # a signal
        left = budget.left()
        self._check = done + max(int(EACH * left / step), call)
        speed = Speed(
            left=left,
            step=step,
            evaluation=self._evaluation_seconds("between"),
            last=self._evaluation_seconds("last"),
            compiling=of_first_process(self._compiling),
        )
        minutes = budget.seconds / 60
        require(
            speed.last < budget.seconds / 2,
            f"The last evaluation may take at most half of `minutes`: it takes about "
            f"{speed.last / 60:.1f} of {minutes:g}. Evaluate less: "
            "`--config.eval.final-puzzles`, for a GPT `--config.eval.iters`.",
        )
        length = {"done": done, "total": self._total, "call": call, "every": every}
        total, follow = new_length(speed, budget.seconds, **length)
        if total == self._total:
            return False
        if follow:
            self._programs.clear()
        self._set_length(total)
        self._directory.write_config()
        self._log.terminal.total = total
        self._log.say(f"{left / 60:.1f} minutes are left: the run has {total:,} steps.")
        for line in slow_warmup(self.experiment):
            self._log.say(line)
        return True

    def _time_save(self, state: TrainState) -> float:
        """Save and return the seconds."""
        begin = time.monotonic()
        self.save(state)
        self._checkpoints.wait()
        return time.monotonic() - begin

    def _evaluation_seconds(self, when: Literal["between", "last"]) -> float:
        """Return the seconds of an evaluation and its save, by the last measurement."""
        assert self._saving is not None
        assert self._rate is not None
        examples = sum(split.examples for split in self.experiment.eval_splits(when))
        return of_first_process(self._saving + examples / self._rate)

    # -- evaluations -------------------------------------------------------------------

    def missed_evaluation(self, state: TrainState) -> Evaluation | None:
        """Return the evaluation that is due if a run was killed just before it."""
        done = int(state.step)
        recorded = scores(self._directory.folder)
        if done == 0 or not self.evaluation_due(done) or done in recorded:
            return None
        return self._recorded(state, lambda: False)

    def evaluate(
        self, state: TrainState, stop: Callable[[], bool] = lambda: False
    ) -> Evaluation | None:
        """Return the evaluation of a state; None if it was interrupted."""
        last = int(state.step) == self._total
        splits = self.experiment.eval_splits("last" if last else "between")
        assert self._evaluate is not None
        return self._evaluate(state.evaluated, state.table, splits, stop=stop)

    def _recorded(
        self, state: TrainState, stop: Callable[[], bool]
    ) -> Evaluation | None:
        """Return the evaluation, recorded; None if it was interrupted."""
        done = int(state.step)
        with self._log.pause("evaluate"):
            evaluation = self.evaluate(state, stop)
        if evaluation is None:
            return None
        self._rate, score = evaluation.rate, self.experiment.score(evaluation.values)
        speed: Values = {"examples_per_second": evaluation.rate}
        self._log.record(done, "eval", evaluation.values | {"score": score}, speed)
        self._checkpoints.score(done, score)
        return evaluation

    # -- the end -----------------------------------------------------------------------

    def stopped(self, state: TrainState) -> int:
        """Save, and return the exit status of the signal."""
        self.save(state)
        self._checkpoints.wait()
        self._log.say(f"Stopped at step {int(state.step)}, which is saved.")
        kind, folder = self.experiment.kind, self._directory.folder
        line = resume_command(kind, folder, self._config.mesh)
        if own_experiment(self._directory.recorded):
            line = "Resume with the same command."
        self._log.say(line)
        return self._interrupt.status

    def finished(self, state: TrainState, evaluation: Evaluation | None) -> int:
        """Print the last evaluation, made now if there is none; return 0."""
        self._checkpoints.wait()
        folder, say = self._directory.folder, self._log.say
        if evaluation is None:
            say("The run is complete: it is evaluated again.")
            evaluation = self.evaluate(state)
        assert evaluation is not None
        say(f"\nAfter {self._total} steps ({folder}):")
        say(self.experiment.summary(evaluation))
        if advice := self.experiment.advice(folder):
            say("\n" + advice)
        return 0
