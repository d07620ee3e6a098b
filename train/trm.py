"""Train a Tiny Recursive Model: `python -m train.trm [PRESET] [--config.FIELD VALUE]`.

Examples:
    python -m train.trm quickstart
    python -m train.trm --config.batch-size 6144
    python -m train.trm sudoku-attention --config.seed 3
"""

if not __package__:
    raise SystemExit("Run it as a module, from the project's root: python -m train.trm")

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from configs import TRM_PRESETS, TrainTRM, require
from data.puzzles.render import render_solution
from data.puzzles.dataset import Metadata, Puzzle, PuzzleDataset
from train.cli import run
from train.devices import attention_kernel, start
from train.evaluate import EvalBatches
from train.feed import prepare_missing, stacked_batches
from train.gradients import Plan
from train.job import Job, Outcome, run_job
from train.loop import Intervals
from train.mesh import global_batch, make_mesh, process_rows
from train.optim import make_optimizer, warmup_cosine
from train.report import last_evaluation
from train.run_dir import open_run_dir, settings
from train.state import make_init
from train.step import Rules, TableRules
from trm.build import build_trm
from trm.model import TRM
from trm.objective import TRMTask


def make_rules(config: TrainTRM, total: int) -> Rules:
    """The update rules of a run of `total` steps."""
    optim, table = config.optim, config.table
    updates = total * (config.act.max_steps if config.loop == "episode" else 1)
    follow = lambda peak: warmup_cosine(peak, optim.warmup, updates, optim.min_ratio)
    return Rules(
        optimizer=make_optimizer(optim, follow(optim.lr)),
        schedule=follow(optim.lr),
        ema=optim.ema,
        table=TableRules(schedule=follow(table.lr), weight_decay=table.weight_decay),
    )


def evaluation_batch(config: TrainTRM) -> int:
    """Puzzles evaluated at once."""
    return config.eval.batch_size or config.batch_size


def _require_same_shapes(train: Metadata, test: Metadata) -> None:
    """Raise `ValueError` unless the test split fits a model of the train split."""
    for name in ("vocab_size", "seq_len", "num_puzzle_identifiers"):
        ours, theirs = getattr(train, name), getattr(test, name)
        require(
            ours == theirs,
            f"`{name}` of the test split must be that of the train split: got "
            f"{theirs} and {ours}. Build both splits together.",
        )


