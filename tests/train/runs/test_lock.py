"""The lock of a run directory in an object store; on a disk: `test_run_dir.py`."""

import os
from pathlib import Path

import pytest

from configs import UserError
from data.storage import open_path, write_whole
from train.runs.lock import acquire


def test_a_lock_is_held_until_it_is_released(bucket: str, tmp_path: Path) -> None:
    path = open_path(f"{bucket}/{tmp_path.name}/run/lock")
    release = acquire(path)
    with pytest.raises(UserError, match=f"process {os.getpid()} on .*{path}"):
        acquire(path)
    release()
    assert not path.exists()
    acquire(path)()


def test_the_lock_of_another_process_is_not_released(
    bucket: str, tmp_path: Path
) -> None:
    """Somebody has removed ours by hand."""
    path = open_path(f"{bucket}/{tmp_path.name}/run/lock")
    release = acquire(path)
    write_whole(path, "process 9 on other")
    release()
    assert path.exists()
