"""Write a trained model as one file that runs without this code.

    python -m train.export RUN --out model.jaxexport

The file is a program of StableHLO with its weights, for any batch size, written by
`jax.export`. It needs JAX alone; `docs/checkpoints.md` shows how to call it.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro
from jax import export
from jaxtyping import Array, Float, Int
from tyro.conf import Positional

from configs import MOST_STEPS, CheckpointName, MeshConfig, RunConfig, require
from data.storage import open_path, require_writable, whole_file
from gpt import model as gpt
from gpt.decode import Cache, Decoder
from train import cli
from train.devices import start
from train.runs.loading import LoadedRun, load_run
from train.solving import answer_by_step, experiment_of
from trm import model as trm

Platform = Literal["cpu", "cuda", "rocm", "tpu"]
Program = tuple[Any, tuple[Any, ...]]
"""A function, and the shapes of its arguments."""


def trm_program(run: LoadedRun, dtype: jnp.dtype, steps: int) -> Program:
    """Return the function `tokens, puzzles -> answers, q_halt`.

    `tokens` are int32 `batch seq`. `puzzles` are int32 `batch`: rows of the puzzle
    table, 0 for new puzzles. `answers` are int32 `batch steps seq`, after each step;
    `q_halt` are float32 `batch steps`: the probability that the answer is right.
    """
    model, own = trm.cast(run.model, dtype), experiment_of(run)

    def solve(
        tokens: Int[Array, "batch seq"], puzzles: Int[Array, " batch"]
    ) -> tuple[Int[Array, "batch steps seq"], Float[Array, "batch steps"]]:
        at_once = tokens.shape[0]
        return answer_by_step(model, run.table, tokens, puzzles, own, steps, at_once)[
            :2
        ]

    (batch,) = export.symbolic_shape("batch")
    tokens = jax.ShapeDtypeStruct((batch, run.sizes["seq"]), jnp.int32)
    return solve, (tokens, jax.ShapeDtypeStruct((batch,), jnp.int32))


def gpt_program(run: LoadedRun, dtype: jnp.dtype) -> Program:
    """Return the function `token, position, keys, values -> logits, keys, values`.

    `token` is int32 `batch`, `position` an int32 counted from 0, `logits` are float32
    `batch vocab`: of the next token. `keys` and `values` are a tuple with an array
    `batch*heads block head_dim` for each layer, zeros in front of the first token.
    """
    require(
        not run.model.labels,
        "A token's place in a grid depends on those before it, which the exported "
        "program does not get. Answer with `python -m gpt.arc`.",
    )
    decoder = Decoder(gpt.cast(run.model, dtype))

    def step(
        token: Int[Array, " batch"], position: Int[Array, ""], keys: Any, values: Any
    ) -> tuple[Float[Array, "batch vocab"], Any, Any]:
        with decoder.exact():
            logits, cache = decoder.decode(Cache(keys, values), token, position)
        return logits, cache.keys, cache.values

    (batch,) = export.symbolic_shape("batch")
    cache = jax.eval_shape(lambda: decoder.empty(1))
    grow = lambda a: jax.ShapeDtypeStruct((batch * a.shape[0], *a.shape[1:]), a.dtype)
    keys, values = (tuple(map(grow, arrays)) for arrays in (cache.keys, cache.values))
    token = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return step, (token, jax.ShapeDtypeStruct((), jnp.int32), keys, values)


def write(
    run_dir: Annotated[Positional[str], tyro.conf.arg(name="RUN")],
    out: str,
    checkpoint: CheckpointName = "best",
    precision: Literal["float32", "bfloat16"] = "float32",
    steps: int | None = None,
    platforms: tuple[Platform, ...] = ("cpu", "cuda", "tpu"),
) -> None:
    """Write the program of a run.

    Args:
        run_dir: folder of the run, or a published model.
        out: file to write.
        checkpoint: checkpoint of the run: `best`, `newest` or a step.
        precision: compute type.
        steps: supervision steps of a TRM. None: the steps of training.
        platforms: kinds of devices that the program runs on.

    Raises:
        UserError: if the run cannot be read, or the file cannot be written.
    """
    require(
        find_spec("flatbuffers") is not None,
        "`jax.export` needs the package `flatbuffers`, which is missing. Install it "
        "with `pip install -e '.[export]'`.",
    )
    start(MeshConfig(), RunConfig())
    require_writable(open_path(out))
    require(
        steps is None or 1 <= steps <= MOST_STEPS,
        f"`--steps` must be in 1 .. {MOST_STEPS}: got {steps}.",
    )
    run, dtype = load_run(run_dir, checkpoint), jnp.dtype(precision)
    if run.kind == "trm":
        program = trm_program(run, dtype, steps or run.config.act.max_steps)
    else:
        program = gpt_program(run, dtype)
    function, shapes = program
    exported = export.export(jax.jit(function), platforms=platforms)(*shapes)
    with whole_file(open_path(out)) as file:
        file.write(exported.serialize())
    print(f"Wrote {out}.")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option or a file is wrong.
    """
    tyro.cli(write, prog="python -m train.export", description=__doc__, args=args)


if __name__ == "__main__":
    cli.run(main)
