"""What the train scripts say when asked: `--help` in short, `--help-all` in full."""

import ast
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

WIDTH = 80

OFTEN = (
    *("run_dir", "data.paths", "data.path", "batch_size", "epochs", "max_iters"),
    *("run.wandb", "run.tensorboard", "seed", "seeds", "precision", "init_from"),
    *("microbatch_size", "accumulation", "optim.lr"),
    *("eval.epochs", "eval.interval", "eval.puzzles", "eval.iters", "run.eval_only"),
    *("run.log_every", "run.save_every", "run.profile"),
    *("mesh.data", "mesh.model", "mesh.distributed"),
)
"""What people change most, in the order in which it is shown."""


@dataclass(frozen=True)
class Setting:
    """One field of a configuration."""

    name: str
    """With the names of what it is part of, `model.dim`."""

    values: str
    """What it takes, in short."""

    default: Any
    about: str

    def lines(self) -> list[str]:
        """In print: the flag, then the sentences."""
        part, _, own = f"--config.{self.name.replace('_', '-')}".rpartition(".")
        flag = f"{part}.{own}"
        if isinstance(self.default, bool):
            flag += f", {part}.no-{own}"
        value = self.default
        if isinstance(value, tuple):
            value = " ".join(map(str, value))
        value = "empty" if value == "" else value
        head = " ".join(word for word in (flag, self.values, f" ({value})") if word)
        return [*wrap(head, 2, 8), *wrap(self.about, 6)]


def wrap(text: str, indent: int, later: int | None = None) -> list[str]:
    """Sentences in lines of at most `WIDTH` characters, indented.

    Args:
        text: may have line breaks, which are of its source and do not count.
        indent: of the first line.
        later: of the others; None for the same.
    """
    return textwrap.wrap(
        re.sub(r"\n\s*", " ", text),
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent if later is None else later),
        break_on_hyphens=False,
        break_long_words=False,
    )


@cache
def docstrings(kind: type) -> dict[str, str]:
    """What stands below each field of a dataclass."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    (definition,) = tree.body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            value = below.value if isinstance(below, ast.Expr) else None
            if isinstance(value, ast.Constant):
                found[field.target.id] = str(value.value)
    return found


def describe(hint: Any) -> str:
    """What a type takes, in short."""
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "{" + ",".join(map(str, kinds)) + "}"
    if origin in (types.UnionType, typing.Union):
        return "|".join(map(describe, kinds))
    if origin is tuple:
        return f"[{describe(kinds[0])} ...]"
    if hint is bool:
        return ""
    return "None" if hint is type(None) else hint.__name__.upper()


def settings(config: Any, prefix: str = "") -> Iterator[Setting]:
    """All settings of a configuration, those of its parts after its own."""
    hints, about = typing.get_type_hints(type(config)), docstrings(type(config))
    parts = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            parts.append((value, f"{name}."))
        elif name != "data.build":  # None; `train/cli.py` says why it is no flag
            text = about.get(field.name, "")
            yield Setting(name, describe(hints[field.name]), value, text)
    for value, name in parts:
        yield from settings(value, name)


def short(about: str, presets: Mapping[str, tuple[str, Any]], preset: str) -> list[str]:
    """The most useful: examples, presets, what is changed most."""
    known = {setting.name: setting for setting in settings(presets[preset][1])}
    column = max(map(len, presets)) + 4
    lines = [*about.strip().splitlines(), "", "Presets, the first without a name:"]
    for name, (text, _) in presets.items():
        first, *rest = wrap(text, column)
        lines += [f"  {name:{column - 2}s}{first.lstrip()}", *rest]
    lines += ["", f"What is changed most (in brackets: as it is in `{preset}`):"]
    for name in OFTEN:
        lines += known[name].lines() if name in known else []
    lines += ["", "Other starting points than a preset:"]
    lines += ["  --config.run-dir RUN  A run that goes on, with all its settings."]
    lines += ["  --config-file FILE  The `config.json` of any run, for a new one."]
    return [*lines, "", f"All {len(known)} settings: --help-all"]


def full(about: str, presets: Mapping[str, tuple[str, Any]], preset: str) -> list[str]:
    """Everything, part by part."""
    lines, part = short(about, presets, preset)[:-1], None
    lines += [f"All settings (in brackets: as they are in `{preset}`):"]
    for setting in settings(presets[preset][1]):
        if setting.name.rpartition(".")[0] != part:
            part = setting.name.rpartition(".")[0]
            lines += ["", f"{part or 'the run'}:"]
        lines += setting.lines()
    return lines
