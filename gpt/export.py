"""Write a trained GPT as a Hugging Face model: `python -m gpt.export`.

    python -m gpt.export --run-dir runs/mine --out exported

`transformers.GPT2LMHeadModel.from_pretrained("exported")` reads it, and so does
`python -m train.gpt --config.init-from exported`.
"""

if not __package__:
    raise SystemExit(
        "Run it as a module, from the project's root: python -m gpt.export"
    )
from train import cli

if __name__ == "__main__":
    cli.begin()  # before JAX is there

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from configs import MeshConfig, RunConfig, require
from gpt.hugging_face import save_hugging_face
from train.devices import start
from train.loading import load_run


def export(
    run_dir: Path, out: Path, checkpoint: Literal["best", "newest"] = "best"
) -> None:
    """Write the weights of a run.

    Args:
        run_dir: folder of the run.
        out: folder to make.
        checkpoint: which of its checkpoints.
    """
    start(MeshConfig(), RunConfig())
    run = load_run(run_dir, checkpoint)
    require(
        run.kind == "gpt",
        f"An exported model must come from a run of `train.gpt`: `{run_dir}` is one of "
        f"`train.{run.kind}`. Name another with `--run-dir`.",
    )
    save_hugging_face(run.model, out)
    print(f"Wrote {out}.")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option or a file is wrong.
    """
    tyro.cli(export, prog="python -m gpt.export", description=__doc__, args=args)


if __name__ == "__main__":
    with cli.clean_exit():
        main()
