"""Silence around reads that may fail, whose caller reports it."""

import inspect
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def quiet_reads() -> Iterator[None]:
    """Hide what libraries say of a failed read: the caller reports it, once."""
    _ignore_other_reads()
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@cache
def _ignore_other_reads() -> None:
    """Drop what the other reads say when one fails, now or when they are collected.

    Orbax closes its event loop at the first error. TensorStore then prints a traceback
    for each read still under way, from its own threads, at any later time, and Python
    one for each coroutine of Orbax that nobody waits for any more.
    """
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        closed = str(unraisable.exc_value) == "Event loop is closed"
        if not closed and not inspect.iscoroutine(unraisable.object):
            report(unraisable)

    sys.unraisablehook = hook
    never = "Task exception was never retrieved"
    logging.getLogger("asyncio").addFilter(
        lambda record: never not in record.getMessage()
    )
