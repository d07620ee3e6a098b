"""Train a GPT on text.

    python -m train.gpt [PRESET] [--config.FIELD VALUE ...]

Examples:
    python -m train.gpt shakespeare-char-cpu --config.run-dir runs/char
    python -m train.gpt --config.batch-size 512
    python -m train.gpt finetune-shakespeare --config.init-from gpt2
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh

from configs import TrainGPT, UserError, require
from data.text.dataset import IGNORE, TokenDataset, Tokens
from data.text.tokenizer import Tokenizer
from gpt.attention import Kernel, pick_kernel
from gpt.model import GPT, build_gpt, cast
from gpt.objective import evaluate, next_token_loss
from gpt.pretrained import Pretrained, adopted, as_computed, read_pretrained
from gpt.size import flops_per_token
from train import cli
from train.devices import start
from train.evaluation import Evaluation
from train.feed import Split, prepare_missing, train_input
from train.gradients import StepConfig
from train.job import Evaluator, Job, Recipe, run_job
from train.loop import Intervals
from train.mesh import global_batch, make_mesh, process_rows
from train.models import Sizes
from train.objective import Objective
from train.optim import Optimizer, make_optimizer, make_schedule, nanogpt_cosine
from train.phases import Phase, require_batches, with_batch
from train.presets import GPT_PRESETS
from train.runs.loading import is_run, load_run, resumed_config
from train.state import make_init
from train.watch.speed import throughput


def main(preset: str, config: TrainGPT) -> int:
    """Train, evaluate and save; returns the exit status."""
    start(config.mesh, config.run)
    config, source = resolve(config)
    return run_job(make_job(preset, config, source), config)


def make_job(preset: str, config: TrainGPT, source: Pretrained | None = None) -> Job:
    """The run that a resolved configuration describes.

    Raises:
        ValueError: if mesh, batch, data and weights do not go together.
    """
    mesh = make_mesh(config.mesh)
    require_batches(config, mesh)
    prepare_missing(config.data.path, config.data.build)
    datasets = config.batches.map(
        lambda size: open_split(config, "train", size, config.seed, mesh)
    )
    train = datasets.at(0)
    sizes: Sizes = {"tokens": train.vocab_size}
    recipe = make_recipe(config, sizes, mesh)
    eval_batch = config.microbatch_size + -config.microbatch_size % mesh.size
    return Job(
        **vars(recipe),
        kind="gpt",
        title=preset,
        unit="sequences",
        sizes=sizes,
        data_hash=train.content_hash,
        mesh=mesh,
        intervals=Intervals(
            total=config.max_iters,
            per_call=config.steps_per_call,
            eval_every=config.eval.interval,
        ),
        make_batch=train_input(
            lambda step: datasets.at(step).batch(step),
            mesh,
            recipe.phases,
            config.steps_per_call,
        ),
        evaluator=Evaluator(
            batch_size=eval_batch,
            splits=partial(eval_splits, config, eval_batch, mesh),
            score=lambda values: -(values["val_loss"] or 0.0),
            summary=summary,
        ),
        pretrained=None
        if source is None
        else lambda: (source.load(kernel_of(config, mesh)), ()),
        hint=HINT if can_sample(config) else "",
    )


HINT = "Sample from it: python -m gpt.sample --run-dir {folder}"


def can_sample(config: TrainGPT) -> bool:
    """Whether `gpt.sample` needs to be told nothing but the run."""
    try:
        return Tokenizer.of(config.data).at_hand
    except UserError:
        return False


def make_recipe(config: TrainGPT, sizes: Sizes, mesh: Mesh) -> Recipe:
    """What a run on text of these sizes trains."""
    shape = config.model
    fresh = partial(build, config, sizes, kernel_of(config, mesh))
    objective = make_objective(shape.loss_chunk)
    flops = shape.block_size * flops_per_token(jax.eval_shape(fresh)[0])
    rates = throughput(mesh, flops=flops, tokens=shape.block_size)

    def phase(batch: int) -> Phase:
        return Phase(
            objective=objective,
            optimizer=make_gpt_optimizer(config, config.lr_scale(batch)),
            step_config=StepConfig(
                batch_size=batch,
                precision=config.precision,
                seed=config.seed,
                accumulation=-(-batch // mesh.size // config.microbatch_size),
            ),
            rates=with_batch(rates, config, batch),
        )

    phases = config.batches.map(phase)
    numbers = jax.ShapeDtypeStruct((config.batches.at(0), shape.block_size), "int32")
    return Recipe(
        objective=objective,
        phases=phases,
        init=make_init(
            fresh,
            lambda model: (),
            phases.at(0).optimizer.tx,
            ema=config.optim.ema > 0,
            scaled=config.precision == "float16",
        ),
        batch=Tokens(numbers, numbers),
    )


def kernel_of(config: TrainGPT, mesh: Mesh) -> Kernel:
    """The kernel of attention on the devices of a mesh."""
    return pick_kernel(
        config.model.attention,
        precision=config.precision,
        length=config.model.block_size,
        head_dim=config.model.head_dim,
        backend=mesh.devices.flat[0].platform,
    )


def build(
    config: TrainGPT, sizes: Sizes, kernel: Kernel = "xla"
) -> tuple[GPT, tuple[()]]:
    """A fresh model for data of these sizes; it has no table."""
    key = jax.random.key(config.seed)
    return build_gpt(config.model, tokens=sizes["tokens"], kernel=kernel, key=key), ()


def sizes_of_data(config: TrainGPT) -> Sizes:
    """The sizes that a run of the first version does not record."""
    return {"tokens": open_split(config, "train", 1, 0).vocab_size}


def make_objective(loss_chunk: int) -> Objective:
    """The next token of sequences of text."""
    return Objective(
        cast=cast,
        loss=partial(next_token_loss, chunk=loss_chunk),
        evaluate=partial(evaluate, chunk=loss_chunk),
    )


def make_gpt_optimizer(config: TrainGPT, scale: float = 1.0) -> Optimizer:
    """The optimizer of a run, its rate multiplied by `scale`."""
    optim = config.optim
    updates = config.lr_decay_iters or config.max_iters
    rate = make_schedule(optim, scale * optim.lr, updates, nanogpt_cosine)
    return make_optimizer(optim, rate)


def resolve(config: TrainGPT) -> tuple[TrainGPT, Pretrained | None]:
    """The configuration with the architecture of the weights to start with, and these.

    A run that is continued needs no first weights.

    Raises:
        ValueError: if there are no such weights.
    """
    before = resumed_config(TrainGPT, config.run_dir)
    if config.init_from == "resume":
        require(
            before is not None,
            "`--config.init-from resume` needs a run to go on with: there is no "
            f"checkpoint in `{config.run_dir}`. Name the directory of the run with "
            "`--config.run-dir`.",
        )
        assert before is not None
        config = replace(config, init_from=before.init_from)
    if config.init_from == "scratch":
        return config, None
    if before is not None and before.init_from == config.init_from:
        return replace(config, model=as_computed(before.model, config.model)), None
    source = first_weights(config)
    wanted, longest = config.model.block_size, source.stored.block_size
    if wanted > longest:
        warnings.warn(
            f"`{config.init_from}` has {longest} positions: `block_size` is {longest}, "
            f"not {wanted}.",
            stacklevel=2,
        )
    return replace(config, model=source.config), source


def first_weights(config: TrainGPT) -> Pretrained:
    """The weights to start with: of another run, or trained elsewhere."""
    if not is_run(config.init_from):
        return read_pretrained(config.init_from, config.model)
    run = load_run(config.init_from)
    require(
        run.kind == "gpt",
        f"First weights must be those of a GPT: `{config.init_from}` is a run of "
        f"`train.{run.kind}`. Name another with `--config.init-from`.",
    )
    prepare_missing(config.data.path, config.data.build)
    ours, theirs = tokens_of(config), tokens_of(run.config)
    require(
        ours == theirs or theirs is None,
        f"First weights must be of the same tokens as `{config.data.path}`, of which "
        f"`{config.init_from}` has others. Use a run on text of the same tokens.",
    )
    return adopted(run.model, run.config.model, config.model)


def tokens_of(config: TrainGPT) -> Mapping[str, str | int] | None:
    """What the tokens of a run's data are; None if their dataset is not here."""
    try:
        return Tokenizer.of(config.data).describe()
    except UserError:
        return None


