"""What `--help` and `--help-all` print, and that it is right."""

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import tyro

import train.gpt
import train.trm
from train import cli
from train.help import WIDTH, docstrings, full, settings, short, wrap
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
def test_help_is_short_and_begins_with_examples(
    module: Any, presets: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(module, presets, ["--help"], capsys)
    assert len(lines) < 150
    assert max(map(len, lines)) <= WIDTH
    assert f"    python -m {module.__name__} [PRESET]" in lines[2]
    examples = [line.split() for line in lines if "python -m" in line][1:]
    assert len(examples) == 3
    for _, _, name, *argv in examples:
        assert name == module.__name__
        cli.parse(presets, module.__doc__, argv)
    flags = [line.split()[0] for line in lines if line.startswith("  --config")]
    assert flags[0] == "--config.run-dir"
    assert "--config.batch-size" in flags[:3]


@pytest.mark.parametrize(("module", "presets"), SCRIPTS)
def test_all_of_it_are_the_flags_that_there_are(
    module: Any, presets: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that tyro takes, but for the choice of how to build the data."""
    name = list(presets)[1]
    lines = printed(module, presets, [name, "--help-all"], capsys)
    assert max(map(len, lines)) <= WIDTH
    config = presets[name][1]
    kind = tyro.conf.AvoidSubcommands[type(config)]
    with pytest.raises(SystemExit):
        tyro.cli(kind, default=config, args=["--help"], prog="x")
    theirs = set(re.findall(r"--[A-Za-z][\w.-]+", capsys.readouterr().out))
    start = lines.index(f"All settings (in brackets: as they are in `{name}`):")
    ours = {
        flag.replace("--config.", "--").rstrip(",")
        for line in lines[start:]
        if line.startswith("  --config")
        for flag in re.findall(r"--config[\w.-]+", line)
    }
    assert ours == theirs - {"--help", "--data.build"}


@pytest.mark.parametrize("say", [short, full])
@pytest.mark.parametrize(("module", "presets"), SCRIPTS)
def test_lines_break_where_they_must(module: Any, presets: Any, say: Any) -> None:
    """The first word of the next line of a paragraph would not have fitted."""
    lines = say(module.__doc__, presets, next(iter(presets)))
    indent = lambda line: len(line) - len(line.lstrip())
    for line, following in pairwise(lines):
        if indent(line) == indent(following) == 6:
            assert len(line) + 1 + len(following.split()[0]) > WIDTH, line


def test_values_are_those_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["quickstart", "--config.seed", "3", "-h"]
    lines = printed(train.trm, TRM_PRESETS, argv, capsys)
    assert "  --config.batch-size INT  (16)" in lines
    config = replace(TRM_PRESETS["quickstart"][1], run_dir="here")
    found = {setting.name: setting.default for setting in settings(config)}
    assert found["run_dir"] == "here"
    assert found["data.build.size"] == 6
    assert found["model.H_cycles"] == 1


def test_the_program_has_its_name_in_messages(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.parse(TRM_PRESETS, str(train.trm.__doc__), ["--config.bach-size", "3"])
    assert "run python -m train.trm --help" in capsys.readouterr().err


def test_every_setting_says_what_it_is() -> None:
    for presets in (TRM_PRESETS, GPT_PRESETS):
        for _, config in presets.values():
            assert all(setting.about for setting in settings(config))


def test_docstrings_and_wrapping() -> None:
    class Kind:
        first: int = 1
        """What it is.
        In two lines."""
        second: int = 2
        third: int = 3
        """Third."""

    about = docstrings(Kind)
    assert about.keys() == {"first", "third"}
    assert wrap(about["first"], 2) == ["  What it is. In two lines."]
