"""nanoGPT's options and files get an answer; files of settings are read, not run."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from configs import UserError
from tests.runs import ROOT
from train import cli
from train.help import settings
from train.nanogpt import OPTIONS
from train.presets import GPT_PRESETS

SMALL = GPT_PRESETS["shakespeare-char-cpu"][1]


def parse(*words: object) -> tuple[str, object]:
    return cli.parse(GPT_PRESETS, "", [str(word) for word in words])


def test_the_page_has_the_table_of_the_code() -> None:
    page = (ROOT / "docs" / "gpt.md").read_text()
    table = page.split("## nanoGPT's `train.py`")[1].split("\nAdditional here")[0]
    rows = re.findall(r"^\| `(\w.*?) \| (.*?) \|", table, re.MULTILINE)
    found = {}
    for names, ours in rows:
        names, ours = re.findall(r"\w+", names), re.findall(r"`([\w.-]+)`", ours)
        one_each = len(names) == len(ours)
        for i, name in enumerate(names):
            found[name] = ours[i : i + 1] if one_each else ours
    found.pop("torchrun")
    both = ["batch-size", "microbatch-size"]  # one is the product
    found |= {"batch_size": both, "gradient_accumulation_steps": both}
    assert {name: list(ours) for name, ours in OPTIONS.items()} == found


def test_our_names_exist() -> None:
    known = {setting.name.replace("_", "-") for setting in settings(SMALL)}
    assert {option for options in OPTIONS.values() for option in options} <= known


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n_layer=4"], "`n_layer` is `--config.model.n-layer`"),
        (["shakespeare-char", "--min_lr", "1e-4"], "`--config.optim.min-ratio`"),
        (["--device=cpu", "--batch_size=8"], "`device` is not needed; `batch_size`"),
        (["config/train_gpt2.py"], "--config-file"),
        (["--config-file", "nowhere.py"], r"nowhere\.py"),
    ],
)
def test_habits_get_an_answer(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(*words)


def test_a_file_of_settings(tmp_path: Path) -> None:
    """Like the same words on the command line, where later ones win."""
    file = tmp_path / "mine.py"
    file.write_text(
        '"""A note."""\nbatch_size = 8  # sequences\nmodel.n_layer = 2\n'
        "model.bias = False\noptim.lr = 1e-2\nrun_dir = 'a b'\nseeds = 1, 2\n"
    )
    name, config = parse("shakespeare-char-cpu", "--config-file", file)
    model = replace(SMALL.model, n_layer=2, bias=False)
    optim = replace(SMALL.optim, lr=1e-2)
    expected = replace(
        SMALL, batch_size=8, model=model, optim=optim, run_dir="a b", seeds=(1, 2)
    )
    assert (name, config) == ("shakespeare-char-cpu", expected)
    _, config = parse(
        "shakespeare-char-cpu", f"--config-file={file}", "--config.batch-size", 12
    )
    assert config == replace(expected, batch_size=12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_layer = 4\nmin_lr = 1e-4", "model.n-layer`; .*optim.min-ratio"),
        ("model.n_layer = 2\nseed = 5 * 8", r"line 2 .*`5 \* 8`"),
        ("import time", "line 1 .*`import time`"),
        ("a = b = 3", "line 1"),
        ("seed = open('x', 'w')", "line 1"),
        ("seed = = 3", "invalid syntax"),
    ],
)
def test_other_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        parse("--config-file", tmp_path / "mine.txt")
