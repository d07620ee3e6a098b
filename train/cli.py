"""The command line of the scripts: presets, overrides, a process's start and end."""

import ctypes
import dataclasses
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, NoReturn, TypeVar

from configs import RunError, UserError, require

Config = TypeVar("Config")
Presets = Mapping[str, tuple[str, Config]]

# Parameters of glibc's mallopt: see `man mallopt`.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` as the program of this process; exit with the status it returns.

    A signal ends the process at once, until the training loop has something to save.
    Output errors (closed pipe, full disk) never stop a run. Errors that a user can fix
    are messages, see `clean_exit`.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    keep_freed_memory()
    sys.stdout, sys.stderr = Output(sys.stdout), Output(sys.stderr)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with clean_exit():
        raise SystemExit(main())


class Output:
    """A text stream that is silent once it cannot be written to: closed, full, broken.

    All else is that of the stream it stands for.

    Attributes:
        lost: why something could not be written; None if nothing is lost.
    """

    def __init__(self, stream: Any):
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115
        self.lost = None if stream else ValueError("it is closed")

    def write(self, text: str) -> int:
        """Write as far as that goes."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flush as far as that goes."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: OSError | ValueError) -> None:
        """Write to nowhere from now on, what is still in the stream included."""
        self.lost = error
        nowhere = open(os.devnull, "w")  # noqa: SIM115
        with suppress(OSError, ValueError):
            os.dup2(nowhere.fileno(), self._stream.fileno())
        self._stream = nowhere

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def keep_freed_memory() -> None:
    """Let glibc keep memory that XLA frees, for the temporaries of the next step.

    Otherwise Linux reclaims it and maps it again, page by page, at every step. Call it
    before JAX starts its threads. A no-op with other C libraries.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**28)


def parse(
    presets: Presets[Config], about: str | None, argv: Sequence[str] | None = None
) -> tuple[str, Config]:
    """The preset's name and the configuration of a command line.

    Ends the process with a message if the command line cannot be understood, or asks
    for help.

    Args:
        presets: name to (one line on it, configuration); the first is the default.
        about: the script's docstring: what it does, and examples.
        argv: the arguments; None for the process's own.
    """
    import tyro

    from train import help

    argv, about = sys.argv[1:] if argv is None else argv, about or ""
    from train.runs.base import checked, starting_point

    names = tuple(presets)
    chosen = argv[0] if argv and argv[0] in names else names[0]
    if {"-h", "--help", "--help-all"} & set(argv):
        say = help.full if "--help-all" in argv else help.short
        print("\n".join(say(about, presets, chosen)))
        raise SystemExit(0)
    title, base, argv = starting_point(presets, argv)
    default, argv = _without_build(base, argv)
    kind = type(default)
    name_type = tyro.conf.Positional[Literal[names]]  # pyright: ignore[reportInvalidTypeForm]

    line: Any = dataclasses.make_dataclass(
        "CommandLine",
        [
            ("preset", name_type, dataclasses.field(default=names[0])),
            (
                "config",
                tyro.conf.AvoidSubcommands[kind],
                dataclasses.field(default=default),
            ),
        ],
        frozen=True,
    )
    program = re.search(r"python -m [\w.]+", about)
    given = tyro.cli(line, args=list(argv), prog=program and program.group())
    require(
        given.preset == chosen,
        f"The preset must be the first argument: got `{given.preset}` after a flag. "
        f"Write `{given.preset} {' '.join(a for a in argv if a != given.preset)}`.",
    )
    return title, checked(given.config, base)


def _without_build(config: Any, argv: Sequence[str]) -> tuple[Any, list[str]]:
    """The configuration and the arguments after `--config.data.build None`.

    tyro takes the choice of a class or of None for a subcommand, never for a flag.
    """
    flag, words = "--config.data.build", list(argv)
    for i, word in enumerate(words):
        if [flag, "None"] in (words[i : i + 2], word.split("=", 1)):
            del words[i : i + (2 if word == flag else 1)]
            data = dataclasses.replace(config.data, build=None)
            return dataclasses.replace(config, data=data), words
    return config, words


@contextmanager
def clean_exit() -> Iterator[None]:
    """Turns what a person can mend into a message and an exit status.

    Bad input and files: 2; a run that cannot go on, or memory that is not enough: 1. A
    traceback is for what should not happen. The other processes of the run end too.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
        return
    except SystemExit as end:
        if any(thread.name == "compiling" for thread in threading.enumerate()):
            _end(int(end.code or 0))  # what compiles cannot be told to stop
        raise
    except UserError as error:
        message, status = str(error), 2
    except RunError as error:
        message, status = str(error), 1
    except OSError as error:
        message = f"{error}. Check the path, its rights and the room left."
        status = 2
    except KeyboardInterrupt:
        _tell_others("interrupted")
        raise SystemExit(130) from None
    except BaseException as error:
        _tell_others(f"{type(error).__name__}: {error}")
        if not _is_out_of_memory(error):
            raise
        message, status = _out_of_memory(error), 1
    print(f"error: {message}", file=sys.stderr, flush=True)
    if _tell_others(message) or status == 1:
        _end(status)  # threads may be waiting for what will never come
    raise SystemExit(status)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _out_of_memory(error: BaseException) -> str:
    first = (str(error).strip() or "MemoryError").splitlines()[0]
    return (
        f"A run must fit in memory: it does not ({first}). Use a smaller "
        "`--config.batch-size`, more `--config.accumulation` (a GPT: a smaller "
        "`--config.microbatch-size`; `gpt.sample`: a smaller `--batch`), or a smaller "
        "model."
    )


def _tell_others(message: str) -> bool:
    """End the other processes of this run; whether there are any."""
    if "train.devices" not in sys.modules:
        return False
    from train.devices import end_others

    return end_others(message)


def _end(status: int) -> None:
    """End the process now."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
