"""What a run records of itself: `config.json`, written and read.

It holds every setting, and under `recorded` what the data and the code were.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from configs import MAY_CHANGE, TrainGPT, TrainTRM, UserError, require
from data.storage import AnyPath, exists, open_path, read_text

Config = TypeVar("Config", TrainGPT, TrainTRM)
Sizes = dict[str, int]
"""Sizes that come from the data, by the names that the model's `build` asks for."""

CONFIGS = {"trm": TrainTRM, "gpt": TrainGPT}
"""Kinds of model, each with a recipe `train/<kind>.py`."""


# -- a configuration as JSON -----------------------------------------------------------


def settings(config: Any) -> dict[str, Any]:
    """A configuration as JSON gives it back; unions of classes say which it is."""
    return json.loads(json.dumps(_plain(config)))


def _plain(value: Any, hint: Any = None) -> Any:
    if not dataclasses.is_dataclass(value):
        return value
    hints = typing.get_type_hints(type(value))
    fields = {
        field.name: _plain(getattr(value, field.name), hints[field.name])
        for field in dataclasses.fields(value)
    }
    return {"class": type(value).__name__, **fields} if _is_union(hint) else fields


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def from_settings(kind: type[Config], tree: dict[str, Any]) -> Config:
    """The configuration of this kind that `settings` has written.

    Raises:
        UserError: if it has settings that this version does not know.
    """
    try:
        return _parsed(kind, tree)
    except (TypeError, KeyError) as error:
        raise UserError(
            f"`config.json` must be that of a {kind.__name__} of this version: it has "
            f"another setting ({error}). Use the version that made the run."
        ) from error


def _parsed(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    if _is_union(hint):
        # A run of the first version does not say the class: what made its data is
        # then unknown, and needed no more.
        kinds = {kind.__name__: kind for kind in typing.get_args(hint)}
        if "class" not in value:
            return None
        hint = kinds[value["class"]]
        value = {name: part for name, part in value.items() if name != "class"}
    hints = typing.get_type_hints(hint)
    return hint(**{name: _parsed(hints[name], part) for name, part in value.items()})


def differences(
    old: dict[str, Any], new: dict[str, Any], may: Sequence[str] = MAY_CHANGE
) -> list[str]:
    """Settings that differ and are none that `may`, as `name: old -> new`.

    One that the old settings lack is younger than their run, which had its default.
    """
    defaults = _flat(settings(TrainTRM() if new.get("act") else TrainGPT()))
    before, after = defaults | _flat(old), _flat(new)
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(_flat(old).keys() | after.keys())
        if before.get(name) != after.get(name)
        and not any(name == m or name.startswith(m + ".") for m in may)
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


# -- the file --------------------------------------------------------------------------


def read_config(folder: AnyPath) -> dict[str, Any] | None:
    """What `config.json` says; None if it is missing.

    Raises:
        UserError: if it is damaged.
    """
    return _read(folder / "config.json")


def _read(path: AnyPath) -> dict[str, Any] | None:
    """What a `config.json` says; None if it is missing."""
    if not exists(path):
        return None
    try:
        config = json.loads(read_text(path))
        valid = isinstance(config, dict)
    except (ValueError, RecursionError):
        config, valid = {}, False
    require(
        valid,
        f"`{path}` must hold the configuration of the run: it is damaged. If this "
        "command is surely the one that made the run, remove the file and go on; else "
        "choose another `--config.run-dir`.",
    )
    return config


def recorded_run(run_dir: str | AnyPath) -> tuple[str, Any, dict[str, Any]]:
    """The kind, the configuration and the record of a run.

    Raises:
        UserError: if there is no such run.
    """
    return read_settings(open_path(run_dir) / "config.json")


def read_settings(path: AnyPath) -> tuple[str, Any, dict[str, Any]]:
    """The kind, the configuration and the record that a `config.json` holds.

    Raises:
        UserError: if there is no such file, or it is of no run.
    """
    tree = _read(path)
    require(
        tree is not None,
        f"A run must have a `config.json`: there is no `{path}`. Check the path.",
    )
    assert tree is not None
    kind = recorded_kind(tree)
    require(
        kind in CONFIGS,
        f"A run must be of one of the kinds {', '.join(CONFIGS)}: `{path}` is of "
        f"`{kind}`. Use the version that made it.",
    )
    config = from_settings(CONFIGS[kind], without_record(tree))
    return kind, config, tree.get("recorded", {})


def recorded_kind(tree: dict[str, Any]) -> str:
    """The kind of model of the run whose `config.json` this is."""
    kind = tree.get("recorded", {}).get("kind")
    return kind or ("trm" if "act" in tree else "gpt")


def require_kind(found: str, where: str | AnyPath, *configs: type) -> None:
    """Raise `UserError` unless the kind of model found there has such settings."""
    require(
        CONFIGS.get(found) in configs,
        f"A run must go on with the script that began it: `{where}` is of "
        f"`train.{found}`. Use `python -m train.{found}`.",
    )


def without_record(tree: dict[str, Any]) -> dict[str, Any]:
    """The settings alone of what `config.json` says."""
    return {name: value for name, value in tree.items() if name != "recorded"}
