"""Bad input gets a message with the offending value, never a traceback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from configs import TRMConfig, UserError
from data.folder import check_vacant
from data.puzzles.arc.tasks import as_grid, read_task
from data.puzzles.kind import read_numbers
from data.puzzles.questions import decode, text_of
from data.puzzles.sudoku.extreme import read_csv
from data.storage import require_writable
from data.text.dataset import TokenDataset
from data.text.reading import read_text
from data.text.tokenizer import Characters
from train import compile, evaluate, plot
from train.runs.loading import load_run
from train.runs.record import parse
from train.runs.run_dir import make_folder
from trm import convert, solve
from trm.official.all_config import train_config
from trm.official.state_dict import write_state_dict


def case(name: str, make: Callable[[Path], Any], value: str) -> Any:
    """Return a case: a call with an empty folder, and what its message contains."""
    return pytest.param(make, value, id=name)


def write(path: Path, content: str | bytes = "") -> Path:
    """Write a file, in folders that may be missing; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def link(path: Path) -> Path:
    """Return a link to a folder."""
    (path.parent / "link").symlink_to(path)
    return path.parent / "link"


def evaluate_to(*words: str) -> Any:
    """Evaluate a run that is missing: the output is checked before."""
    return evaluate.main(["--run-dir", "no-such-run", *words])


def a_run(tmp: Path) -> Path:
    """Make what looks like the directory of a run."""
    (tmp / "run" / "checkpoints").mkdir(parents=True)
    config = '{"batch_size": 8, "recorded": {"kind": "trm"}}'
    return write(tmp / "run" / "config.json", config).parent


def tokens(folder: Path, numbers: Any, kind: str, characters: str = "") -> Any:
    """Open a file of tokens that has this type, and perhaps a vocabulary."""
    np.asarray(numbers).astype(kind).tofile(folder / "train.bin")
    if characters:
        Characters(characters).write(folder)
    return TokenDataset(folder, "train", block_size=2, batch_size=2)


def config(**settings: Any) -> Any:
    """Read the `config.json` of a run of a TRM."""
    return parse({"batch_size": 8, "recorded": {"kind": "trm"}, **settings}, "run")


def sizes(sizes: Any) -> Any:
    """Read the sizes in the `config.json` of a run of a TRM."""
    return config(recorded={"kind": "trm", "sizes": sizes})


def options(**options: Any) -> Any:
    """Read official options."""
    return train_config(TRMConfig(), options)


def arch(**arch: Any) -> Any:
    """Read official options of the model."""
    return options(arch=arch)


OUTPUTS = [
    case("a folder", lambda tmp: require_writable(tmp), "it is a folder"),
    case("in a file", lambda tmp: require_writable(write(tmp / "a") / "b"), "a/b"),
    case("plot: store", lambda tmp: plot.save(Figure(), "s3://b/a.svg"), "s3://b"),
    case("evaluate: store", lambda tmp: evaluate_to("--out", "s3://b/a"), "s3://b/a"),
    case("evaluate: folder", lambda tmp: evaluate_to("--out", f"{tmp}"), "a folder"),
    case(
        "evaluate: predictions",
        lambda tmp: evaluate_to("--predictions", f"{write(tmp / 'a')}/p.npz"),
        "a/p.npz",
    ),
    case(
        "solve: store",
        lambda tmp: solve.main(["--run-dir", "r", "--out", "s3://b/pictures"]),
        "s3://b/pictures",
    ),
    case(
        "export: store",
        lambda tmp: convert.main(["--to-official", "r", "--out", "gs://b/a.pt"]),
        "gs:/b/a.pt",
    ),
    case(
        "export: exists",
        lambda tmp: write_state_dict({}, write(tmp / "there.pt")),
        "there.pt exists",
    ),
    case(
        "compile: top",
        lambda tmp: compile.main(["quickstart", "--top", "-1"]),
        "-1",
    ),
    case(
        "compile: store",
        lambda tmp: compile.main(["quickstart", "--json", "s3://b/a.jsonl"]),
        "s3://b/a.jsonl",
    ),
]

# The directory of a run is written by its run alone.
RUNS = [
    case(
        "link to a run", lambda tmp: require_writable(link(a_run(tmp)) / "a"), "link/a"
    ),
    case(
        "evaluate: run",
        lambda tmp: evaluate_to("--out", f"{a_run(tmp)}/config.json"),
        "run/config.json",
    ),
    case(
        "compile: run",
        lambda tmp: compile.main(["quickstart", "--json", f"{a_run(tmp)}/a.jsonl"]),
        "run/a.jsonl",
    ),
    case(
        "plot: run",
        lambda tmp: plot.save(Figure(), a_run(tmp) / "checkpoints" / "4" / "a.svg"),
        "checkpoints/4/a.svg",
    ),
    case(
        "folder in a run", lambda tmp: check_vacant(a_run(tmp) / "export"), "run/export"
    ),
]

