"""Build tiny Shakespeare.

Source: nanoGPT, `data/shakespeare*/prepare.py`.
"""

import hashlib
import tempfile
import urllib.request
from pathlib import Path

from configs import Shakespeare, TextFiles, UserError, require
from data.folder import check_vacant
from data.text import files

URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/"
    "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt"
)
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def build(config: Shakespeare, out: Path) -> None:
    """Build tiny Shakespeare in `out`; prints a note if `input` is another text.

    Raises:
        UserError: if `out` is not vacant, or the text or the tokens are unavailable.
    """
    check_vacant(out)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(config.input) if config.input else _download(Path(folder))
        if path.is_file() and _sha256(path.read_bytes()) != SHA256:
            print(f"note: {path} is not the tiny Shakespeare that nanoGPT trains on")
        text = TextFiles(
            input=(str(path),), tokens=config.tokens, bpe_dir=config.bpe_dir
        )
        files.build(text, out)


def _download(folder: Path) -> Path:
    """Download tiny Shakespeare into `folder`."""
    try:
        with urllib.request.urlopen(URL, timeout=60) as response:
            data = response.read()
    except OSError as error:
        raise UserError(
            f"Could not download tiny Shakespeare from {URL} ({error}). If you have a "
            "copy, name it with `--input FILE`."
        ) from error
    require(
        _sha256(data) == SHA256,
        f"The download must have the sha256 {SHA256}: got {_sha256(data)}. "
        "Try again, or name a copy with `--input FILE`.",
    )
    path = folder / "input.txt"
    path.write_bytes(data)
    return path


def _sha256(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
