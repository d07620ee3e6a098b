"""Train a GPT on text, or on tasks of ARC.

    python -m train.gpt [PRESET] [--config.FIELD VALUE ...]

Examples:
    python -m train.gpt shakespeare-char-cpu --config.run-dir runs/char
    python -m train.gpt --config.batch-size 512
    python -m train.gpt finetune-shakespeare --config.init-from gpt2
"""

import math
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from configs import PuzzleDataConfig, TextDataConfig, TrainGPT, UserError, ceil_div
from data.puzzles.arc.row_dataset import RowDataset
from data.storage import AnyPath
from data.text.dataset import IGNORE, TokenDataset, Tokens
from data.text.tokenizer import Tokenizer
from gpt.metrics import Metrics
from gpt.model import GPT, cast
from gpt.objective import evaluate, next_token_loss
from gpt.size import flops_per_token
from train import cli, seeds
from train.evaluation import Evaluation, Split
from train.experiment import AbstractExperiment, Loss, StepConfig
from train.feed import prepare_missing
from train.mesh import process_rows
from train.models import Sizes, at_depth
from train.optim import Optimizer, make_optimizer, make_schedule, nanogpt_cosine
from train.presets import GPT_PRESETS
from train.watch.speed import Values, throughput


class GPTExperiment(AbstractExperiment):
    """A GPT, text or rows of ARC, and an optimizer."""

    config: TrainGPT
    kind = "gpt"
    unit = "sequences"

    # -- traced ------------------------------------------------------------------------

    def cast(self, model: GPT, dtype: jnp.dtype) -> GPT:
        """Cast a model to the compute type; see `gpt.model.cast`."""
        return cast(model, dtype)

    def loss(
        self, model: GPT, rows: tuple[()], carry: Tokens, keys: Key[Array, " batch"]
    ) -> Loss:
        """Return the cross-entropy of every next token; see `gpt.objective`."""
        chunk = self.config.model.loss_chunk
        model = self.at_training_depth(model)
        return next_token_loss(model, rows, carry, keys, chunk=chunk)

    def at_training_depth(self, model: GPT) -> GPT:
        """Return the model, without its loops before `loops_from`."""
        if not self.config.loops_from:
            return model
        once = replace(self.config.model, loops="")
        config = replace(self.config, model=once, loops_from=0.0)
        return at_depth(model, config, self.sizes, self.kernel)

    def evaluate(
        self, model: GPT, rows: tuple[()], carry: Tokens
    ) -> tuple[Metrics, tuple[()]]:
        """Return the loss without dropout, and the share of right answers of ARC."""
        return evaluate(model, rows, carry, chunk=self.config.model.loss_chunk)

    # -- how a step is made ------------------------------------------------------------

    @property
    def step_config(self) -> StepConfig:
        """Batch size, slices, precision and seed of a step."""
        size, most = self.config.batch_size, self.config.microbatch_size
        return StepConfig(
            batch_size=size,
            precision=self.config.precision,
            seed=self.config.seed,
            accumulation=ceil_div(size // self.mesh.size, most),
        )

    def make_optimizer(self, total: int) -> Optimizer:
        """Return the optimizer; its schedule may have a length of its own."""
        optim, timed = self.config.optim, self.config.run.minutes is not None
        updates = total if timed else self.config.lr_decay_iters or total
        rate = make_schedule(optim, optim.lr, updates, nanogpt_cosine)
        return make_optimizer(optim, rate, total)

    @property
    def positions(self) -> int:
        """Tokens of a sequence."""
        return self.config.model.block_size

    @cached_property
    def flops(self) -> int:
        """Operations for a sequence, forward and backward."""
        model, _ = jax.eval_shape(self.build)
        return self.positions * flops_per_token(self.at_training_depth(model))

    def rates(self, examples: float) -> Values:
        """Return tokens a second, and the MFU where the devices' peak is known."""
        tokens = self.positions
        return throughput(self.mesh, examples, flops=self.flops, tokens=tokens)

    def batch_like(self, size: int) -> Tokens:
        """Return the shapes of a batch of `size` sequences."""
        numbers = jax.ShapeDtypeStruct((size, self.positions), "int32")
        return Tokens(numbers, numbers)

    # -- data --------------------------------------------------------------------------

    def open_split(
        self, split: str, size: int, seed: int, **rows: Any
    ) -> TokenDataset | RowDataset:
        """Return the split `train` or `val` of the data, made if they are missing."""
        data, options = self.config.data, {"batch_size": size, "seed": seed, **rows}
        if isinstance(data, PuzzleDataConfig):
            prepare_missing(data.paths[0], data.build)
            split = "test" if split == "val" else split
            options |= {"length": self.positions, "epochs_per_block": data.block}
            return RowDataset(data.paths, split, **options)
        prepare_missing(data.path, data.build)
        return TokenDataset(data.path, split, block_size=self.positions, **options)

    @cached_property
    def train(self) -> TokenDataset | RowDataset:
        """The training data."""
        size = self.config.batches.at(0)
        rows = process_rows(self.mesh, size)
        return self.open_split("train", size, self.config.seed, rows=rows)

    @cached_property
    def sizes(self) -> Sizes:
        """Number of different tokens, labels included."""
        return {"tokens": self.train.vocab_size}

    @property
    def data_hash(self) -> str:
        """Content hash of the training data."""
        return self.train.content_hash

    @cached_property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.config.max_iters

    @property
    def eval_every(self) -> int:
        """Steps between two evaluations."""
        return self.config.eval.interval

    def train_batch(self, number: int) -> Tokens:
        """Return this process's sequences of a training batch."""
        return self.train.batch(number)

    def resize_data(self, first: int) -> None:
        """Open the data of the next phase.

        Batches of text do not depend on each other. Rows of ARC go on in the same
        order.
        """
        if isinstance(self.config.data, TextDataConfig):
            vars(self).pop("train", None)
            return
        rows, size = self.train, self.config.batch_size
        assert isinstance(rows, RowDataset)
        if size != rows.puzzles.batch_size:
            self.train = rows.resized(first, size, process_rows(self.mesh, size))

    # -- evaluation --------------------------------------------------------------------

    @property
    def eval_batch_size(self) -> int:
        """Sequences evaluated at once, over all devices."""
        devices = self.mesh.size
        return ceil_div(self.config.microbatch_size, devices) * devices

    def eval_splits(self, when: Literal["between", "last", "only"]) -> list[Split]:
        """Return both splits: always the same sequences, on any mesh."""
        del when
        count = self.config.eval.iters * self.config.microbatch_size
        size = self.eval_batch_size
        local = process_rows(self.mesh, size)

        def split(name: str) -> Split:
            data = self.open_split(name, count, self.config.seed + 1)
            is_text = isinstance(data, TokenDataset)
            everything = data.batch(0) if is_text else data.first()

            def batch(index: int) -> Tokens:
                rows = index * size + local
                real = np.minimum(rows, count - 1)
                inputs, targets = everything.inputs[real], everything.targets[real]
                targets = np.where((rows < count)[:, None], targets, IGNORE)
                return Tokens(inputs, targets.astype(np.int32))

            return Split(
                name=f"{name}_",
                examples=count,
                batches=ceil_div(count, size),
                batch=batch,
                derive=partial(bits_per_byte, bytes_per_token=data.bytes_per_token),
            )

        return [split("train"), split("val")]

    def score(self, values: Values) -> float:
        """Return the share of right answers in validation; if there is none, -loss."""
        return values.get("val_exact_accuracy") or -(values["val_loss"] or 0.0)

    def summary(self, evaluation: Evaluation) -> str:
        """Return the metrics of both splits."""
        values = evaluation.values
        words = {"loss": "loss", "bits_per_byte": "bits per byte"}
        words |= {"exact_accuracy": "of the outputs are right"}
        return "\n".join(
            f"  {value:8.4f}  {words} on {split}"
            for name, words in words.items()
            for split in ("train", "val")
            if (value := values.get(f"{split}_{name}")) is not None
        )

    def advice(self, folder: AnyPath) -> str:
        """Return the command that uses the model, if it needs nothing but the run."""
        if isinstance(self.config.data, PuzzleDataConfig):
            return f"Answer with it: python -m gpt.arc --run-dir {folder}"
        try:
            at_hand = Tokenizer.of(self.config.text).at_hand
        except UserError:
            at_hand = False
        command = f"python -m gpt.sample --run-dir {folder}"
        return f"Sample from it: {command}" if at_hand else ""

    # -- first weights -----------------------------------------------------------------

    def resolve(self) -> tuple[TrainGPT, Any]:
        """Return the configuration with the model of `init_from`, and its weights."""
        from train.gpt_weights import resolve  # it reads formats of others

        return resolve(self.config)

    def first_weights(self) -> tuple[GPT, tuple[()]] | None:
        """Return the model of `init_from`; None for a fresh one."""
        return None if self.source is None else (self.source.load(self.kernel), ())


def bits_per_byte(means: Values, bytes_per_token: float | None) -> Values:
    """Return the loss in bits per byte, where the bytes of the text are known."""
    loss = means["loss"]
    if loss is None or bytes_per_token is None:
        return {}
    return {"bits_per_byte": loss / math.log(2) / bytes_per_token}


main = partial(seeds.run, GPTExperiment)
"""Takes preset and configuration; trains, evaluates and saves; returns the status."""


if __name__ == "__main__":
    cli.run(lambda: main(*cli.parse(GPT_PRESETS, __doc__)))
