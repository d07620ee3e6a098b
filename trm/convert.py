"""Import official checkpoints as runs, and export runs: `python -m trm.convert`.

    python -m trm.convert checkpoints/step_32550 --out runs/imported
    python -m trm.convert alphaXiv/trm-model-maze --out runs/maze
    python -m trm.convert --to-official runs/mine --out mine.pt

A checkpoint is a file of PyTorch (`step_N`, `.pt`, `.pth`) or safetensors, a folder
with one, or a model of the Hugging Face hub. An imported run is evaluated, asked and
trained like any other, and exported it is the same bit for bit. To adapt a checkpoint
to other puzzles, use `python -m train.trm --config.init-from`.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from configs import CheckpointName, MeshConfig, RunConfig, TrainTRM, require
from data.folder import check_vacant
from data.puzzles.metadata import Metadata
from train import cli
from train.adopt import adopt
from train.devices import start
from train.runs.loading import load_run
from train.runs.record import recorded_run
from train.state import TrainState, new_state
from train.trm import TRMExperiment
from trm.official.all_config import (
    FILE,
    all_config,
    read_all_config,
    train_config,
    write_all_config,
)
from trm.official.infer import Given, Official
from trm.official.names import PREFIX, TABLE, to_official
from trm.official.pretrained import build_official, find, read_file, step_of
from trm.official.state_dict import check_new, write_state_dict


def convert(
    source: Annotated[str, tyro.conf.Positional] = "",
    *,
    out: Path,
    run: Annotated[str, tyro.conf.arg(name="to-official")] = "",
    checkpoint: CheckpointName = "best",
    all_steps: bool = False,
    data: Path | None = None,
    seq: int | None = None,
    heads: int | None = None,
    H_cycles: int | None = None,
    L_cycles: int | None = None,
    prefix: int | None = None,
    positions: Literal["rope", "rope2d", "none"] | None = None,
) -> None:
    """Import an official checkpoint, or export a run.

    Args:
        source: an official checkpoint: a file, a folder, or `owner/name[/path]`.
        out: run directory to make; for an export the file (`.safetensors`, else of
            `torch.save`).
        run: the run to export, instead of a `source`.
        checkpoint: checkpoint to export: `best`, `newest` or a step.
        all_steps: import all steps of a folder as checkpoints of one run; else the
            last.
        data: dataset to import for; a puzzle table of another size becomes its mean.
        seq: cells of a puzzle, if neither weights nor `data` determine them.
        heads: attention heads, if there is no `all_config.yaml`; so the next four.
        H_cycles: deep-recursion cycles.
        L_cycles: refinements in a cycle.
        prefix: positions in front of the puzzle.
        positions: positional encoding of attention.
    """
    start(MeshConfig(), RunConfig())
    require(
        bool(source) != bool(run),
        f"Give either a checkpoint, or a run with `--to-official`: got `{source}` and "
        f"`{run}`.",
    )
    if run:
        return export(run, out, checkpoint)
    check_vacant(out)
    metadata = None if data is None else Metadata.read(data / "train")
    cells = seq if metadata is None else metadata.seq_len
    given = Given(
        heads=heads,
        H_cycles=H_cycles,
        L_cycles=L_cycles,
        prefix=prefix,
        positions=positions,
        seq=cells,
    )
    files = find(source, every=all_steps)
    official = read_file(*files[-1], given)
    config = train_config(official.config, official.options)
    puzzles = official.puzzles
    if metadata is not None:
        require(
            metadata.vocab_size == official.vocab,
            f"The checkpoint must be for {metadata.vocab_size} tokens, as in `{data}`: "
            f"got {official.vocab}. Name another `--data`.",
        )
        paths = dataclasses.replace(config.data, paths=(str(data),))
        config = dataclasses.replace(config, data=paths)
        puzzles = metadata.num_puzzle_identifiers
    for line in describe(official):
        print(line)
    read = lambda: ((step_of(f.name) or 0, read_file(f, c, given)) for f, c in files)
    import_run(read(), config, official, puzzles, out)
    print(f"Wrote {out}.")


def import_run(
    steps: Iterable[tuple[int, Official]],
    config: TrainTRM,
    official: Official,
    puzzles: int,
    out: Path,
) -> None:
    """Write a run directory with the weights of official checkpoints.

    Args:
        steps: steps and weights, ascending.
        config: of the run.
        official: one of the checkpoints.
        puzzles: rows of the puzzle table.
        out: the directory.

    Raises:
        UserError: if the checkpoints are not of one model.
    """
    sizes = official.sizes | {"puzzles": puzzles}
    experiment = TRMExperiment(config, sizes=sizes)
    tx = experiment.make_optimizer(1).tx

    def state(step: int, weights: Official) -> TrainState:
        model, rows = build_official(weights, config, puzzles)
        model_cast = experiment.cast(model, experiment.step_config.dtype)
        carry = experiment.init_carry(model_cast, config.batch_size)
        return at_step(new_state(model, rows, carry, tx, ema=experiment.averaged), step)

    kinds = {name: array.dtype.name for name, array in official.weights.items()}
    kept = {name: kind for name, kind in kinds.items() if kind != "float32"}
    about = {"prefix": official.prefix, "kinds": kept}
    recorded = {"kind": "trm", "sizes": sizes, "official": about}
    adopt(out, config, recorded, (state(*found) for found in steps))


def at_step(state: TrainState, step: int) -> TrainState:
    """Return a fresh state at `step`, so that learning rates follow the schedule.

    Moments and their bias correction start fresh.
    """
    count = jnp.asarray(step, jnp.int32)
    scheduled = lambda node: isinstance(node, optax.ScaleByScheduleState)
    opt_state = jax.tree.map(
        lambda node: node._replace(count=count) if scheduled(node) else node,
        state.opt_state,
        is_leaf=scheduled,
    )
    where = lambda s: (s.step, s.updates, s.opt_state)
    return eqx.tree_at(where, state, (count, count, opt_state))


def describe(official: Official) -> list[str]:
    """Return lines on a model, and on settings that had to be guessed."""
    model = official.config
    layers = f"{model.layers} layers"
    if model.variant == "hrm":
        layers = f"{model.layers} fast and {model.H_layers} slow layers"
    lines = [
        f"{model.variant}, mixer={model.mixer}, positions={model.positions}, {layers} "
        f"of width {model.dim}, H_cycles={model.H_cycles}, L_cycles={model.L_cycles}, "
        f"for puzzles of {official.seq} cells and {official.vocab} tokens, "
        f"{official.puzzles:,} puzzles, prefix={model.prefix}"
    ]
    if official.notes:
        lines.append(
            "Not given by the weights"
            f"{'' if official.options else f', and there is no {FILE}'}, so assumed: "
            f"{', '.join(official.notes)}."
        )
    return lines


def export(run_dir: str, out: Path, checkpoint: CheckpointName) -> None:
    """Write a checkpoint of a run in the official format.

    Imported arrays keep their types. Else fresh latents have the compute type
    (official), and other arrays float32. The options are written before the weights,
    which would otherwise be read with guessed options if the process is killed.
    """
    check_new(out)
    config, record = recorded_run(run_dir, TrainTRM)
    run = load_run(run_dir, checkpoint)
    weights = to_official(run.model, config.model)
    if config.model.puzzle_dim:
        weights[TABLE] = np.asarray(run.table.rows)
    usual = {n: config.precision for n in weights if n.endswith("_init")}
    official = record.get("official", {"prefix": PREFIX, "kinds": usual})
    cast: Any = lambda name, array: array.astype(
        jnp.dtype(official["kinds"].get(name, "float32"))
    )
    prefix = official["prefix"]
    options = out.parent / FILE
    if not options.exists():
        write_all_config(config, options)
    elif read_all_config(options) != all_config(config):
        warnings.warn(
            f"`{options}` exists and is not replaced, but is read with `{out.name}`. "
            "If it belongs to another run, use another folder for `--out`.",
            stacklevel=2,
        )
    write_state_dict({prefix + n: cast(n, a) for n, a in weights.items()}, out)
    print(f"Wrote {out} (step {run.step}).")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option or a file is wrong.
    """
    tyro.cli(convert, prog="python -m trm.convert", description=__doc__, args=args)


if __name__ == "__main__":
    cli.run(main)
