"""An emulator of Google Cloud Storage, for tests."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BUCKET = "bucket"
ROOT = Path(__file__).parent.parent


@contextmanager
def emulator() -> Iterator[str]:
    """The address of a bucket, for this process and those that it starts.

    It is a process of its own, and keeps what is written in memory.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    os.environ |= {
        "STORAGE_EMULATOR_HOST": url,  # gcsfs
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore looks for others
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks the real service
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.cloud", str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"{url}/storage/v1/b/{BUCKET}")
        yield f"gs://{BUCKET}"
    finally:
        server.kill()
        server.wait()


def _wait_for(url: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            assert time.monotonic() < end, "the emulator did not start"
            time.sleep(0.05)


def serve(port: int) -> None:
    """Serve until killed.

    Of an object's content the real service says the generation too, without which
    TensorStore cannot write what it has read.
    """
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    download = objects.download

    def with_generation(request: Any, response: Any, storage: Any, **_: Any) -> None:
        download(request, response, storage)
        place = request.params["bucket_name"], request.params["object_id"]
        with suppress(NotFound):
            generation = storage.get_file_obj(*place)["generation"]
            response["x-goog-generation"] = generation

    objects.download = with_generation
    from gcp_storage_emulator.server import create_server  # it takes what it finds

    create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET).run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