# `config.json` of a run.
NAN, INF = float("nan"), float("inf")
SIZES = {"vocab": 11, "seq": 81, "puzzles": 1}
CONFIGS = [
    case("dim: half", lambda tmp: config(model={"dim": 16.5}), "`model.dim` is 16.5"),
    case("dim: bool", lambda tmp: config(model={"dim": True}), "`model.dim` is True"),
    case("model: null", lambda tmp: config(model=None), "`model` is None"),
    case("a variant", lambda tmp: config(model={"variant": "what"}), "'what'"),
    case(
        "rate: word", lambda tmp: config(optim={"lr": "1e-4"}), "`optim.lr` is '1e-4'"
    ),
    case("rate: nan", lambda tmp: config(optim={"lr": NAN}), "nan"),
    case("path: word", lambda tmp: config(data={"paths": "a"}), "`data.paths` is 'a'"),
    case("a class", lambda tmp: config(data={"build": {"class": "What"}}), "'What'"),
    case("record: null", lambda tmp: config(recorded=None), "NoneType"),
    case("kind: list", lambda tmp: config(recorded={"kind": []}), "list"),
    case("size: word", lambda tmp: sizes(SIZES | {"seq": "81"}), "`seq` is '81'"),
    case("size: half", lambda tmp: sizes(SIZES | {"seq": 81.5}), "`seq` is 81.5"),
    case("size: negative", lambda tmp: sizes(SIZES | {"seq": -1}), "`seq` is -1"),
    case("no size", lambda tmp: sizes({"vocab": 11}), "seq"),
    case("no sizes", lambda tmp: load_run(a_run(tmp)), "has no `sizes`"),
    case("a name", lambda tmp: make_folder(tmp / "\udcff"), r"\xff"),
]

# An official `all_config.yaml`.
OPTIONS = [
    case("lr: nan", lambda tmp: options(lr=NAN), "nan"),
    case("lr: word", lambda tmp: options(lr="1e-4"), "'1e-4'"),
    case("epochs: inf", lambda tmp: options(epochs=INF), "inf"),
    case("epochs: huge", lambda tmp: options(epochs=10**400), "1000000"),
    case("seed: half", lambda tmp: options(seed=0.5), "0.5"),
    case("batch: list", lambda tmp: options(global_batch_size=[8]), "[8]"),
    case("ema: word", lambda tmp: options(ema="False"), "'False'"),
    case("ema_rate: word", lambda tmp: options(ema=True, ema_rate="half"), "'half'"),
    case("paths: number", lambda tmp: options(data_paths=5), "5"),
    case("paths: numbers", lambda tmp: options(data_paths=[5]), "[5]"),
    case("dtype: list", lambda tmp: arch(forward_dtype=["float32"]), "['float32']"),
    case("loss: word", lambda tmp: arch(loss="mse"), "'mse'"),
    case("loss: list", lambda tmp: arch(loss={"loss_type": [1]}), "[1]"),
    case("continue: word", lambda tmp: arch(no_ACT_continue="no"), "'no'"),
    case("steps: bool", lambda tmp: arch(halt_max_steps=True), "True"),
]

TEN, LETTERS = np.arange(2000) * 7 % 10, "abcdefghij"
TOKENS = [
    case("uint32", lambda tmp: tokens(tmp, TEN, "<u4", LETTERS), "train.bin is 0"),
    case("int64", lambda tmp: tokens(tmp, TEN, "<i8", LETTERS), "train.bin is 0"),
    case("big-endian", lambda tmp: tokens(tmp, TEN, ">u4", LETTERS), "train.bin is 0"),
    case("float32", lambda tmp: tokens(tmp, TEN, "<f4", LETTERS), "train.bin is 0"),
    case("GPT-2 as uint32", lambda tmp: tokens(tmp, 9 * TEN, "<u4"), "train.bin is 0"),
    case("shard", lambda tmp: tokens(tmp, [20240520, 1, 9], "<i4"), "20240520"),
    case("Llama's shard", lambda tmp: tokens(tmp, [20240801, 7, 9], "<i4"), "20240801"),
    case("no meta.pkl", lambda tmp: tokens(tmp, TEN, "<u2"), "have characters"),
    case("bytes", lambda tmp: tokens(tmp, TEN, "u1"), "have characters"),
    case(
        "a cut file",
        lambda tmp: tokens(
            write(tmp / "dataset.json", '{"train_tokens": 4321}').parent, TEN, "<u2"
        ),
        "4321",
    ),
]


NO_OUTPUT = '{"train": [{"input": [[1]], "output": null}], "test": []}'
PUZZLES = [
    case("ARC: color", lambda tmp: as_grid([[10**4200]]), "the color 1000"),
    case(
        "ARC: no output",
        lambda tmp: read_task(write(tmp / "a.json", NO_OUTPUT)),
        "got ['input']",
    ),
    case("numbers: digits", lambda tmp: read_numbers("9" * 5000, 1, 7), "'9999"),
    case("CSV: titles", lambda tmp: read_csv(write(tmp / "a.csv", "id,b")), "id,b"),
    case(
        "CSV: no rating",
        lambda tmp: read_csv(write(tmp / "a.csv", "quizzes,solutions"), 1),
        "quizzes,solutions",
    ),
    case(
        "UTF-16",
        lambda tmp: decode("12\n".encode("utf-16-le"), "standard input"),
        "standard input is not (it has null",
    ),
    case(
        "UTF-16 with a mark",
        lambda tmp: text_of(f"{write(tmp / 'a.txt', '12'.encode('utf-16'))}"),
        "a.txt is not ('utf-8' codec can't decode byte 0xff",
    ),
    case(
        "text: Latin-1",
        lambda tmp: [*read_text([write(tmp / "a", b"\xef\xbb\xbfab\xff")])],
        "byte 5",
    ),
]


@pytest.mark.parametrize(
    ("make", "value"),
    [
        *OUTPUTS,
        *RUNS,
        *TOKENS,
        *CONFIGS,
        *OPTIONS,
        *PUZZLES,
    ],
)
def test_bad_input(
    make: Callable[[Path], Any],
    value: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a `UserError`, or as a message of the command line."""
    with pytest.raises((UserError, SystemExit)) as error:
        make(tmp_path)
    assert value in f"{error.value}{capsys.readouterr().err}"
