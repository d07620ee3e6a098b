"""`config.json`: every setting of a run, and under `recorded` its data and code."""

import builtins
import dataclasses
import json
import reprlib
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from configs import LARGEST, MAY_CHANGE, TrainGPT, TrainTRM, UserError, require
from data.storage import AnyPath, exists, open_path, read_text
from train.runs.published import find_model

Config = TypeVar("Config", TrainGPT, TrainTRM)

CONFIGS = {"trm": TrainTRM, "gpt": TrainGPT}
"""Configuration of each kind of model; the script is `train/<kind>.py`."""

SIZES = {"trm": ("vocab", "seq", "puzzles"), "gpt": ("tokens",)}
"""Sizes recorded for each kind of model."""

Recorded = tuple[Any, dict[str, Any]]
"""A configuration (`TrainTRM` or `TrainGPT`), and what was recorded with it: `kind`,
`sizes`, `data_hash` and more."""

# -- configurations and JSON -----------------------------------------------------------


def settings(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON values; members of a union have their class."""
    return json.loads(json.dumps(_plain(config)))


def _plain(value: Any, hint: Any = None) -> Any:
    if not dataclasses.is_dataclass(value):
        return value
    hints = typing.get_type_hints(type(value))
    fields = {name: _plain(part, hints[name]) for name, part in vars(value).items()}
    return {"class": type(value).__name__, **fields} if _is_union(hint) else fields


def _parsed(hint: Any, value: Any, name: str = "") -> Any:
    """Undo `_plain`.

    Raises:
        TypeError: if a value, of the setting `name`, is of another type.
        KeyError: if a setting is unknown.
    """
    if isinstance(value, dict) and _is_union(hint):
        kinds = typing.get_args(hint)
        classes = {kind.__name__: kind for kind in kinds}
        hint = classes[value.get("class", kinds[0].__name__)]  # once the only one
    if isinstance(value, dict) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        fields = {field: part for field, part in value.items() if field != "class"}
        inside = f"{name}." if name else ""
        parsed = {f: _parsed(hints[f], part, inside + f) for f, part in fields.items()}
        return hint(**parsed)  # pyright: ignore[reportCallIssue]
    if not _fits(hint, value):
        raise TypeError(f"`{name}` is {reprlib.repr(value)}")
    return tuple(value) if isinstance(value, list) else value


def _fits(hint: Any, value: Any) -> bool:
    """Return True if a JSON value that is no object may be of this type."""
    choices = typing.get_args(hint)
    if _is_union(hint):
        return any(_fits(choice, value) for choice in choices)
    match typing.get_origin(hint) or hint:
        case typing.Literal:
            return value in choices
        case builtins.tuple:
            return isinstance(value, list) and all(_fits(choices[0], v) for v in value)
        case builtins.float:
            return type(value) in (int, float)
        case kind:
            return type(value) is kind


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def parse(tree: dict[str, Any], where: str | AnyPath) -> Recorded:
    """Return the configuration and the record in the content of a `config.json`.

    A setting that is missing has its default.

    Args:
        tree: the content.
        where: its file or folder, for messages.

    Raises:
        UserError: if it has settings or a kind of model unknown to this version, or
            a value of another type or out of range.
    """
    try:
        record = tree["recorded"]
        fields = {name: part for name, part in tree.items() if name != "recorded"}
        config = _parsed(CONFIGS[record["kind"]], fields)
        for name in SIZES.get(record["kind"], ()) if record.get("sizes") else ():
            if not 0 < _parsed(int, record["sizes"][name], name) <= LARGEST:
                raise TypeError(f"`{name}` is {record['sizes'][name]}")
        return config, record
    except (TypeError, KeyError, UserError) as error:
        raise UserError(
            f"`{where}` is damaged or of another version of this project ({error}). "
            "Use the version that made the run, or restore the file from a copy."
        ) from error


def differences(old: Config, new: Config, may: Sequence[str] = MAY_CHANGE) -> list[str]:
    """Return the settings that differ and are not in `may`, as `name: old -> new`."""
    before, after = _flat(settings(old)), _flat(settings(new))
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
        and not any(name == m or name.startswith(m + ".") for m in may)
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat


# -- the file --------------------------------------------------------------------------


def read_config(path: AnyPath) -> Recorded | None:
    """Return the configuration and the record in a `config.json`; None without one.

    Raises:
        UserError: if it is damaged, or of another version.
    """
    if not exists(path):
        return None
    try:
        tree = json.loads(read_text(path))
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise UserError(
            f"`{path}` is damaged. If this command surely made the run, remove the "
            "file and repeat the command; else choose another `--config.run-dir`."
        )
    return parse(tree, path)


def require_config(path: AnyPath) -> Recorded:
    """Return the configuration and the record in a `config.json`.

    Raises:
        UserError: if there is none, it is damaged, or of another version.
    """
    config = read_config(path)
    if config is None:
        raise UserError(f"`{path}` does not exist. Check the path.")
    return config


def run_and_step(path: str | AnyPath) -> tuple[AnyPath, int | None]:
    """Return the folder of the run `RUN` or `RUN/checkpoints/STEP`, and the step."""
    path = open_path(path)
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        return path.parent.parent, int(path.name)
    return path, None


def recorded_run(run_dir: str | AnyPath, *kinds: type) -> Recorded:
    """Return the configuration and the record of a run, or of a published model.

    Args:
        run_dir: folder of the run, or of one of its checkpoints; or a published
            model, see `find_model`.
        kinds: types of the configurations that are accepted; all without any.

    Raises:
        UserError: if there is no such run, or it is of another kind.
    """
    run_dir, _ = run_and_step(run_dir)
    config, record = require_config(find_model(run_dir) / "config.json")
    require_kind(config, run_dir, *(kinds or CONFIGS.values()))
    return config, record


def require_kind(config: Any, where: str | AnyPath, *kinds: type) -> None:
    """Raise `UserError` unless the configuration in `where` is of one of the kinds."""
    scripts = {kind: f"`train.{name}`" for name, kind in CONFIGS.items()}
    require(
        type(config) in kinds,
        f"`{where}` is a run of {scripts[type(config)]}. Use that script, or a run of "
        f"{' or '.join(scripts[kind] for kind in kinds)}.",
    )
