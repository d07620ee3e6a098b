"""Official checkpoints, from a file, a folder, or the Hugging Face hub."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import jax
import numpy as np
from jaxtyping import Array

from configs import TrainTRM, TRMConfig, UserError, require
from trm.build import build_trm
from trm.model import TRM
from trm.official.all_config import FILE, read_all_config
from trm.official.infer import Given, Official, infer
from trm.official.names import TABLE, load_official
from trm.official.state_dict import SUFFIXES, brief, read_state_dict

_HUB = re.compile(r"(?P<model>[\w.-]+/[\w.-]+)(?:/(?P<path>[\w./-]+))?")
_STEP = re.compile(r"step_(\d+)(?!\d)")
# What lies beside checkpoints: predictions, results, and words.
_OTHER = re.compile(r"(\..*|LICENSE|README|.*_all_preds\.\d+)")


def read_official(
    source: str, given: Given | None = None, default: TRMConfig | None = None
) -> tuple[Official, Path]:
    """The model of an official checkpoint, and where its file lies.

    Args:
        source: a file; a folder with one; or a model of the hub, `owner/name`, and a
            file or folder of it after another `/`. Of several steps it is the last.
        given: what is known of it besides.
        default: what a setting that nobody tells is taken for.

    Raises:
        UserError: if nothing of the kind is there, it is damaged, or it is no TRM.
    """
    ((path, beside),) = find(source)
    return read_file(path, beside, given, default), path


def read_file(
    path: Path,
    beside: Path | None,
    given: Given | None = None,
    default: TRMConfig | None = None,
) -> Official:
    """The model of a file of weights, with the `all_config.yaml` beside it."""
    weights, embedded = read_state_dict(path)
    options = read_all_config(beside) if beside else {}
    if not options and isinstance(embedded.get("arch"), dict):
        options = embedded
    return infer(weights, options, given, default)


def build_official(
    official: Official, config: TrainTRM, puzzles: int | None = None
) -> tuple[TRM, np.ndarray]:
    """The model of an official checkpoint, and the rows of its puzzle table.

    Args:
        official: as `read_official` gives it.
        config: of `train_config`.
        puzzles: rows that the table is to have. None: those that it has.

    Raises:
        UserError: if the weights are not those of one model.
    """
    sizes = {"vocab": official.vocab, "seq": official.seq}
    build = partial(build_trm, config.model, key=jax.random.key(0), **sizes)
    like = jax.eval_shape(build)
    shape = (puzzles or official.puzzles, config.model.puzzle_dim)
    model = load_official(official.weights, like, config.model)
    return model, first_table(official.weights.get(TABLE), shape)


def first_table(
    stored: np.ndarray | Array | None,
    shape: tuple[int, ...],
    how: Literal["keep", "mean", "zeros"] = "keep",
) -> np.ndarray:
    """The rows of a puzzle table to begin with; says so if they are not those stored.

    Source: `pretrain.py`, `load_checkpoint`.

    Args:
        stored: the table that goes with the weights; None without one.
        shape: puzzles and width.
        how: as `TrainTRM.init_table` says.

    Raises:
        UserError: if the rows have another width.
    """
    if how == "zeros" or stored is None or 0 in shape:
        return np.zeros(shape, np.float32)
    table = np.asarray(stored, np.float32)
    require(
        table.ndim == 2 and table.shape[1] == shape[1],
        f"`{TABLE}` must have rows of width {shape[1]}: got shape {table.shape}. Use "
        "the `puzzle_dim` that the weights were trained with.",
    )
    if how == "keep" and len(table) != shape[0] and jax.process_index() == 0:
        print(table_note(len(table), shape[0]))
    if how == "keep" and len(table) == shape[0]:
        return table
    mean = table.mean(axis=0, keepdims=True, dtype=np.float32)
    return np.broadcast_to(mean, shape)


def table_note(stored: int, wanted: int) -> str:
    """What becomes of a puzzle table that has another length than the data want."""
    return (
        f"The puzzle table of the weights has {stored:,} rows, and the data have "
        f"{wanted:,} puzzles: each gets the mean of those rows."
    )


def find(source: str, *, every: bool = False) -> list[tuple[Path, Path | None]]:
    """The file of weights, and the `all_config.yaml` beside it.

    Args:
        source: as in `read_official`.
        every: whether to give all steps of a run, ascending, not the last alone.

    Raises:
        UserError: if there is none, or several that are no steps of one run.
    """
    path = Path(source)
    if path.is_file():
        return [(path, _beside(path))]
    if path.is_dir():
        names = choose([p.name for p in path.iterdir() if p.is_file()], source)
        return [(path / n, _beside(path / n)) for n in (names if every else names[-1:])]
    parts = _HUB.fullmatch(source)
    require(
        parts is not None and not {".", ".."} & set(source.split("/")),
        "An official checkpoint must be a file, a folder with one, or a model of the "
        f"Hugging Face hub as `owner/name`: there is no `{source}`. Check the path or "
        "name.",
    )
    assert parts is not None
    return _download(parts["model"], (parts["path"] or "").strip("/"), every)


def choose(names: Sequence[str], where: str) -> list[str]:
    """The checkpoint among these files: the only one, or the steps of one run.

    Raises:
        UserError: if there is none, or several that are no steps of one run.
    """
    found = sorted(name for name in names if is_checkpoint(name))
    require(
        bool(found),
        f"A checkpoint must be a file such as `step_1000`, `.pt` or `.safetensors`: "
        f"there is none in `{where}`. Check the path or name.",
    )
    if len(found) == 1:
        return found
    folders = {PurePosixPath(name).parent for name in found}
    steps = {step: name for name in found if (step := step_of(name)) is not None}
    runs = {_STEP.sub("", name) for name in found}  # what names say beside the step
    require(
        len(folders) == len(runs) == 1 and len(steps) == len(found),
        f"One checkpoint must be chosen: `{where}` has {', '.join(found[:8])}. Name "
        f"one, as `{where}/{found[0]}`.",
    )
    return [steps[step] for step in sorted(steps)]


def is_checkpoint(name: str) -> bool:
    """Whether this may be the name of a file of weights."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    if hidden or _OTHER.fullmatch(path.name):
        return False
    return path.suffix in SUFFIXES


