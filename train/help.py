"""Text of `--help` (common settings) and `--help-all` (every setting)."""

import ast
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

WIDTH = 80

COMMON = (
    *("run_dir", "data.paths", "data.path", "batch_size", "epochs", "max_iters"),
    *("run.wandb", "run.tensorboard", "seed", "seeds", "precision", "init_from"),
    *("microbatch_size", "accumulation", "optim.lr"),
    *("eval.epochs", "eval.interval", "eval.puzzles", "eval.iters", "run.eval_only"),
    *("run.log_every", "run.save_every", "run.profile"),
    *("mesh.data", "mesh.model", "mesh.distributed"),
)
"""Settings in `--help`, in this order."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a configuration."""

    name: str
    """With the parts that contain it, like `model.dim`."""

    values: str
    """Accepted values, like `INT|None`."""

    default: Any
    about: str

    def __str__(self) -> str:
        part, _, field = f"--config.{self.name.replace('_', '-')}".rpartition(".")
        flag = f"{part}.{field}"
        if isinstance(self.default, bool):
            flag += f", {part}.no-{field}"
        value = self.default
        if isinstance(value, tuple):
            value = " ".join(map(str, value))
        value = "empty" if value == "" else value
        head = " ".join(filter(None, (flag, self.values, f"({value})")))
        return f"{_wrap(head, 2, 8)}\n{_wrap(self.about, 6)}"


def _wrap(text: str, first: int, rest: int | None = None) -> str:
    """Wrap text to `WIDTH`, with the indentations of the first and the other lines."""
    return textwrap.fill(
        re.sub(r"\n\s*", " ", text),
        WIDTH,
        initial_indent=" " * first,
        subsequent_indent=" " * (first if rest is None else rest),
        break_on_hyphens=False,
        break_long_words=False,
    )


def docstrings(kind: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass and its bases."""
    texts = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for node, below in zip(definition.body, definition.body[1:], strict=False):
            match node, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    texts[name] = text
    return texts


def _describe(hint: Any) -> str:
    """Return the accepted values of a type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin in (types.UnionType, typing.Union):
        return "|".join(map(_describe, arguments))
    if origin is tuple:
        return f"[{_describe(arguments[0])} ...]"
    if hint is bool:
        return ""
    return "None" if hint is type(None) else hint.__name__.upper()


def settings(config: Any, prefix: str = "") -> Iterator[Setting]:
    """Yield all settings of a configuration, then the settings of its parts."""
    hints, about = typing.get_type_hints(type(config)), docstrings(type(config))
    parts = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            parts.append((value, f"{name}."))
        elif name != "data.build":  # None, which is no flag: see `cli.parse`
            text = about.get(field.name, "")
            yield Setting(name, _describe(hints[field.name]), value, text)
    for value, name in parts:
        yield from settings(value, name)


def help_text(
    about: str, presets: Mapping[str, tuple[str, Any]], preset: str, *, full: bool
) -> str:
    """Return the help: examples, presets, and common or all settings.

    Args:
        about: the docstring of the script.
        presets: name to (description, configuration).
        preset: its values are shown.
        full: show all settings.
    """
    known = {setting.name: setting for setting in settings(presets[preset][1])}
    column = max(map(len, presets)) + 4
    lines = [about.strip(), "", "Presets (the default first):"]
    for name, (text, _) in presets.items():
        lines.append(_wrap(f"{name:{column - 2}}{text}", 2, column))
    lines += ["", f"Common settings (in parentheses: the value in `{preset}`):"]
    lines += [str(known[name]) for name in COMMON if name in known]
    lines += ["", "Instead of a preset:"]
    lines += ["  --config.run-dir RUN  Resume a run with all its settings."]
    lines += ["  --config-file FILE  Start a run with the settings of a `config.json`."]
    lines += ["", "With or without a preset:"]
    lines += [
        "  --config-file FILE  Override settings by lines like `optim.lr = 1e-3`."
    ]
    if not full:
        return "\n".join([*lines, "", f"All {len(known)} settings: --help-all"])
    lines += ["", f"All settings (in parentheses: the value in `{preset}`):"]
    part = None
    for name, setting in known.items():
        if name.rpartition(".")[0] != part:
            part = name.rpartition(".")[0]
            lines += ["", f"{part or 'the run'}:"]
        lines.append(str(setting))
    return "\n".join(lines)
