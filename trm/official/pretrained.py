"""Find and read official checkpoints: files, folders, or the Hugging Face hub."""

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
# Other files beside checkpoints: predictions, results, and text.
_OTHER = re.compile(r"(\..*|LICENSE|README|.*_all_preds\.\d+)")


def read_official(
    source: str, given: Given | None = None, default: TRMConfig | None = None
) -> tuple[Official, Path]:
    """Read an official checkpoint; also return the path of its file.

    Args:
        source: a file; a folder with one; or a model of the hub, `owner/name`, with
            `/path` for a file or folder in it. The last of several steps is read.
        given: settings known besides.
        default: defaults of unknown settings.

    Raises:
        UserError: if there is no checkpoint, it is damaged, or not of a TRM.
    """
    ((path, beside),) = find(source)
    return read_file(path, beside, given, default), path


def read_file(
    path: Path,
    beside: Path | None,
    given: Given | None = None,
    default: TRMConfig | None = None,
) -> Official:
    """Read a file of weights, with the `all_config.yaml` beside it."""
    weights, embedded = read_state_dict(path)
    options = read_all_config(beside) if beside else {}
    if not options and isinstance(embedded.get("arch"), dict):
        options = embedded
    return infer(weights, options, given, default)


def build_official(
    official: Official, config: TrainTRM, puzzles: int | None = None
) -> tuple[TRM, np.ndarray]:
    """Return the model of an official checkpoint, and the rows of its puzzle table.

    Args:
        official: see `read_official`.
        config: see `train_config`.
        puzzles: rows of the table; None: as stored.

    Raises:
        UserError: if the weights do not fit the configuration.
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
    """Return the first rows of a puzzle table; prints a note if they are a mean.

    Source: `pretrain.py`, `load_checkpoint`.

    Args:
        stored: the table of the weights; None without one.
        shape: puzzles and width.
        how: see `TrainTRM.init_table`.

    Raises:
        UserError: if the rows have another width.
    """
    if how == "zeros" or stored is None or 0 in shape:
        return np.zeros(shape, np.float32)
    table = np.asarray(stored, np.float32)
    require(
        table.ndim == 2 and table.shape[1] == shape[1],
        f"`{TABLE}` must have rows of width {shape[1]}: got shape {table.shape}. Use "
        "the `puzzle_dim` of the weights.",
    )
    if how == "keep" and len(table) != shape[0] and jax.process_index() == 0:
        print(table_note(len(table), shape[0]))
    if how == "keep" and len(table) == shape[0]:
        return table
    mean = table.mean(axis=0, keepdims=True, dtype=np.float32)
    return np.broadcast_to(mean, shape)


def table_note(stored: int, wanted: int) -> str:
    """Return a note on a puzzle table of another length than the data need."""
    return (
        f"The puzzle table of the weights has {stored:,} rows, the data have "
        f"{wanted:,} puzzles: each gets the mean row."
    )


def find(source: str, *, every: bool = False) -> list[tuple[Path, Path | None]]:
    """Return the file of weights, and the `all_config.yaml` beside it, if any.

    Args:
        source: see `read_official`.
        every: return all steps of a run, ascending, not only the last.

    Raises:
        UserError: if there is none, or several that are not steps of one run.
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
        f"Official checkpoint not found: `{source}`. Give a file, a folder with one, "
        "or a model of the Hugging Face hub as `owner/name`.",
    )
    assert parts is not None
    return _download(parts["model"], (parts["path"] or "").strip("/"), every)


def choose(names: Sequence[str], where: str) -> list[str]:
    """Choose the only checkpoint among files, or the steps of one run.

    Raises:
        UserError: if there is none, or several that are not steps of one run.
    """
    found = sorted(name for name in names if is_checkpoint(name))
    require(
        bool(found),
        f"No checkpoint in `{where}` (`step_1000`, `.pt` or `.safetensors`). Check the "
        "path or name.",
    )
    if len(found) == 1:
        return found
    folders = {PurePosixPath(name).parent for name in found}
    steps = {step: name for name in found if (step := step_of(name)) is not None}
    runs = {_STEP.sub("", name) for name in found}  # names without the step
    require(
        len(folders) == len(runs) == 1 and len(steps) == len(found),
        f"`{where}` has several checkpoints: {', '.join(found[:8])}. Name one, as "
        f"`{where}/{found[0]}`.",
    )
    return [steps[step] for step in sorted(steps)]


def is_checkpoint(name: str) -> bool:
    """Return True for a name that a file of weights may have."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    if hidden or _OTHER.fullmatch(path.name):
        return False
    return path.suffix in SUFFIXES


def step_of(name: str) -> int | None:
    """Return the step in the name of a checkpoint (`step_1000`); None without one."""
    found = _STEP.search(PurePosixPath(name).name)
    return int(found[1]) if found else None


def _beside(path: Path) -> Path | None:
    config = path.parent / FILE
    return config if config.is_file() else None


def _download(model: str, path: str, every: bool) -> list[tuple[Path, Path | None]]:
    """Download checkpoints and their `all_config.yaml` to the hub's cache."""
    from huggingface_hub import HfApi, hf_hub_download

    def attempt(call: Callable[[], str | list[str]], what: str) -> str | list[str]:
        try:
            return call()
        except Exception as error:
            raise UserError(
                f"Could not download {what} of the Hugging Face model `{model}` "
                f"({brief(error)}). Check the name, or download the file and name it."
            ) from error

    files = attempt(lambda: HfApi().list_repo_files(model), "the list of files")
    inside = [f for f in files if not path or f == path or f.startswith(f"{path}/")]
    where = f"{model}/{path}".strip("/")
    chosen = [path] if path in files else choose(inside, where)
    fetch = lambda name: Path(
        str(attempt(lambda: hf_hub_download(model, name), f"`{name}`"))
    )
    config = str(PurePosixPath(chosen[0]).with_name(FILE))
    beside = fetch(config) if config in files else None
    return [(fetch(name), beside) for name in (chosen if every else chosen[-1:])]
