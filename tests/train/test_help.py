"""`--help` and `--help-all` against the settings and flags that exist."""

import dataclasses
import re
from typing import Any

import pytest
import tyro

import configs
import train.gpt
import train.trm
from train import cli
from train.help import docstrings
from train.presets import GPT_PRESETS, TRM_PRESETS

SCRIPTS = [(train.trm, TRM_PRESETS), (train.gpt, GPT_PRESETS)]


def printed(
    module: Any, presets: Any, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> list[str]:
    with pytest.raises(SystemExit) as caught:
        cli.parse(presets, module.__doc__, argv)
    assert caught.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("module", "presets"), SCRIPTS)
def test_help_is_short_and_its_examples_work(
    module: Any, presets: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(module, presets, ["--help"], capsys)
    assert len(lines) < 150
    examples = [line.split() for line in lines if "python -m" in line][1:]
    assert len(examples) == 3
    for _, _, name, *argv in examples:
        assert name == module.__name__
        cli.parse(presets, module.__doc__, argv)
    assert all(any(name in line for line in lines) for name in presets)


@pytest.mark.parametrize(("module", "presets"), SCRIPTS)
def test_help_all_shows_every_flag(
    module: Any, presets: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compared with tyro's help, except for the choice of the dataset's builder."""
    name = list(presets)[1]
    ours = " ".join(printed(module, presets, [name, "--help-all"], capsys))
    config = presets[name][1]
    kind = tyro.conf.AvoidSubcommands[type(config)]
    with pytest.raises(SystemExit):
        tyro.cli(kind, default=config, args=["--help"], prog="x")
    flags = lambda text: set(re.findall(r"--[A-Za-z][\w.-]+", text))
    expected = flags(capsys.readouterr().out) - {"--help", "--data.build"}
    found = {flag.replace("--config.", "--") for flag in flags(ours)}
    assert found - {"--config-file", "--FIELD"} == expected


def test_help_shows_the_values_of_the_preset(
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["quickstart", "--config.seed", "3", "-h"]
    lines = printed(train.trm, TRM_PRESETS, argv, capsys)
    size = TRM_PRESETS["quickstart"][1].batch_size
    assert f"  --config.batch-size INT ({size})" in lines


def test_every_field_has_a_docstring() -> None:
    for kind in vars(configs).values():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            for field in dataclasses.fields(kind):
                part = dataclasses.is_dataclass(field.type)
                named = field.name in docstrings(kind) or kind is configs.Piecewise
                assert part or named, f"{kind.__name__}.{field.name}"