def step_of(name: str) -> int | None:
    """The step that a checkpoint is named after, such as `step_1000`; None if none."""
    found = _STEP.search(PurePosixPath(name).name)
    return int(found[1]) if found else None


def _beside(path: Path) -> Path | None:
    config = path.parent / FILE
    return config if config.is_file() else None


def _download(model: str, path: str, every: bool) -> list[tuple[Path, Path | None]]:
    """Checkpoints of the hub and their `all_config.yaml`, kept in the hub's cache."""
    from huggingface_hub import HfApi, hf_hub_download

    def attempt(call: Callable[[], str | list[str]], what: str) -> str | list[str]:
        try:
            return call()
        except Exception as error:
            raise UserError(
                f"{what} must come from the Hugging Face model `{model}`: it could not "
                f"be downloaded ({brief(error)}). Check the name, or download it by "
                "other means and name the file."
            ) from error

    files = attempt(lambda: HfApi().list_repo_files(model), "The list of files")
    inside = [f for f in files if not path or f == path or f.startswith(f"{path}/")]
    where = f"{model}/{path}".strip("/")
    chosen = [path] if path in files else choose(inside, where)
    fetch = lambda name: Path(
        str(attempt(lambda: hf_hub_download(model, name), f"`{name}`"))
    )
    config = str(PurePosixPath(chosen[0]).with_name(FILE))
    beside = fetch(config) if config in files else None
    return [(fetch(name), beside) for name in (chosen if every else chosen[-1:])]
