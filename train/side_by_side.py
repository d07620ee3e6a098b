"""Work in several processes at a time, each with devices of its own."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

from configs import require
from train import cli

SPAWN: Any = get_context("spawn")  # a fork of a process that uses JAX may hang

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def side_by_side(jobs: Mapping[Path, Callable[[], int | None]], at_once: int) -> int:
    """Do all jobs; return 0, or the exit status of the first that fails.

    After a failure or a signal no job is begun. Those under way go on after a failure,
    and get the signal.

    Args:
        jobs: functions that return an exit status and can be pickled, by the file that
            their output is appended to.
        at_once: jobs at a time. Each has an equal share of the GPUs or TPU chips of
            this machine. On a CPU all share the cores.

    Raises:
        UserError: if there are fewer devices than `at_once`.
    """
    free, waiting, status = device_shares(at_once), list(jobs), 0
    running: dict[int, tuple[Any, Path, dict[str, str]]] = {}
    pids = lambda: [process.pid for process, *_ in running.values()]
    with _forwarding(pids) as signals:
        while running or (waiting and not status and not signals):
            while free and waiting and not status and not signals:
                log, share = waiting.pop(0), free.pop(0)
                process = SPAWN.Process(target=_work, args=(jobs[log], log, share))
                process.start()
                running[process.sentinel] = process, log, share
                print(f"{log}: started", flush=True)
            ended = connection.wait(list(running))
            for sentinel in [each for each in running if each in ended]:
                process, log, share = running.pop(sentinel)
                process.join()
                code = process.exitcode
                code = 128 - code if code < 0 else code
                print(f"{log}: ended with status {code}", flush=True)
                free.append(share)
                status = status or code
    return status or (128 + signals[0] if signals else 0)


def _work(job: Callable[[], int | None], log: Path, share: Mapping[str, str]) -> None:
    os.environ.update(share)  # JAX has been imported, but looks for devices later
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    cli.run(job)


def device_shares(parts: int) -> list[dict[str, str]]:
    """Return environments in which processes see equal shares of the devices here.

    A TPU's are those of Google's guide to several processes on one TPU VM; they and
    more than one GPU were not tried.

    Raises:
        UserError: if there are fewer devices than `parts`.
    """
    with ProcessPoolExecutor(1, SPAWN) as apart:  # whoever asks holds the devices
        kind, number = apart.submit(_devices).result()
    if kind == "cpu":
        return [{}] * parts
    require(
        parts <= number,
        "`--config.run.seeds-at-once` must be at most the number of devices: got "
        f"{parts}, and {number} of kind {kind} are here. Use {number}.",
    )
    each, visible = number // parts, os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(number)]
    shares = [",".join(names[i * each : (i + 1) * each]) for i in range(parts)]
    if kind == "gpu":
        return [{"CUDA_VISIBLE_DEVICES": share} for share in shares]
    bounds = {
        "TPU_CHIPS_PER_PROCESS_BOUNDS": f"1,{each},1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
    }
    return [bounds | {"TPU_VISIBLE_CHIPS": share} for share in shares]


def _devices() -> tuple[str, int]:
    import jax

    return jax.default_backend(), jax.local_device_count()


@contextmanager
def _forwarding(processes: Callable[[], Sequence[int]]) -> Iterator[list[int]]:
    """Send signals to other processes, which save and end; yield those received."""
    signals: list[int] = []

    def forward(number: int, frame: object) -> None:
        signals.append(number)
        for process in processes():
            os.kill(process, number)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
