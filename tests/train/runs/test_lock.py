"""Who may train in a run directory of an object store; of a disk: `test_run_dir.py`."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from configs import UserError
from data.storage import open_path, read_text, write_whole
from train.runs import lock
from train.runs.lock import StoreLock, hold


@pytest.fixture
def path(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> epath.Path:
    """Of a lock; whose holders need not wait as long as others do."""
    monkeypatch.setattr(lock, "BEAT", 0.1)
    monkeypatch.setattr(lock, "LEASE", 1.0)
    found = open_path(f"{bucket}/{tmp_path.name}/run/lock")
    assert isinstance(found, epath.Path)
    return found


def test_a_lock_is_held_until_it_is_closed(path: epath.Path) -> None:
    first = hold(path)
    assert isinstance(first, StoreLock)
    with pytest.raises(UserError, match=f"in use by process {os.getpid()} on "):
        hold(path)
    first.close()
    assert not path.exists()
    hold(path).close()


def test_its_holder_writes_it_again_and_again(path: epath.Path) -> None:
    held = hold(path)
    texts = set()
    end = time.monotonic() + 20
    while len(texts) < 3:
        texts.add(read_text(path))
        assert time.monotonic() < end
    held.close()


def test_a_holder_that_was_killed_is_waited_for(
    path: epath.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_whole(path, "process 7 on there\nabc\n")
    begin = time.monotonic()
    hold(path).close()
    assert time.monotonic() - begin >= 1.0
    said = capsys.readouterr().out
    assert "was in use by process 7 on there just now: waiting 1 seconds" in said


def test_one_that_is_long_dead_is_not(
    path: epath.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(path, "process 7 on there\nabc\n")
    monkeypatch.setattr(lock, "LEASE", 1e6)
    now = time.time()
    monkeypatch.setattr(lock.time, "time", lambda: now + 150)
    hold(path).close()


class Ended(Exception):
    pass


def test_who_has_lost_it_ends(
    path: epath.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another process found it dead, after a stop of the network, say."""
    held: Any = hold(path)
    held._thread.close()

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", end)
    held._beat()
    write_whole(path, "process 9 on there\nabc\n")
    with pytest.raises(Ended, match="1"):
        held._beat()
    assert "process 9 on there trains in `gs://" in capsys.readouterr().err
    held.close()
    assert path.exists(), "it is the other's"


def test_a_store_that_is_away_for_a_moment(
    path: epath.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: Any = hold(path)
    held._thread.close()
    with monkeypatch.context() as patch:

        def away(*_: object) -> str:
            raise OSError("no network")

        patch.setattr(lock, "read_text", away)
        held._beat()
    held._beat()
    assert read_text(path).startswith(f"process {os.getpid()} on ")
    held.close()
