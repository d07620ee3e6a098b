"""Write a trained GPT as a Hugging Face model: `python -m gpt.export`.

    python -m gpt.export --run-dir runs/mine --out exported

`GPT2LMHeadModel.from_pretrained("exported")` and `AutoTokenizer.from_pretrained` of
`transformers` read it, and so does `python -m train.gpt --config.init-from exported`.
"""

from collections.abc import Sequence
from pathlib import Path

import tyro

from configs import CheckpointName, MeshConfig, RunConfig, UserError, require
from data.text.tokenizer import Tokenizer
from gpt.hugging_face import save_hugging_face
from train import cli
from train.devices import start
from train.runs.loading import load_run


def export(
    run_dir: str,
    out: Path,
    checkpoint: CheckpointName = "best",
    data: str = "",
    bpe_dir: str = "",
    tokenizer: bool = True,
) -> None:
    """Write the weights of a run and its tokenizer.

    Args:
        run_dir: folder of the run.
        out: new folder.
        checkpoint: checkpoint of the run: `best`, `newest` or a step.
        data: folder of the dataset with the model's tokenizer. Empty: the dataset of
            the run.
        bpe_dir: folder with GPT-2's `encoder.json` and `vocab.bpe`. Empty: the folder
            used by the run's dataset, then the environment variable `GPT2_BPE_DIR`,
            then a download.
        tokenizer: also write the tokenizer's files. Without them, dataset and byte
            pairs are not needed.
    """
    start(MeshConfig(), RunConfig())
    run = load_run(run_dir, checkpoint)
    require(
        run.kind == "gpt",
        f"`--run-dir` must be a run of `train.gpt`: `{run_dir}` is a run of "
        f"`train.{run.kind}`.",
    )
    exported = None
    if tokenizer:
        try:
            exported = Tokenizer.of(run.config.text, data, bpe_dir)
        except UserError as error:
            raise UserError(f"{error} Or use `--no-tokenizer`.") from error
        exported.require_known(run.model.embedding.weight.shape[0])
    save_hugging_face(run.model, out, exported)
    print(f"Wrote {out}.")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option or a file is wrong.
    """
    tyro.cli(export, prog="python -m gpt.export", description=__doc__, args=args)


if __name__ == "__main__":
    cli.run(main)
