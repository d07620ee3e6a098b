"""Several processes at a time, and their devices."""

import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from train import side_by_side as module
from train.side_by_side import device_shares, side_by_side


def test_a_failure_ends_what_is_not_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses = {"a": 0, "b": 3, "c": 0}
    jobs = {tmp_path / name: partial(int, status) for name, status in statuses.items()}
    assert side_by_side(jobs, 1) == 3
    out = capsys.readouterr().out
    assert f"{tmp_path / 'a'}: ended with status 0" in out
    assert f"{tmp_path / 'b'}: ended with status 3" in out
    assert str(tmp_path / "c") not in out


def end_well(ready: Path) -> None:
    """Complete at a signal, as a run does in its last step."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ready.touch()
    time.sleep(60)


def test_a_signal_reaches_all_and_no_job_is_begun_after_it(tmp_path: Path) -> None:
    ready = [tmp_path / name for name in ("ready a", "ready b")]
    jobs = {tmp_path / path.name[-1]: partial(end_well, path) for path in ready}
    jobs[tmp_path / "c"] = partial(end_well, tmp_path / "ready c")

    def stop() -> None:
        while not all(path.exists() for path in ready):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    since = time.monotonic()
    assert side_by_side(jobs, 2) == 128 + signal.SIGTERM
    assert time.monotonic() - since < 50
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("kind", "visible", "expected"),
    [
        ("cpu", None, [{}, {}]),
        ("gpu", None, [{"CUDA_VISIBLE_DEVICES": x} for x in ("0,1", "2,3")]),
        ("gpu", "7,6,5,4", [{"CUDA_VISIBLE_DEVICES": x} for x in ("7,6", "5,4")]),
    ],
)
def test_shares(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    visible: str | None,
    expected: list[dict[str, str]],
) -> None:
    monkeypatch.setattr(module, "_devices", partial(tuple, [kind, 4]))
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_shares(2) == expected


def test_more_parts_than_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_devices", partial(tuple, ["tpu", 4]))
    assert [share["TPU_VISIBLE_CHIPS"] for share in device_shares(4)] == [*"0123"]
    with pytest.raises(ValueError, match="at most the number of devices: got 5, and 4"):
        device_shares(5)
