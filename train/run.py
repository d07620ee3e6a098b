"""Train an experiment from start to end; the same for every kind of model.

    from train.run import train
    from train.trm import TRMExperiment

    train(TRMExperiment(config))

A step is made, its metrics are read while the next one runs, and a state is saved only
after its metrics were seen to be finite, and before it is evaluated.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from configs import require
from train.experiment import AbstractExperiment, Phase
from train.feed import Prefetch
from train.programs import dispatch, enter, first_state
from train.running import Run, crossed
from train.runs.checkpoint import Checkpoints
from train.runs.experiments import name_of
from train.runs.metrics_file import scores
from train.runs.provenance import code
from train.runs.run_dir import RunDir
from train.state import TrainState
from train.timed import TimedRun
from train.watch.trackers import Tracker, require_packages

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
    run: Run, state: TrainState, hooks: Sequence[Hook]
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


@contextmanager
def open_run(experiment: AbstractExperiment, phases: Sequence[Phase]) -> Iterator[Run]:
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
            directory.require_same_as(checkpoints.settings)
            run = Run if config.run.minutes is None else TimedRun
            yield run(experiment, directory, checkpoints, stack)
