"""Train a GPT: `python -m train.gpt [PRESET] [--config.FIELD VALUE]`.

Examples:
    python -m train.gpt shakespeare-char-cpu
    python -m train.gpt --config.batch-size 512
    python -m train.gpt finetune-shakespeare --config.init-from gpt2
"""

if not __package__:
    raise SystemExit("Run it as a module, from the project's root: python -m train.gpt")

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from configs import GPT_PRESETS, TrainGPT, even_parts
from data.text.dataset import IGNORE, TokenDataset, Tokens
from gpt.build import build_gpt
from gpt.model import GPT, flops_per_token
from gpt.pretrained import Pretrained, read_pretrained
from gpt.objective import GPTTask
from train.cli import run
from train.devices import gpt_kernel, start
from train.evaluate import EvalBatches
from train.feed import prepare_missing, stacked_batches
from train.gradients import Plan
from train.job import Job, run_job
from train.loop import Intervals
from train.mesh import global_batch, make_mesh, process_rows
from train.optim import make_optimizer, nanogpt_cosine
from train.peaks import peak_flops
from train.report import Values, last_evaluation
from train.run_dir import open_run_dir, recorded, settings
from train.state import make_init
from train.step import Rules


class TextFeed:
    """The text of a run as global batches."""

    def __init__(self, config: TrainGPT, mesh: Mesh):
        prepare_missing(config.data.path, config.data.build)
        self._calls = config.steps_per_call
        self._batch = config.microbatch_size + -config.microbatch_size % mesh.size
        open_split = lambda split, batch, seed, rows: TokenDataset(
            config.data.path,
            split,
            block_size=config.model.block_size,
            batch_size=batch,
            seed=seed,
            rows=rows,
        )
        rows = process_rows(mesh, config.batch_size)
        self.train = open_split("train", config.batch_size, config.seed, rows)
        self._place = global_batch(mesh, config.batch_size, 2)
        self._place_eval = global_batch(mesh, self._batch, 0)
        self._rows_eval = process_rows(mesh, self._batch)
        # Every evaluation is of the same sequences, however they are grouped.
        sequences = config.eval.iters * config.microbatch_size
        self._evaluated = {
            split: open_split(split, sequences, config.seed + 1, None)
            for split in ("train", "val")
        }

    def batch(self, first: int) -> Tokens:
        """The input of the dispatch that begins at step `first`."""
        return self._place(stacked_batches(self.train.batch, first, self._calls, 1))

    def eval_batches(self, last: bool) -> EvalBatches:
        """The sequences of both splits that every evaluation is of."""
        found = {}
        for split, dataset in self._evaluated.items():
            everything = dataset.batch(0)
            found[f"{split}_"] = (self._cut(everything), len(everything.inputs))
        return found

    @property
    def eval_batch(self) -> int:
        """Sequences evaluated at once."""
        return self._batch

    def _cut(self, everything: Tokens) -> Iterator[Tokens]:
        """Batches of equal size; the last is filled up with what is not scored."""
        count = len(everything.inputs)
        for first in range(0, count, self._batch):
            rows = first + self._rows_eval
            known = np.minimum(rows, count - 1)
            inputs, targets = everything.inputs[known], everything.targets[known]
            targets = np.where((rows < count)[:, None], targets, IGNORE)
            yield self._place_eval(Tokens(inputs, targets.astype(np.int32)))


def make_rules(config: TrainGPT) -> Rules:
    """The update rules of a run."""
    optim = config.optim
    decay = config.lr_decay_iters or config.max_iters
    schedule = nanogpt_cosine(optim.lr, optim.warmup, decay, optim.min_ratio)
    return Rules(
        optimizer=make_optimizer(optim, schedule), schedule=schedule, ema=optim.ema
    )


def make_plan(config: TrainGPT, mesh: Mesh) -> Plan:
    """How the batch is split up."""
    process_rows(mesh, config.batch_size)
    local = config.batch_size // mesh.size
    return Plan(
        batch_size=config.batch_size,
        precision=config.precision,
        seed=config.seed,
        accumulation=even_parts(local, config.microbatch_size),
    )


def resolve(config: TrainGPT) -> tuple[TrainGPT, Pretrained | None]:
    """The configuration with the architecture of the weights to start with, and these.

    Raises:
        ValueError: if there are no such weights.
    """
    if config.init_from == "resume":
        config = replace(config, init_from=recorded(config.run_dir)["init_from"])
    if config.init_from == "scratch":
        return config, None
    source = read_pretrained(config.init_from, config.model)
    return replace(config, model=source.config), source


def make_job(preset: str, config: TrainGPT, source: Pretrained | None = None) -> Job:
    """The run that a resolved configuration describes.

    Raises:
        ValueError: if mesh, batch, data and weights do not go together.
    """
    mesh = make_mesh(config.mesh)
    plan, rules, shape = make_plan(config, mesh), make_rules(config), config.model
    feed = TextFeed(config, mesh)
    kernel = gpt_kernel(shape, config.precision)
    task = GPTTask(shape.loss_chunk)

    def build() -> tuple[GPT, tuple[()]]:
        key = jax.random.key(config.seed)
        return build_gpt(
            shape, tokens=feed.train.vocab_size, kernel=kernel, key=key
        ), ()

    flops = flops_per_token(jax.eval_shape(build)[0])
    return Job(
        title=preset,
        unit="sequences",
        score=lambda values: -(values["val_loss"] or 0.0),
        mesh=mesh,
        task=task,
        rules=rules,
        plan=plan,
        eval_plan=replace(plan, batch_size=feed.eval_batch, accumulation=1),
        intervals=Intervals(
            total=config.max_iters,
            per_call=config.steps_per_call,
            eval_every=config.eval.interval,
        ),
        episode=False,
        prefetch=config.data.prefetch,
        init=make_init(
            build,
            lambda model: (),
            rules.optimizer,
            ema=config.optim.ema > 0,
            scaled=config.precision == "float16",
        ),
        make_batch=feed.batch,
        eval_batches=feed.eval_batches,
        pretrained=None if source is None else lambda: source.load(kernel),
        rates=lambda rate: throughput(rate * shape.block_size, flops, mesh),
    )


def throughput(tokens: float, flops: int, mesh: Mesh) -> Values:
    """Tokens a second, and MFU where the devices' peak is known."""
    peak = peak_flops(mesh.devices.flat[0].device_kind)
    values: Values = {"tokens_per_second": tokens}
    if peak is not None:
        values["mfu"] = tokens * flops / (peak * mesh.size)
    return values


def finish(folder: Path) -> None:
    """Print the last evaluation, and how to sample."""
    if jax.process_index() != 0:
        return
    values = last_evaluation(folder)
    print(f"\nAfter {values['step']} steps ({folder}):")
    for split in ("train", "val"):
        print(f"  {values[f'{split}_loss']:8.4f}  loss on {split}")
    print(f"\nSample from it: python -m gpt.sample --run-dir {folder}")


def main(preset: str, config: TrainGPT) -> int:
    """Train, evaluate and save; returns the exit status."""
    start(config.mesh, config.run)
    config, source = resolve(config)
    job = make_job(preset, config, source)
    folder = open_run_dir(config, preset)
    outcome = run_job(job, folder, config.run, settings(config))
    if outcome.status == 0:
        finish(folder)
    return outcome.status


if __name__ == "__main__":
    run(main, GPT_PRESETS, "Train a GPT on text.")
