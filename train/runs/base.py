"""The configuration that a command line starts from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from configs import require
from data.storage import open_path
from train.runs.loading import has_checkpoint
from train.runs.record import recorded_run, require_config, require_kind
from train.runs.settings_file import command_line

FILE, RUN = "--config-file", "--config.run-dir"


def starting_point(
    presets: Mapping[str, tuple[str, Any]], argv: Sequence[str]
) -> tuple[str, Any, list[str]]:
    """Return a preset's name, the configuration to override, and the other arguments.

    The configuration is the first available: the named preset; a `config.json`
    (`--config-file`), without its run directory; a run that has a checkpoint
    (`--config.run-dir`); the first preset. Another file has settings, which come before
    the other arguments.

    Args:
        presets: name to (summary, configuration).
        argv: the arguments.

    Raises:
        UserError: if a run or file is of another kind of model, or cannot be read.
    """
    file, argv = _take(FILE, argv)
    named = argv[0] if argv and argv[0] in presets else None
    if file and not file.endswith(".json"):
        at = 0 if named is None else 1
        argv, file = [*argv[:at], *command_line(file), *argv[at:]], ""
    run_dir, _ = _take(RUN, argv)
    if file:
        require(
            named is None,
            f"A command starts from a preset or a file: got `{named}` and "
            f"`{FILE} {file}`. Leave out one.",
        )
        config, record = require_config(open_path(file))
        config = dataclasses.replace(config, run_dir="")
    elif named is None and has_checkpoint(run_dir):
        config, record = recorded_run(run_dir)
    else:
        name = named or next(iter(presets))
        return name, presets[name][1], argv
    pairs = reversed([*presets.items()])
    names = {type(preset): name for name, (_, preset) in pairs}
    require_kind(config, file or run_dir, *names)
    return record.get("preset") or names[type(config)], config, argv


def _take(flag: str, argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the last value of a flag (else ""), and the arguments without it."""
    value, rest, words = "", [], iter(argv)
    for word in words:
        name, equals, after = word.partition("=")
        if name.replace("_", "-") == flag:
            value = after if equals else next(words, "")
        else:
            rest.append(word)
    return value, rest


def checked(config: Any, base: Any) -> Any:
    """Return the configuration with its flags, safe against mistyped paths.

    Missing data are built only where the base has them, or where flags say how.

    Raises:
        UserError: if there is no run to evaluate.
    """
    require(
        not (config.run.eval_only and config.run_dir and config.init_from == "scratch")
        or has_checkpoint(config.run_dir),
        f"No checkpoint to evaluate in `{config.run_dir}`. Give the directory of a run "
        "(`--config.run-dir`) or weights (`--config.init-from`); without either, fresh "
        "weights are evaluated.",
    )
    paths = lambda data: getattr(data, "paths", None) or data.path
    moved = paths(config.data) != paths(base.data)
    if moved and config.data.build == base.data.build:
        data = dataclasses.replace(config.data, build=None)
        return dataclasses.replace(config, data=data)
    return config
