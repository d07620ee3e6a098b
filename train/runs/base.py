"""What a command line starts from: a preset, a run that goes on, or a `config.json`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from configs import require
from data.storage import open_path
from train.runs.loading import has_checkpoint
from train.runs.record import read_settings, recorded_run, require_kind

FILE, RUN = "--config-file", "--config.run-dir"


def starting_point(
    presets: Mapping[str, tuple[str, Any]], argv: Sequence[str]
) -> tuple[str, Any, list[str]]:
    """The preset's name, the configuration that flags change, and the other arguments.

    A preset that is named goes first; then a file (`--config-file`), of which all but
    the run directory is taken; then a run that has a checkpoint (`--config.run-dir`);
    then the first preset.

    Args:
        presets: name to (one line on it, configuration).
        argv: the arguments.

    Raises:
        UserError: if a run or file is of another kind of model, or cannot be read.
    """
    (file, argv), (run_dir, _) = _take(FILE, argv), _take(RUN, argv)
    named = argv[0] if argv and argv[0] in presets else None
    if file is not None:
        require(
            named is None,
            f"A command must start from a preset or a file: got `{named}` and "
            f"`{FILE} {file}`. Leave out one.",
        )
        kind, config, record = read_settings(open_path(file))
        config = dataclasses.replace(config, run_dir="")
    elif named is None and run_dir and has_checkpoint(run_dir):
        kind, config, record = recorded_run(run_dir)
    else:
        name = named or next(iter(presets))
        return name, presets[name][1], argv
    types = {name: type(one) for name, (_, one) in presets.items()}
    require_kind(kind, file or run_dir or "", *types.values())
    alike = (name for name in types if types[name] is type(config))
    return record.get("preset") or next(alike), config, argv


def _take(flag: str, argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The last value of a flag in the arguments, and these without it.

    As for all flags, `_` is as good as `-`.
    """
    value, rest, words = None, [], iter(argv)
    for word in words:
        name, equals, given = word.partition("=")
        if name.replace("_", "-") == flag:
            value = given if equals else next(words, "")
        else:
            rest.append(word)
    return value, rest


def checked(config: Any, base: Any) -> Any:
    """A configuration after the flags, in which no mistyped path is taken for a wish.

    Data are made by themselves where the base has them or where flags say how; an
    evaluation alone needs a run, or weights.

    Raises:
        UserError: if there is no run to evaluate.
    """
    require(
        not (config.run.eval_only and config.run_dir and config.init_from == "scratch")
        or has_checkpoint(config.run_dir),
        f"An evaluation needs a checkpoint: there is none in `{config.run_dir}`. Name "
        "the directory of a run with `--config.run-dir`, or weights with "
        "`--config.init-from`; without either, fresh ones are evaluated.",
    )
    places = lambda data: getattr(data, "paths", None) or data.path
    moved = places(config.data) != places(base.data)
    if moved and config.data.build == base.data.build:
        data = dataclasses.replace(config.data, build=None)
        return dataclasses.replace(config, data=data)
    return config