def open_split(
    config: TrainGPT,
    split: str,
    batch: int,
    seed: int,
    mesh: Mesh | None = None,
) -> TokenDataset:
    """A split of the text; of each batch this process's rows if there is a mesh."""
    return TokenDataset(
        config.data.path,
        split,
        block_size=config.model.block_size,
        batch_size=batch,
        seed=seed,
        rows=None if mesh is None else process_rows(mesh, batch),
    )


def eval_splits(
    config: TrainGPT,
    batch_size: int,
    mesh: Mesh,
    when: Literal["between", "last", "only"],
) -> list[Split]:
    """Both splits: always the same sequences, however they are grouped."""
    del when
    count = config.eval.iters * config.microbatch_size
    place, local = global_batch(mesh, batch_size, 0), process_rows(mesh, batch_size)

    def split(name: str) -> Split:
        everything = open_split(config, name, count, config.seed + 1).batch(0)

        def batch(index: int) -> Tokens:
            rows = index * batch_size + local
            known = np.minimum(rows, count - 1)
            inputs, targets = everything.inputs[known], everything.targets[known]
            targets = np.where((rows < count)[:, None], targets, IGNORE)
            return place(Tokens(inputs, targets.astype(np.int32)))

        batches = -(-count // batch_size)
        return Split(name=f"{name}_", examples=count, batches=batches, batch=batch)

    return [split("train"), split("val")]


def summary(evaluation: Evaluation) -> str:
    """The loss on both splits."""
    return "\n".join(
        f"  {value:8.4f}  loss on {split}"
        for split in ("train", "val")
        if (value := evaluation.values[f"{split}_loss"]) is not None
    )


if __name__ == "__main__":
    cli.run(lambda: main(*cli.parse(GPT_PRESETS, __doc__)))