class PuzzleFeed:
    """The puzzles of a run as global batches."""

    def __init__(self, config: TrainTRM, mesh: Mesh):
        paths, eval_batch = config.data.paths, evaluation_batch(config)
        train_rows = process_rows(mesh, config.batch_size)
        eval_rows = process_rows(mesh, eval_batch)
        prepare_missing(paths[0], config.data.build)
        self.config = config
        self.train = PuzzleDataset(
            paths,
            "train",
            batch_size=config.batch_size,
            seed=config.seed,
            epochs_per_block=config.data.block,
            rows=train_rows,
        )
        self.test = PuzzleDataset(paths, "test", batch_size=eval_batch, rows=eval_rows)
        _require_same_shapes(self.train.metadata, self.test.metadata)
        self.total = self.steps(config.epochs)
        leading = 0 if config.loop == "episode" else 2
        self._place = global_batch(mesh, config.batch_size, leading)
        self._place_test = global_batch(mesh, eval_batch, 0)

    def steps(self, epochs: float) -> int:
        """Steps that make up so many epochs, whole dispatches of them."""
        batches = self.train.steps(epochs)
        per_call = self.config.steps_per_call
        steps = max(batches // self.config.supervision_steps, 1)
        return -(-steps // per_call) * per_call

    def batch(self, first: int) -> Puzzle:
        """The input of the dispatch that begins at step `first`."""
        if self.config.loop == "episode":
            return self._place(self.train.batch(first))
        calls, passes = self.config.steps_per_call, self.config.supervision_steps
        puzzles = stacked_batches(self.train.batch, first * passes, calls, passes)
        return self._place(puzzles)

    def eval_batches(self, last: bool) -> EvalBatches:
        """The test puzzles of an evaluation."""
        config = self.config.eval
        limit = config.final_puzzles if last else config.puzzles
        limit = min(limit or self.test.num_examples, self.test.num_examples)
        batches = range(self.test.num_test_batches(limit))
        place = lambda index: self._place_test(self.test.test_batch(index, limit))
        return {"": (map(place, batches), limit)}


def make_job(preset: str, config: TrainTRM) -> Job:
    """The run that a configuration describes.

    Raises:
        ValueError: if mesh, batch and data do not go together.
    """
    mesh = make_mesh(config.mesh)
    local = config.batch_size // mesh.size
    process_rows(mesh, config.batch_size)
    require(
        local % config.accumulation == 0,
        f"`accumulation` must divide the {local} puzzles of a device: got "
        f"{config.accumulation}. Use fewer slices or a larger batch.",
    )
    feed = PuzzleFeed(config, mesh)
    metadata = feed.train.metadata
    kernel = attention_kernel(config.model.attention, config.precision)
    rules = make_rules(config, feed.total)
    early = config.eval.mode == "halt"
    task = TRMTask(config.act, metadata.seq_len, early_halt=early)
    plan = Plan(
        batch_size=config.batch_size,
        precision=config.precision,
        seed=config.seed,
        accumulation=config.accumulation,
        passes=config.supervision_steps,
    )

    def build() -> tuple[TRM, Array]:
        model = build_trm(
            config.model,
            vocab=metadata.vocab_size,
            seq=metadata.seq_len,
            kernel=kernel,
            key=jax.random.key(config.seed),
        )
        width = config.model.puzzle_dim
        return model, jnp.zeros((metadata.num_puzzle_identifiers, width))

    return Job(
        title=preset,
        unit="puzzles",
        score=lambda values: values["exact_accuracy"] or 0.0,
        mesh=mesh,
        task=task,
        rules=rules,
        plan=plan,
        eval_plan=replace(
            plan, batch_size=evaluation_batch(config), accumulation=1, passes=1
        ),
        intervals=Intervals(
            total=feed.total,
            per_call=config.steps_per_call,
            eval_every=feed.steps(config.eval.epochs),
        ),
        episode=config.loop == "episode",
        prefetch=config.data.prefetch,
        init=make_init(
            build,
            lambda model: task.init_carry(plan.cast(model), config.batch_size),
            rules.optimizer,
            ema=config.optim.ema > 0,
        ),
        make_batch=feed.batch,
        eval_batches=feed.eval_batches,
    )


def finish(job: Job, outcome: Outcome, folder: Path) -> None:
    """Print the final evaluation as a table, and one test puzzle as a board."""
    batches, _ = job.eval_batches(True)[""]
    puzzle = next(iter(batches))
    model, table = outcome.state.evaluated, outcome.state.table
    _, prediction = outcome.eval_step(model, table, puzzle)
    if jax.process_index() != 0:
        return
    values = last_evaluation(folder)
    notes = {
        "exact_accuracy": "test puzzles solved",
        "accuracy": "test cells right",
        "q_halt_accuracy": "puzzles of which q_halt tells whether they are solved",
        "steps": "mean supervision steps",
    }
    print(f"\nTest split after {values['step']} steps ({folder}):")
    for name, note in notes.items():
        print(f"  {values[name]:8.4f}  {name:16s} {note}")
    first = lambda array: np.asarray(array.addressable_shards[0].data)[0]
    inputs, labels = first(puzzle.inputs), first(puzzle.labels)
    answer = first(prediction.logits).argmax(-1)
    print(f"\n{render_solution(inputs, answer, labels)}")


def main(preset: str, config: TrainTRM) -> int:
    """Train, evaluate and save; returns the exit status."""
    start(config.mesh, config.run)
    job = make_job(preset, config)
    folder = open_run_dir(config, preset)
    outcome = run_job(job, folder, config.run, settings(config))
    if outcome.status == 0:
        finish(job, outcome, folder)
    return outcome.status


if __name__ == "__main__":
    run(main, TRM_PRESETS, "Train a Tiny Recursive Model on puzzles.")
