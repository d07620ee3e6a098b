"""Train a Tiny Recursive Model on puzzles.

    python -m train.trm [PRESET] [--config.FIELD VALUE ...]

Examples:
    python -m train.trm quickstart --config.run-dir runs/first
    python -m train.trm --config.batch-size 6144
    python -m train.trm sudoku-attention --config.seed 3
"""

import dataclasses
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from configs import TrainTRM, ceil_div, require, steps_covering
from data.puzzles.dataset import IGNORE, Puzzle, PuzzleDataset
from gpt.metrics import Metrics
from train import cli, seeds
from train.evaluation import Evaluation, Split
from train.experiment import AbstractExperiment, Loss, StepConfig
from train.feed import prepare_missing
from train.mesh import first_rows, process_rows
from train.models import Sizes, at_depth
from train.optim import Optimizer, make_optimizer, make_schedule, warmup_cosine
from train.presets import TRM_PRESETS
from train.roofline.cost import loss_flops
from train.watch.speed import Values, peak_flops, throughput
from trm.act import Carry, Halting, halting_of, init_carry, refill
from trm.loss import Parts, puzzle_loss
from trm.model import TRM, Prediction, cast
from trm.objective import evaluate, row_ids, supervision_loss
from trm.puzzle_table import sign_sgd_rows
from trm.recursion import Latents
from trm.summary import table

SLICE_POSITIONS = 2048
"""Fewest positions in a slice that `auto` makes: enough rows for the matrix units, and
few enough that most activations stay on a TPU's chip (`docs/results.md`)."""


