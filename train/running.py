"""A run under way: its files, reports and signals."""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from configs import MeshConfig, require
from data.storage import AnyPath, write_whole
from train.devices import Interrupt
from train.evaluation import Evaluation
from train.experiment import AbstractExperiment, Phase
from train.mesh import describe_layout
from train.programs import compiled_evaluation, compiled_step
from train.runs.checkpoint import Checkpoints
from train.runs.experiments import own_experiment
from train.runs.metrics_file import scores
from train.runs.run_dir import RunDir
from train.state import TrainState, abstract_state
from train.watch.log import Log
from train.watch.speed import Values
from train.watch.terminal import Terminal
from train.watch.tracing import Tracing
from train.watch.trackers import Tracker, open_trackers


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
        self._compiling = 0.0  # seconds

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
        yield from self._about_length()
        yield from parts_evaluated(experiment)

    def _about_length(self) -> Iterator[str]:
        """Return what the length of the run means for it."""
        return slow_warmup(self.experiment)

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

    def gets_new_length(self, done: int, state: TrainState) -> bool:
        """Return whether the length of the run has changed: never without a time."""
        del done, state
        return False

    def save_due(self, before: int, done: int) -> bool:
        """Return whether to save between two evaluations."""
        run = self._config.run
        return run.save == "always" and crossed(run.save_every, before, done)

    def save(self, state: TrainState) -> None:
        """Start saving a state, unless it is saved already."""
        if int(state.step) != self._checkpoints.newest:
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
        score = self.experiment.score(evaluation.values)
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
