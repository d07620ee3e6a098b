"""The command line of the scripts: presets, overrides, a process's start and end."""

import ctypes
import dataclasses
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Any, NoReturn, TypeVar

from configs import RunError, TrainGPT, UserError, first_line, require

Config = TypeVar("Config")
Presets = Mapping[str, tuple[str, Config]]

PEER_LOST = os.EX_TEMPFAIL
"""Exit status if another process of the run is gone: start all processes again."""

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
    for name in ("absl", "gcsfs"):  # they also log errors that become messages
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with clean_exit():
        raise SystemExit(main())


class Output:
    """A text stream that ignores output errors: closed pipe, full disk.

    Characters that its encoding lacks are written as escapes.

    Attributes:
        lost: the first output error; None if there is none.
    """

    def __init__(self, stream: Any):
        self._stream = stream or _nowhere()
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        self.lost = None if stream else ValueError("it is closed")

    def write(self, text: str) -> int:
        """Write; a no-op after an output error."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flush; a no-op after an output error."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: OSError | ValueError) -> None:
        """Discard the stream's buffer and all later output."""
        self.lost = error
        null = _nowhere()
        with suppress(OSError, ValueError):
            os.dup2(null.fileno(), self._stream.fileno())
        self._stream = null

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _nowhere() -> TextIOWrapper:
    return open(os.devnull, "w", errors="backslashreplace")


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
    """Return the preset's name and the configuration of a command line.

    Prints help or tyro's message and exits if there is no configuration to return.

    Args:
        presets: name to (description, configuration); the first is the default.
        about: the script's docstring, with examples.
        argv: the arguments; None: `sys.argv`.

    Raises:
        UserError: if the preset, a file or a value is wrong.
    """
    import tyro

    from train.help import help_text
    from train.nanogpt import require_ours
    from train.runs.base import checked, starting_point

    argv, about = list(sys.argv[1:] if argv is None else argv), about or ""
    named = bool(argv) and not argv[0].startswith("-")
    require(
        not named or argv[0] in presets,
        f"Preset not found: `{' '.join(argv[:1])}`. Use one of {', '.join(presets)}, "
        "or `--config-file FILE`.",
    )
    if {"-h", "--help", "--help-all"} & set(argv):
        preset = argv[0] if named else next(iter(presets))
        print(help_text(about, presets, preset, full="--help-all" in argv))
        raise SystemExit(0)
    title, base, argv = starting_point(presets, argv)
    argv = argv[named:]
    if isinstance(base, TrainGPT):
        require_ours(argv)
    default, argv = _without_build(base, argv)
    line: Any = dataclasses.make_dataclass(
        "CommandLine",
        [("config", tyro.conf.AvoidSubcommands[type(default)], default)],
        frozen=True,
    )
    program = re.search(r"python -m [\w.]+", about)
    config = tyro.cli(line, args=argv, prog=program and program.group()).config
    return title, checked(config, base)


def _without_build(config: Any, argv: Sequence[str]) -> tuple[Any, list[str]]:
    """Apply `--config.data.build None` and remove it from the arguments.

    For tyro, a union of classes and None is a subcommand, never a flag.
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
    """Print errors that a user can fix as a message and exit.

    Exit status: 2 for bad input and files, 1 for a run that has to stop or is out of
    memory, `PEER_LOST` for a run that can resume since another process of it is gone.
    Other errors keep their traceback. Ends the other processes of the run too.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
        return
    except SystemExit:
        raise
    except KeyboardInterrupt:
        _end_others("interrupted", 130)
        raise SystemExit(130) from None
    except BaseException as error:
        status, message = outcome(error)
        if not message:
            _end_others(f"{type(error).__name__}: {error}", status)
            raise
    print(f"error: {message}", file=sys.stderr, flush=True)
    if _end_others(message, status) or status == 1:
        _end(status)  # threads may wait forever
    raise SystemExit(status)


def outcome(error: BaseException) -> tuple[int, str]:
    """Return the exit status of an error and its message; empty: print the traceback.

    The loss of a peer may show as another error, for example of a save.
    """
    if isinstance(error, UserError):
        return 2, str(error)
    if _is_peer_lost(error):
        return PEER_LOST, (
            "Lost the connection to another process of the run, which has ended or "
            "cannot be reached. Start all processes again: the same command resumes "
            "from the newest checkpoint."
        )
    if isinstance(error, RunError):
        return 1, str(error)
    if isinstance(error, OSError):
        return 2, f"{error}. Check the path, its permissions and the free space."
    return 1, _out_of_memory(error) if _is_out_of_memory(error) else ""


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _out_of_memory(error: BaseException) -> str:
    return (
        f"Out of memory: {first_line(error)}. Use a smaller `--config.batch-size`, "
        "more `--config.accumulation` (for a GPT: a smaller "
        "`--config.microbatch-size`; `gpt.sample`: a smaller `--batch`), or a smaller "
        "model."
    )


def _is_peer_lost(error: BaseException) -> bool:
    """Return True if an error was caused by the loss of another process of the run."""
    devices = sys.modules.get("train.devices")
    return devices is not None and devices.is_peer_lost(error)


def _end_others(message: str, status: int) -> bool:
    """End the other processes of this run; return True if there are any."""
    devices = sys.modules.get("train.devices")
    return devices is not None and devices.end_others(message, status)


def _end(status: int) -> None:
    """End the process without waiting for threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
