"""Publish a trained model: `python -m train.push RUN --out FOLDER`.

    python -m train.push runs/mine --out published    # only writes the folder
    python -m train.push runs/mine --out published --hub OWNER/NAME --notes about.md

The folder has the averaged weights, the configuration and a card (README.md), and for a
GPT the tokenizer. `load_run`, `trm.solve --run-dir` and `gpt.sample --run-dir` take the
folder, or the name on the Hugging Face hub. Uploading needs `hf auth login` once.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from configs import (
    CheckpointName,
    MeshConfig,
    RunConfig,
    UserError,
    first_line,
    require,
)
from data.folder import check_vacant, new_folder
from data.storage import open_path, write_whole
from data.text.tokenizer import Tokenizer
from train import cli
from train.card import card
from train.devices import start
from train.runs.loading import load_run
from train.runs.metrics_file import read_rows
from train.runs.published import Dtype, is_published, write_weights
from train.runs.record import recorded_run, settings


def push(
    run_dir: Annotated[Positional[str], tyro.conf.arg(name="RUN")],
    out: Path,
    hub: str = "",
    checkpoint: CheckpointName = "best",
    dtype: Dtype = "float32",
    evaluations: tuple[Path, ...] = (),
    notes: str = "",
    private: bool = False,
) -> None:
    """Write a model's folder, and upload it if `hub` is given.

    Args:
        run_dir: folder of the run.
        out: new folder.
        hub: name on the Hugging Face hub, `owner/name`.
        checkpoint: checkpoint of the run: `best`, `newest` or a step.
        dtype: type to store. 16 bits halve the file and change answers a little.
        evaluations: results of `train.evaluate` to show in the card.
        notes: file of Markdown to add to the card, such as what the model cannot do.
        private: nobody else sees the model on the hub.

    Raises:
        UserError: if there is no such run, a file cannot be read or written, or the
            upload fails.
    """
    start(MeshConfig(), RunConfig())
    check_vacant(out)
    source = open_path(run_dir)
    require(
        not is_published(source),
        f"A run must have checkpoints: `{run_dir}` is a published model. Upload it "
        "with `hf upload`.",
    )
    results = [_parsed(path) for path in evaluations]
    about = _read(notes) if notes else ""
    config, record = recorded_run(source)
    run = load_run(source, checkpoint)
    tree = settings(replace(config, run_dir="")) | {
        "recorded": record | {"step": run.step}
    }
    rows = [row for row in read_rows(source) if row["step"] == run.step]
    evaluated = next((row for row in rows if row.get("split") == "eval"), {})
    others = ("step", "split", "score", "examples_per_second")
    scores = {k: v for k, v in evaluated.items() if v is not None and k not in others}
    name = hub.rpartition("/")[2] or out.name
    with new_folder(out) as folder:
        write_weights(folder, run.model, run.table, dtype)
        write_whole(
            open_path(folder / "config.json"), json.dumps(tree, indent=2) + "\n"
        )
        text = card(name, tree, run.model, scores, results, about)
        write_whole(open_path(folder / "README.md"), text)
        if run.kind == "gpt":
            Tokenizer.of(config.text).write(folder)
    print(f"Wrote {out}.")
    if hub:
        print(f"Uploaded to {upload(out, hub, private=private)}.")


def upload(folder: Path, hub: str, *, private: bool) -> str:
    """Upload a folder to the Hugging Face hub; return its address.

    Raises:
        UserError: if the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        address = HfApi().create_repo(hub, private=private, exist_ok=True)
        HfApi().upload_folder(repo_id=hub, folder_path=folder)
    except Exception as error:  # of many types
        raise UserError(
            f"Could not upload to `{hub}` ({first_line(error)}). `{folder}` is "
            f"complete: log in with `hf auth login`, then `hf upload {hub} {folder}`."
        ) from error
    return str(address)


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"Could not read `{path}` ({error}). Check the file."
        ) from error


def _parsed(path: Path) -> dict[str, Any]:
    """Return the content of a file of `train.evaluate`."""
    try:
        tree = json.loads(_read(path))
        assert tree["results"][0]["values"]["exact_accuracy"] is not None
    except (ValueError, LookupError, TypeError, AssertionError) as error:
        raise UserError(
            f"`{path}` must be a result of `train.evaluate` with scored puzzles: "
            f"{first_line(error)}. Name another with `--evaluations`."
        ) from error
    return tree


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option or a file is wrong.
    """
    tyro.cli(push, prog="python -m train.push", description=__doc__, args=args)


if __name__ == "__main__":
    cli.run(main)
