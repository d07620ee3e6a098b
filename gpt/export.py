"""Write a trained GPT as a Hugging Face model: `python -m gpt.export`.

    python -m gpt.export --run-dir runs/mine --out exported

`transformers.GPT2LMHeadModel.from_pretrained("exported")` reads it, and so does
`python -m train.gpt --config.init-from exported`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from gpt.hugging_face import save_hugging_face
from train.run_dir import load_run


def export(
    run_dir: Path, out: Path, checkpoint: Literal["best", "newest"] = "best"
) -> None:
    """Write the weights of a run.

    Args:
        run_dir: folder of the run.
        out: folder to make.
        checkpoint: which of its checkpoints.
    """
    run = load_run(run_dir, checkpoint)
    save_hugging_face(run.model, run.shape, out)
    print(f"Wrote {out}.")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Exits with status 2 and a message if an option or a file is wrong.
    """
    try:
        tyro.cli(export, prog="python -m gpt.export", description=__doc__, args=args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
