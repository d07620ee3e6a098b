"""The command line of the train scripts: a preset by name, then fields to override."""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import tyro

from configs import require
from train.checkpoint import NonFiniteError

Config = TypeVar("Config")
Presets = Mapping[str, tuple[str, Config]]


def parse(
    presets: Presets[Config], description: str, argv: Sequence[str]
) -> tuple[str, Config]:
    """The preset's name and the configuration of a command line.

    Ends the process with a message if the command line cannot be understood.

    Args:
        presets: name to (one line on it, configuration); the first is the default.
        description: shown by `--help`.
        argv: the arguments.
    """
    names = tuple(presets)
    chosen = argv[0] if argv and argv[0] in names else names[0]
    lines = "\n".join(f"{name}: {presets[name][0]}" for name in names)
    help_text = f"Preset to start from.\n{lines}\n"
    kind = type(presets[chosen][1])
    name_type = Annotated[
        tyro.conf.Positional[Literal[names]],  # pyright: ignore[reportInvalidTypeForm]
        tyro.conf.arg(help=help_text),
    ]

    line: Any = dataclasses.make_dataclass(
        "CommandLine",
        [
            ("preset", name_type, dataclasses.field(default=names[0])),
            (
                "config",
                tyro.conf.AvoidSubcommands[kind],
                dataclasses.field(default=presets[chosen][1]),
            ),
        ],
        frozen=True,
    )
    given = tyro.cli(line, args=list(argv), description=description)
    require(
        given.preset == chosen,
        f"The preset must be the first argument: got `{given.preset}` after a flag. "
        f"Write `{given.preset} {' '.join(a for a in argv if a != given.preset)}`.",
    )
    return given.preset, given.config


def _is_ours(error: Exception) -> bool:
    """Whether this project raised the error on purpose, rather than a library."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    name = frame.tb_frame.f_globals.get("__name__", "") if frame else ""
    return name.split(".")[0] in ("__main__", "configs", "data", "gpt", "trm", "train")


def run(
    main: Callable[[str, Config], int], presets: Presets[Config], description: str
) -> None:
    """Parse the command line, run `main`, and exit with its status.

    A `ValueError` of ours is bad input: its message alone is printed, status 2. A loss
    that is not finite: status 1.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        preset, config = parse(presets, description, sys.argv[1:])
        status = main(preset, config)
    except (ValueError, NonFiniteError) as error:
        if not _is_ours(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        status = 1 if isinstance(error, NonFiniteError) else 2
    except OSError as error:
        advice = "Check the path, its rights and the room left."
        print(f"error: {error}. {advice}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