class TRMExperiment(AbstractExperiment):
    """A Tiny Recursive Model, puzzles, and an optimizer for network and puzzle table.

    Example:
        from train.presets import TRM_PRESETS
        from train.run import train

        train(TRMExperiment(TRM_PRESETS["quickstart"][1], "quickstart"))
    """

    config: TrainTRM
    kind = "trm"
    unit = "puzzles"

    # -- traced ------------------------------------------------------------------------

    def cast(self, model: TRM, dtype: jnp.dtype) -> TRM:
        """Cast a model to the compute type; see `trm.model.cast`."""
        return cast(model, dtype)

    def loss(
        self, model: TRM, rows: Array, carry: Carry, keys: Key[Array, " batch"]
    ) -> Loss:
        """Return the loss of one supervision step; see `trm.objective`."""
        return supervision_loss(
            self.at_training_depth(model),
            rows,
            carry,
            keys,
            config=self.config.act,
            halting=self.halting,
            puzzle_loss=self.puzzle_loss,
            extra=self.extra_losses,
        )

    @property
    def halting(self) -> Halting:
        """When a row stops before `max_steps`."""
        return halting_of(self.config.act)

    def puzzle_loss(
        self,
        prediction: Prediction,
        labels: Int[Array, " seq"],
        q_target: Float[Array, ""] | None,
    ) -> tuple[Float[Array, ""], Parts, Parts]:
        """Return the loss of one puzzle, and losses and scores to report."""
        return puzzle_loss(prediction, labels, q_target, self.config.act)

    def extra_losses(
        self, model: TRM, carry: Carry, latents: Latents, prediction: Prediction
    ) -> Parts:
        """Return losses of each row to add, by name.

        Args:
            model: cast; `model.recursion.answer(latents)` is the answer y.
            carry: the rows before the step; `carry.steps` is 0 for a fresh puzzle.
            latents: after the step.
            prediction: after the step.
        """
        return {}

    def evaluate(
        self, model: TRM, rows: Array, carry: Carry
    ) -> tuple[Metrics, Prediction]:
        """Return metrics and predictions after all supervision steps."""
        return evaluate(
            model,
            rows,
            carry,
            config=self.config.act,
            early=self.config.eval.mode == "halt",
            halting=self.halting,
            puzzle_loss=self.puzzle_loss,
        )

    def init_carry(self, model: TRM, batch: int) -> Carry:
        """Return a carry whose rows have all halted."""
        seq, chains = self.sizes["seq"], self.config.act.chains
        return init_carry(model, batch, seq, self.halting.memory, chains)

    def refill(self, model: TRM, carry: Carry, batch: Puzzle) -> Carry:
        """Start the rows that have halted on the puzzles of a batch."""
        return refill(model, carry, batch, self.halting.memory)

    def row_ids(self, carry: Carry) -> Int[Array, " batch"]:
        """Return the puzzles' rows of the puzzle table."""
        return row_ids(carry)

    def done(self, carry: Carry) -> Bool[Array, ""]:
        """Return whether all rows have halted."""
        return jnp.all(carry.halted)

    def at_training_depth(self, model: TRM) -> TRM:
        """Return the model with the cycles of `depth_schedule`, where it has one."""
        if not self.config.depth_schedule:
            return model
        depth = self.config.depths(1).at(0)
        config = dataclasses.replace(self.config, model=self.config.model_at(depth))
        return at_depth(model, config, self.sizes, self.kernel)

    # -- how a step is made ------------------------------------------------------------

    @property
    def step_config(self) -> StepConfig:
        """Batch size, slices, precision and seed of a step."""
        return StepConfig(
            batch_size=self.config.batch_size,
            precision=self.config.precision,
            seed=self.config.seed,
            accumulation=self.slices,
            supervision_steps=self.config.supervision_steps,
        )

    @property
    def slices(self) -> int:
        """Slices of the batch: `accumulation`, or what `auto` stands for."""
        if self.config.accumulation != "auto":
            return self.config.accumulation
        if self.mesh.devices.flat[0].platform != "tpu":
            return 1
        rows = self.config.batch_size // self.mesh.size
        least = min(ceil_div(SLICE_POSITIONS, self.positions), rows)
        return next(rows // n for n in range(least, rows + 1) if rows % n == 0)

    def make_optimizer(self, total: int) -> Optimizer:
        """Return the optimizer of the network and of the puzzle table."""
        optim, table = self.config.optim, self.config.table
        updates = total * (self.config.act.max_steps if self.episode else 1)
        follow = lambda peak: make_schedule(optim, peak, updates, warmup_cosine)
        rate = follow(table.lr)

        def table_update(
            rows: Array, grads: tuple[Array, Array], count: Int[Array, ""]
        ) -> Array:
            return sign_sgd_rows(
                rows, *grads, lr=rate(count), weight_decay=table.weight_decay
            )

        optimizer = make_optimizer(optim, follow(optim.lr), updates, table_update)
        if self.config.freeze:
            frozen = optax.set_to_zero()
            return dataclasses.replace(optimizer, tx=frozen, schedule=rate)
        if self.config.model.puzzle_dim:
            return dataclasses.replace(optimizer, table_schedule=rate)
        return optimizer

    @property
    def averaged(self) -> bool:
        """True if averaged weights are kept; a frozen network has none."""
        return super().averaged and not self.config.freeze

    @property
    def episode(self) -> bool:
        """True if one batch gets updates until all of its rows halt."""
        return self.config.loop == "episode"

    @property
    def positions(self) -> int:
        """Positions of a puzzle, the prefix included."""
        return self.config.model.prefix + self.sizes["seq"]

    @cached_property
    def flops(self) -> int:
        """Operations of a supervision step of one puzzle, forward and backward."""
        return loss_flops(self)

    def rates(self, examples: float) -> Values:
        """Return the MFU where the devices' peak is known; {} in an episode."""
        if self.episode or peak_flops(self.mesh.devices.flat[0].device_kind) is None:
            return {}
        return throughput(self.mesh, examples, flops=self.flops)

    def batch_like(self, size: int) -> Puzzle:
        """Return the shapes of a batch of `size` puzzles."""
        numbers = lambda *shape: jax.ShapeDtypeStruct((size, *shape), "int32")
        seq = self.sizes["seq"]
        return Puzzle(numbers(seq), numbers(seq), numbers())

    # -- data --------------------------------------------------------------------------

    @cached_property
    def train(self) -> PuzzleDataset:
        """The training puzzles, made if they are missing."""
        config = self.config
        prepare_missing(config.data.paths[0], config.data.build)
        first = config.batches.at(0)
        dataset = PuzzleDataset(
            config.data.paths,
            "train",
            batch_size=first,
            seed=config.seed,
            epochs_per_block=config.data.block,
            rows=process_rows(self.mesh, first),
            hints=config.data.hints,
            fresh=config.data.augment == "fresh",
        )
        require(
            bool((dataset.batch(0).labels != IGNORE).any()),
            "A training puzzle must have a cell to learn: all labels of the first "
            f"batch of {config.data.paths[0]} are ignored. Check `ignore_label_id` of "
            "`dataset.json`.",
        )
        return dataset

    @cached_property
    def test(self) -> PuzzleDataset:
        """The test puzzles."""
        size = self.eval_batch_size
        rows = process_rows(self.mesh, size)
        test = PuzzleDataset(self.config.data.paths, "test", batch_size=size, rows=rows)
        for name in ("vocab_size", "seq_len", "num_puzzle_identifiers"):
            trained, tested = (
                getattr(split.metadata, name) for split in (self.train, test)
            )
            require(
                trained == tested,
                f"`{name}` of the test split must be that of the train split: got "
                f"{tested} and {trained}. Build both splits together.",
            )
        return test

    @cached_property
    def sizes(self) -> Sizes:
        """Vocabulary, cells and identifiers of the puzzles."""
        metadata = self.train.metadata
        return {
            "vocab": metadata.vocab_size,
            "seq": metadata.seq_len,
            "puzzles": metadata.num_puzzle_identifiers,
        }

    @property
    def data_hash(self) -> str:
        """Content hash of the training puzzles."""
        return self.train.content_hash

    @cached_property
    def total(self) -> int:
        """Steps of the whole run.

        Raises:
            UserError: if the data fill no batch.
        """
        require(
            steps_covering(
                self.config.batches, self.train.examples_in(self.config.epochs)
            )
            > 0,
            "The batches of a run must fill: got "
            f"batch_size={self.config.batch_size} for {self.config.epochs:g} epochs of "
            f"{self.train.metadata.total_groups:,} groups. Use a smaller batch or more "
            "epochs.",
        )
        return steps_of(self.config, self.train.examples_in(self.config.epochs))

    @property
    def eval_every(self) -> int:
        """Steps between two evaluations."""
        return steps_of(self.config, self.train.examples_in(self.config.eval.epochs))

    def train_batch(self, number: int) -> Puzzle:
        """Return this process's puzzles of a training batch."""
        return self.train.batch(number)

    def resize_data(self, first: int) -> None:
        """Go through the same order of puzzles, from step `first` on."""
        size = self.config.batch_size
        if size != self.train.batch_size:
            number = first * self.config.supervision_steps
            rows = process_rows(self.mesh, size)
            self.train = self.train.resized(number, size, rows)

    def check(self) -> None:
        """Raise `UserError` unless mesh, batches and data go together."""
        super().check()
        slices = self.config.accumulation
        for size in self.config.batches.values:
            local = size // self.mesh.size
            require(
                slices == "auto" or local % slices == 0,
                f"`accumulation` must divide the {local} puzzles of a device: got "
                f"{slices}. Use fewer slices or a larger batch.",
            )

    # -- evaluation --------------------------------------------------------------------

    @property
    def eval_batch_size(self) -> int:
        """Puzzles evaluated at once, over all devices."""
        return self.config.eval.batch_size or self.config.batch_size // self.slices

    def eval_splits(self, when: Literal["between", "last", "only"]) -> list[Split]:
        """Return the test puzzles of an evaluation."""
        limits = {
            "between": self.config.eval.puzzles,
            "last": self.config.eval.final_puzzles,
        }
        everything = self.test.num_examples
        examples = min(limits.get(when) or everything, everything)
        batch = lambda index: self.test.test_batch(index, examples)
        batches = self.test.num_test_batches(examples)
        return [
            Split(
                name="",
                examples=examples,
                whole=everything,
                batches=batches,
                batch=batch,
            )
        ]

    def score(self, values: Values) -> float:
        """Return the share of puzzles solved."""
        return values["exact_accuracy"] or 0.0

    def summary(self, evaluation: Evaluation) -> str:
        """Return an evaluation as a table, and its first puzzle as a board.

        Where the kind of puzzle has rules, the first puzzles are checked by them too: a
        maze may have several shortest paths, and the labels name one.
        """
        lines = table(evaluation.values)
        if evaluation.examples < (everything := self.test.num_examples):
            part = f"{evaluation.examples:,} of {everything:,}"
            lines.append(f"  Only the first {part} puzzles were evaluated.")
        puzzles, prediction = first_rows(evaluation.first)
        answers = np.argmax(prediction.logits, axis=-1)
        if (solved := self.test.kind.is_solution(puzzles.inputs, answers)) is not None:
            real = (puzzles.labels != IGNORE).any(axis=1)
            note = f"solved of the first {real.sum():,}, by the rules"
            lines.append(f"  {solved[real].mean():8.4f}  {'by_the_rules':16s} {note}")
        board = self.test.kind.draw(puzzles.inputs[0], answers[0], puzzles.labels[0])
        return "\n".join([*lines, "", board])

    # -- first weights -----------------------------------------------------------------

    def resolve(self) -> tuple[TrainTRM, Any]:
        """Return the configuration with the model of `init_from`, and its weights."""
        from train.trm_weights import resolve  # it reads formats of others

        return resolve(self.config)

    def first_weights(self) -> tuple[TRM, np.ndarray] | None:
        """Return the model and the table of `init_from`, fitted to the data."""
        if self.source is None:
            return None
        from train.trm_weights import fitted

        model, rows = jax.eval_shape(self.build)
        return fitted(self.source, model, rows, self.config)


def steps_of(config: TrainTRM, examples: float) -> int:
    """Return the steps that use so many examples, in whole dispatches; at least 1."""
    steps = steps_covering(config.batches, examples / config.supervision_steps)
    return ceil_div(max(steps, 1), config.steps_per_call) * config.steps_per_call


main = partial(seeds.run, TRMExperiment)
"""Takes preset and configuration; trains, evaluates and saves; returns the status."""


if __name__ == "__main__":
    cli.run(lambda: main(*cli.parse(TRM_PRESETS, __doc__)))
