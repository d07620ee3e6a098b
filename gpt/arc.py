"""Answer ARC's test inputs with a GPT: `python -m gpt.arc --run-dir RUN`.

    python -m gpt.arc --run-dir runs/mine
    python -m gpt.arc --run-dir runs/mine --puzzles 4000 --submission submission.json

The GPT writes an output for every augmentation of a test input. With the augmentation
undone, each output is a vote. Prints pass@K; see `docs/arc-gpt.md`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from configs import (
    MOST_ROWS,
    CheckpointName,
    MeshConfig,
    PuzzleDataConfig,
    RunConfig,
    TrainGPT,
    require,
    require_positive,
)
from data.puzzles.arc.grid import to_tokens
from data.puzzles.arc.row_dataset import RowDataset
from data.puzzles.arc.voting import Votes
from data.storage import open_path, require_writable, write_whole
from gpt.answers import answers
from gpt.decode import Decoder
from gpt.model import cast
from train import cli
from train.devices import start
from train.runs.loading import load_run


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Model, test inputs and files."""

    run_dir: str
    """Folder of a run of `train.gpt` on tasks of ARC."""

    checkpoint: CheckpointName = "newest"
    """Checkpoint of the run: `newest`, a step, or `best`: the best on test pairs, whose
    solutions a fair number must not use."""

    data: tuple[str, ...] = ()
    """Folders of the datasets that the run was trained on. Empty: as in the run."""

    puzzles: int | None = None
    """First augmented test inputs to answer: the first of each task, then the second
    ... None: all."""

    batch: int = 128
    """Maximum of outputs written at once."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type. `auto`: float32 on a CPU, else bfloat16."""

    submission: str = ""
    """File (`.json`) of two answers to each test input, in the form of the competition.
    Empty: none."""

    out: str = ""
    """File (`.json`) of settings and results. Empty: none."""

    def check(self) -> None:
        """Raise `UserError` if a setting is out of range."""
        require_positive(self, "puzzles")
        require_positive(self, "batch", largest=MOST_ROWS)


def vote(
    decoder: Decoder, data: RowDataset, votes: Votes, *, puzzles: int | None, batch: int
) -> dict[str, Any]:
    """Answer augmented test inputs, and count the answers as votes.

    Args:
        decoder: of the model, cast.
        data: the test split.
        votes: of the same datasets.
        puzzles: first inputs to answer; None: all.
        batch: maximum of outputs written at once.

    Returns:
        Number of answers, shares of them that are grids and that are right.
    """
    questions = list(data.questions(puzzles))
    prompts = [question.prompt for question in questions]
    grids, right = 0, 0
    with tqdm(total=len(prompts), unit="output", disable=None) as bar:
        for numbers, written in answers(decoder, prompts, batch):
            bar.update(len(numbers))
            for number, answer in zip(numbers, written, strict=True):
                if answer is None:
                    continue
                question = questions[number]
                grids += 1
                right += np.array_equal(answer, question.wanted)
                votes.add(
                    np.array([question.identifier]),
                    to_tokens(question.given)[None],
                    to_tokens(answer)[None],
                    np.zeros(1),
                )
    count = len(questions)
    return {"answers": count, "grids": grids / count, "exact_accuracy": right / count}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option or a file is wrong.
    """
    settings = tyro.cli(
        Settings, prog="python -m gpt.arc", description=__doc__, args=args
    )
    settings.check()
    start(MeshConfig(), RunConfig())
    for file in filter(None, (settings.submission, settings.out)):
        require_writable(open_path(file))
    run = load_run(settings.run_dir, settings.checkpoint)
    is_gpt = isinstance(run.config, TrainGPT)
    require(
        is_gpt and isinstance(run.config.data, PuzzleDataConfig),
        f"`--run-dir` must be a run of `train.gpt` on tasks of ARC: "
        f"`{settings.run_dir}` is another. Use "
        f"`{'gpt.sample' if is_gpt else 'train.evaluate'}` for it.",
    )
    paths = settings.data or run.config.data.paths
    data = RowDataset(paths, "test", length=run.model.block_size, batch_size=1024)
    require(
        data.vocab_size == run.sizes["tokens"],
        f"The dataset must have the tasks of the run's, {run.sizes['tokens']} tokens "
        f"and labels: got {data.vocab_size} in {paths[0]}. Name it with `--data`.",
    )
    precision = settings.precision
    if precision == "auto":
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    decoder, votes = Decoder(cast(run.model, jnp.dtype(precision))), data.votes()
    found = vote(decoder, data, votes, puzzles=settings.puzzles, batch=settings.batch)
    print(f"{found['answers']:,} augmented test inputs of {len(votes.tasks):,} tasks")
    print(f"{found['grids']:10.4f}  of the answers are grids")
    if passed := votes.metrics():
        print(f"{found['exact_accuracy']:10.4f}  are right")
        found |= passed
        for name in ("ARC/pass@1", "ARC/pass@2", "ARC/pass@10"):
            print(f"{found[name]:10.4f}  {name}")
    else:
        del found["exact_accuracy"]
        print("The solutions of the test inputs are not known.")
    if settings.submission:
        votes.write_submission(open_path(settings.submission))
    if settings.out:
        about = {"settings": asdict(settings), "step": run.step, "result": found}
        write_whole(open_path(settings.out), json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
