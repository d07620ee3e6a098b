"""Train a Tiny Recursive Model on puzzles.

    python -m train.trm [PRESET] [--config.FIELD VALUE ...]

Examples:
    python -m train.trm quickstart --config.run-dir runs/first
    python -m train.trm --config.batch-size 6144
    python -m train.trm sudoku-attention --config.seed 3
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from configs import ACTConfig, Piecewise, TrainTRM, TRMConfig, require
from data.puzzles.dataset import IGNORE, Puzzle, PuzzleDataset
from data.puzzles.metadata import Metadata
from data.remote import local_dataset
from data.storage import exists, open_path
from gpt.attention import Kernel, pick_kernel
from train import cli
from train.devices import start
from train.evaluation import Evaluation
from train.feed import Split, prepare_missing, train_input
from train.gradients import StepConfig
from train.job import Evaluator, Job, Recipe, run_job
from train.loop import Intervals
from train.mesh import first_rows, global_batch, make_mesh, process_rows
from train.models import Sizes
from train.objective import Loss, Objective
from train.optim import Optimizer, make_optimizer, make_schedule, warmup_cosine
from train.phases import Phase, require_batches, with_batch
from train.presets import TRM_PRESETS
from train.runs.integrity import kinds
from train.runs.loading import LoadedRun, load_run, resumed_config
from train.state import TrainState, make_init
from train.watch.speed import Values, throughput
from trm.act import init_carry, refill
from trm.build import build_trm
from trm.flops import step_flops
from trm.model import TRM, cast
from trm.objective import evaluate, row_ids, supervision_loss
from trm.official.infer import Given, Official
from trm.official.names import TABLE, load_official
from trm.official.pretrained import first_table, read_official
from trm.puzzle_table import sign_sgd_rows
from trm.summary import NOTES


def main(preset: str, config: TrainTRM) -> int:
    """Train, evaluate and save; returns the exit status."""
    start(config.mesh, config.run)
    config, source = resolve(config)
    return run_job(make_job(preset, config, source), config)


def make_job(
    preset: str, config: TrainTRM, source: Official | LoadedRun | None = None
) -> Job:
    """The run that a resolved configuration describes.

    Raises:
        UserError: if mesh, batch, data and weights do not go together.
    """
    mesh = make_mesh(config.mesh)
    train, test = open_data(config, mesh)
    require(
        steps_in(config.epochs, config, train) > 0,
        f"The batches of a run must fill: got batch_size={config.batch_size} for "
        f"{config.epochs:g} epochs of {train.metadata.total_groups:,} groups. Use a "
        "smaller batch or more epochs.",
    )
    total = steps_of(config.epochs, config, train)
    sizes = sizes_of(train)
    recipe = make_recipe(config, sizes, mesh, total)
    return Job(
        **vars(recipe),
        kind="trm",
        title=preset,
        unit="puzzles",
        sizes=sizes,
        data_hash=train.content_hash,
        mesh=mesh,
        intervals=Intervals(
            total=total,
            per_call=config.steps_per_call,
            eval_every=steps_of(config.eval.epochs, config, train),
        ),
        make_batch=train_input(
            train_batches(train, config, mesh),
            mesh,
            recipe.phases,
            None if recipe.episode else config.steps_per_call,
        ),
        evaluator=Evaluator(
            batch_size=test.batch_size,
            splits=partial(test_splits, config, test, mesh),
            score=lambda values: values["exact_accuracy"] or 0.0,
            summary=partial(summary, test),
        ),
        pretrained=None
        if source is None
        else lambda: first_weights(
            source, jax.eval_shape(partial(build, config, sizes)), config
        ),
    )


def make_recipe(config: TrainTRM, sizes: Sizes, mesh: Mesh, total: int = 1) -> Recipe:
    """What a run of `total` steps on puzzles of these sizes trains."""
    kernel = pick_kernel(
        config.model.attention,
        precision=config.precision,
        length=config.model.prefix + sizes["seq"],
        head_dim=config.model.head_dim,
        backend=mesh.devices.flat[0].platform,
    )
    phases = make_phases(config, total, sizes, kernel, mesh)
    numbers = lambda *shape: jax.ShapeDtypeStruct(
        (config.batches.at(0), *shape), "int32"
    )
    return Recipe(
        objective=make_objective(
            config.act, sizes["seq"], early_halt=config.eval.mode == "halt"
        ),
        phases=phases,
        init=make_trm_init(
            config,
            sizes,
            phases.at(0).optimizer,
            partial(build, config, sizes, kernel),
        ),
        batch=Puzzle(numbers(sizes["seq"]), numbers(sizes["seq"]), numbers()),
        episode=config.loop == "episode",
    )


def resolve(config: TrainTRM) -> tuple[TrainTRM, Official | LoadedRun | None]:
    """The configuration with the model of the weights to start with, and these.

    A run that is continued needs no first weights.

    Raises:
        UserError: if there are no such weights, or they are for other puzzles.
    """
    if config.init_from == "scratch":
        return config, None
    before = resumed_config(TrainTRM, config.run_dir)
    if before is not None and before.init_from == config.init_from:
        return as_computed(before.model, config), None
    prepare_missing(config.data.paths[0], config.data.build)
    seq = Metadata.read(local_dataset(config.data.paths[0]) / "train").seq_len
    if exists(open_path(config.init_from) / "config.json"):
        source = load_run(config.init_from)
        require(
            source.kind == "trm",
            f"First weights must be those of a TRM: `{config.init_from}` is a run of "
            f"`train.{source.kind}`. Name another with `--config.init-from`.",
        )
        model = source.config.model
    else:
        source, _ = read_official(config.init_from, Given(seq=seq), config.model)
        model = source.config
        if source.notes and jax.process_index() == 0:
            notes = ", ".join(source.notes)
            print(f"Not told by {config.init_from}, so taken: {notes}.")
    return as_computed(model, config), source


def as_computed(model: TRMConfig, config: TrainTRM) -> TrainTRM:
    """The configuration with another model, which is computed as its own was to be."""
    model = dataclasses.replace(model, attention=config.model.attention)
    return dataclasses.replace(config, model=model)


def first_weights(
    source: Official | LoadedRun, like: tuple[TRM, Any], config: TrainTRM
) -> tuple[TRM, np.ndarray]:
    """A model and the rows of a table to begin a run with.

    Args:
        source: the weights.
        like: the model and the table of the run; they may be abstract.
        config: of the run.

    Raises:
        UserError: if the weights are for other puzzles.
    """
    model, rows = like
    if isinstance(source, Official):
        stored = source.weights.get(TABLE)
        model = load_official(source.weights, model, config.model)
    else:
        stored, theirs = source.table.rows, kinds(source.model)
        for name, kind in kinds(model).items():
            require(
                theirs.get(name) == kind,
                f"First weights must be for puzzles as the configured data: `{name}` "
                f"is {theirs.get(name)} in {config.init_from} and {kind} here. Use a "
                "run on puzzles of as many cells and tokens.",
            )
        model = jax.tree.unflatten(
            jax.tree.structure(model), jax.tree.leaves(source.model)
        )
    return model, first_table(stored, rows.shape, config.init_table)


def make_trm_init(
    config: TrainTRM,
    sizes: Sizes,
    optimizer: Optimizer,
    make: Callable[[], tuple[TRM, Array | np.ndarray]],
) -> Callable[[], TrainState]:
    """The function that makes the first state of a run, given what makes a model."""
    dtype = jnp.dtype(config.precision)
    return make_init(
        make,
        lambda model: init_carry(
            cast(model, dtype), config.batches.at(0), sizes["seq"]
        ),
        optimizer.tx,
        ema=config.optim.ema > 0 and not config.freeze,
    )


def build(config: TrainTRM, sizes: Sizes, kernel: Kernel = "xla") -> tuple[TRM, Array]:
    """A fresh model and the rows of its table, for data of these sizes."""
    key = jax.random.key(config.seed)
    model = build_trm(
        config.model, vocab=sizes["vocab"], seq=sizes["seq"], kernel=kernel, key=key
    )
    return model, jnp.zeros((sizes["puzzles"], config.model.puzzle_dim))


def sizes_of_data(config: TrainTRM) -> Sizes:
    """The sizes that a run of the first version does not record."""
    return sizes_of(PuzzleDataset(config.data.paths, "train", batch_size=1))


def sizes_of(train: PuzzleDataset) -> Sizes:
    """The sizes of a model of these puzzles."""
    return {
        "vocab": train.metadata.vocab_size,
        "seq": train.metadata.seq_len,
        "puzzles": train.metadata.num_puzzle_identifiers,
    }


def make_objective(act: ACTConfig, seq: int, *, early_halt: bool = False) -> Objective:
    """Supervision steps of a TRM on puzzles of `seq` cells."""
    return Objective(
        cast=cast,
        loss=partial(supervision_loss, config=act),
        evaluate=partial(evaluate, config=act, early=early_halt),
        init_carry=partial(init_carry, seq=seq),
        refill=refill,
        row_ids=row_ids,
        done=lambda carry: jnp.all(carry.halted),
    )


def make_phases(
    config: TrainTRM, total: int, sizes: Sizes, kernel: Kernel, mesh: Mesh
) -> Piecewise[Phase]:
    """The phases of a run of `total` steps: its batch and how deep it recurses."""
    objective = make_objective(config.act, sizes["seq"])

    def phase(batch_and_depth: tuple[int, tuple[int, int]]) -> Phase:
        batch, depth = batch_and_depth
        model = config.model_at(depth)
        flops = step_flops(model, config.act, vocab=sizes["vocab"], seq=sizes["seq"])
        if config.loop == "episode":  # of as many steps as its puzzles need
            flops = None
        plain = Phase(
            objective=objective,
            optimizer=make_trm_optimizer(config, total, config.lr_scale(batch)),
            step_config=StepConfig(
                batch_size=batch,
                precision=config.precision,
                seed=config.seed,
                accumulation=config.accumulation,
                supervision_steps=config.supervision_steps,
            ),
            rates=with_batch(throughput(mesh, flops=flops), config, batch),
        )
        if not config.depth_schedule:
            return plain
        other = dataclasses.replace(config, model=model)
        like, _ = jax.eval_shape(partial(build, other, sizes, kernel))
        said: Values = {"H_cycles": depth[0], "L_cycles": depth[1]}
        return dataclasses.replace(
            plain,
            objective=at_depth(objective, like),
            rates=lambda rate: plain.rates(rate) | said,
        )

    return config.batches.together(config.depths(total)).map(phase)


def at_depth(objective: Objective, like: TRM) -> Objective:
    """The objective with a loss that recurses as deep as another model.

    No weight knows of depth: it is the structure that the same leaves stand in.
    """
    structure = jax.tree.structure(like)

    def loss(model: TRM, *args: Any, **options: Any) -> Loss:
        model = jax.tree.unflatten(structure, jax.tree.leaves(model))
        return objective.loss(model, *args, **options)

    return dataclasses.replace(objective, loss=loss)


def make_trm_optimizer(config: TrainTRM, total: int, scale: float = 1.0) -> Optimizer:
    """The optimizer of a run of `total` steps: the network's and the puzzle table's.

    The rate of the network is multiplied by `scale`.
    """
    optim, table = config.optim, config.table
    updates = total * (config.act.max_steps if config.loop == "episode" else 1)
    follow = lambda peak: make_schedule(optim, peak, updates, warmup_cosine)
    rate = follow(table.lr)

    def table_update(
        rows: Array, table_grads: tuple[Array, Array], count: Any
    ) -> Array:
        return sign_sgd_rows(
            rows, *table_grads, lr=rate(count), weight_decay=table.weight_decay
        )

    optimizer = make_optimizer(optim, follow(scale * optim.lr), table_update)
    if config.freeze:
        return dataclasses.replace(optimizer, tx=optax.set_to_zero())
    return optimizer


def open_data(config: TrainTRM, mesh: Mesh) -> tuple[PuzzleDataset, PuzzleDataset]:
    """The training and the test puzzles, made if they are missing.

    Raises:
        ValueError: if they do not fit each other, the batch or the mesh.
    """
    paths, eval_batch = config.data.paths, config.eval.batch_size or config.batch_size
    test_rows = process_rows(mesh, eval_batch)
    require_batches(config, mesh)
    prepare_missing(paths[0], config.data.build)
    train = PuzzleDataset(
        paths,
        "train",
        batch_size=config.batch_size,
        seed=config.seed,
        epochs_per_block=config.data.block,
        rows=process_rows(mesh, config.batch_size),
        hints=config.data.hints,
    )
    require(
        bool((train.batch(0).labels != IGNORE).any()),
        "A training puzzle must have a cell to learn: all labels of the first batch "
        f"of {paths[0]} are ignored. Check `ignore_label_id` of `dataset.json`.",
    )
    test = PuzzleDataset(paths, "test", batch_size=eval_batch, rows=test_rows)
    for name in ("vocab_size", "seq_len", "num_puzzle_identifiers"):
        ours, theirs = getattr(train.metadata, name), getattr(test.metadata, name)
        require(
            ours == theirs,
            f"`{name}` of the test split must be that of the train split: got "
            f"{theirs} and {ours}. Build both splits together.",
        )
    return train, test


def train_batches(
    train: PuzzleDataset, config: TrainTRM, mesh: Mesh
) -> Callable[[int], Puzzle]:
    """Return the function from the number of a training batch to its local rows."""
    batches = config.batches.stretched(config.supervision_steps)
    datasets: list[PuzzleDataset] = []
    for first, size in zip(batches.firsts, batches.values, strict=True):
        rows = process_rows(mesh, size)
        datasets.append((datasets or [train])[-1].resized(first, size, rows))
    by_step = Piecewise(batches.firsts, tuple(datasets))
    return lambda step: by_step.at(step).batch(step)


def steps_in(epochs: float, config: TrainTRM, train: PuzzleDataset) -> int:
    """Return the training batches that make up `epochs`; 0 if they fill none."""
    batches = config.batches.stretched(config.supervision_steps)
    return batches.reached(train.examples_in(epochs))


def steps_of(epochs: float, config: TrainTRM, train: PuzzleDataset) -> int:
    """Steps that make up so many epochs, whole dispatches of them."""
    steps = max(steps_in(epochs, config, train) // config.supervision_steps, 1)
    return -(-steps // config.steps_per_call) * config.steps_per_call


def test_splits(
    config: TrainTRM,
    test: PuzzleDataset,
    mesh: Mesh,
    when: Literal["between", "last", "only"],
) -> list[Split]:
    """The test puzzles of an evaluation: on the way, the last, or without training."""
    limits = {"between": config.eval.puzzles, "last": config.eval.final_puzzles}
    examples = min(limits.get(when) or test.num_examples, test.num_examples)
    place = global_batch(mesh, test.batch_size, 0)
    batches = test.num_test_batches(examples)
    batch = lambda index: place(test.test_batch(index, examples))
    return [Split(name="", examples=examples, batches=batches, batch=batch)]


def summary(test: PuzzleDataset, evaluation: Evaluation) -> str:
    """An evaluation as a table, and its first puzzle as a board.

    Where the kind of puzzle has rules, the first puzzles are judged by them too: a maze
    may have several shortest paths, of which the labels name one.
    """
    lines = [
        f"  {value:8.4f}  {name:16s} {note}"
        for name, note in NOTES.items()
        if (value := evaluation.values.get(name)) is not None
    ]
    puzzles, prediction = first_rows(evaluation.first)
    answers = np.argmax(prediction.logits, axis=-1)
    if (solved := test.kind.is_solution(puzzles.inputs, answers)) is not None:
        real = (puzzles.labels != IGNORE).any(axis=1)
        name, note = "by_the_rules", f"solved of the first {real.sum():,}, by the rules"
        lines.append(f"  {solved[real].mean():8.4f}  {name:16s} {note}")
    board = test.kind.draw(puzzles.inputs[0], answers[0], puzzles.labels[0])
    return "\n".join([*lines, "", board])


if __name__ == "__main__":
    cli.run(lambda: main(*cli.parse(TRM_PRESETS, __doc__)))
