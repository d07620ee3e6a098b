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
    """Start a server in memory, in a child process; yield the address of a bucket.

    This process and its children use it for `gs://`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    os.environ |= {
        "STORAGE_EMULATOR_HOST": url,  # gcsfs
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore searches for credentials
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would call the real service
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

    Like the real service, send the generation with an object's content: without it,
    TensorStore cannot overwrite the object.
    """
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    download = objects.download

    def with_generation(request: Any, response: Any, storage: Any, **_: Any) -> None:
        download(request, response, storage)
        path = request.params["bucket_name"], request.params["object_id"]
        with suppress(NotFound):
            generation = storage.get_file_obj(*path)["generation"]
            response["x-goog-generation"] = generation

    objects.download = with_generation
    from gcp_storage_emulator.server import create_server  # imports `download`

    create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET).run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
