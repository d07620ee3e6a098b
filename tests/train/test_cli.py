"""The start and the end of a process: output and exit statuses."""

import errno
import io
import os
from types import SimpleNamespace

import jax
import pytest

from configs import MeshConfig, RunConfig, RunError, UserError
from data import remote
from train import cli, devices

LOST = jax.errors.JaxRuntimeError(
    "UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:44780"
)


def chained(error: Exception, cause: Exception) -> Exception:
    """Return an error that was raised from another."""
    error.__cause__ = cause
    return error


# -- output ----------------------------------------------------------------------------


def test_characters_that_cannot_be_encoded() -> None:
    """They are no reason to give up the output."""
    written = io.BytesIO()
    output = cli.Output(io.TextIOWrapper(written, encoding="latin-1"))
    output.write("caf\xe9 \u043f \udcff")
    output.flush()
    assert written.getvalue() == b"caf\xe9 \\u043f \\udcff"
    assert output.lost is None


def test_closed_output_takes_all_characters() -> None:
    output = cli.Output(None)
    first = output.lost
    output.write("\u043f\udcff")
    assert output.lost is first


# -- exit statuses ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (LOST, 75),
        (chained(RunError("could not save"), LOST), 75),
        (chained(UserError("no other process"), LOST), 2),
        (RunError("could not save"), 1),
        (OSError(errno.ENOSPC, "No space left"), 2),
        (jax.errors.JaxRuntimeError("INTERNAL: a fault"), 1),
        (ValueError("Connection closed by peer"), 1),
        (MemoryError(), 1),
    ],
)
def test_the_status_tells_whether_to_start_again(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = SimpleNamespace(client=object())
    monkeypatch.setattr(devices, "_coordination", lambda: several)
    found, message = cli.outcome(error)
    assert found == status
    assert ("Lost the connection" in message) == (status == cli.PEER_LOST)
    assert bool(message) == (
        type(error) not in (ValueError, type(LOST)) or status == 75
    )


def test_one_process_has_no_peer() -> None:
    assert cli.outcome(LOST) == (1, "")


# -- environments ----------------------------------------------------------------------


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are not kept; copies of datasets need a folder."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("TINY_RECURSIVE_JAX_DATASETS", raising=False)
    changed = []
    monkeypatch.setattr(jax.config, "update", lambda *words: changed.append(words))
    devices.start(MeshConfig(), RunConfig())
    assert not changed
    monkeypatch.setattr(remote, "_files", lambda address: {})
    with pytest.raises(UserError, match=r"`~/\.cache.*TINY_RECURSIVE_JAX_DATASETS"):
        remote._copied("gs://bucket/homeless")


def test_without_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_DISABLE_JIT", "1")
    with jax.disable_jit(), pytest.raises(UserError, match=r"JIT must .*got 1"):
        devices.backend()


def test_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX raises an `AssertionError` without a message for a missing plugin."""

    def missing() -> str:
        raise AssertionError

    monkeypatch.setattr(jax, "default_backend", missing)
    with pytest.raises(UserError, match=r"JAX_PLATFORMS=cpu \(AssertionError\)"):
        devices.backend()
