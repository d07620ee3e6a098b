"""Text to tokens and back: the `tokenizer.json` of a dataset.

The file has no paths: the folder of GPT-2's byte pairs is an argument or the
environment variable `GPT2_BPE_DIR` (see `bpe.py`). Folders made by nanoGPT have
`meta.pkl` instead; without either file the tokens are GPT-2's.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tiktoken
from jaxtyping import Int32, Int64, Integer

from configs import TextDataConfig, UserError, require
from data.remote import local_dataset
from data.storage import exists, open_path, read_text
from data.text.bpe import FOLDER_VARIABLE, load_bpe
from data.text.reading import read_about, read_characters

FILE = "tokenizer.json"
NANOGPT_FILE = "meta.pkl"
GPT2_SIZE = 50257
LARGEST = 1 << 16
"""Most tokens that fit the files' uint16."""

TokenNumbers = Sequence[int] | Integer[np.ndarray, " tokens"]


class Tokenizer(ABC):
    """Text to tokens and back.

    Attributes:
        vocab_size: tokens are 0 .. vocab_size - 1.
    """

    vocab_size: int

    @property
    def at_hand(self) -> bool:
        """True if the tokenizer needs no download."""
        return True

    @staticmethod
    def read(folder: str | Path, bpe_dir: str = "") -> "Tokenizer":
        """Return the tokenizer of the dataset in `folder`.

        Args:
            folder: folder of the dataset.
            bpe_dir: folder of GPT-2's byte pairs; not read before the first text.

        Raises:
            UserError: if the folder is missing or its `tokenizer.json` is unusable.
        """
        folder = local_dataset(folder)
        require(
            folder.is_dir(),
            f"Dataset not found: {folder}. Check the path, or build the dataset with "
            "`python -m data.prepare`.",
        )
        if (folder / FILE).is_file():
            return _parse(folder / FILE, bpe_dir)
        match read_about(folder):
            case {"kind": "gpt2", "vocab_size": int(size)} if 1 <= size <= LARGEST:
                return GPT2(bpe_dir, size)
            case {"kind": "char"}:
                raise UserError(
                    f"`{FILE}` of a dataset of characters not found in {folder}. Copy "
                    "it there, or rebuild the dataset with `python -m data.prepare`."
                )
        if (folder / NANOGPT_FILE).is_file():
            return Characters(read_characters(folder / NANOGPT_FILE))
        return GPT2(bpe_dir)

    @staticmethod
    def of(data: TextDataConfig, folder: str = "", bpe_dir: str = "") -> "Tokenizer":
        """Return the tokenizer of a run; `folder` and `bpe_dir` override the data's.

        Raises:
            UserError: as `read`.
        """
        known = getattr(data.build, "bpe_dir", "")
        return Tokenizer.read(folder or data.path, bpe_dir or known)

    def require_known(self, rows: int) -> None:
        """Check that a model with embeddings of `rows` tokens has all tokens.

        Raises:
            UserError: if it has fewer.
        """
        require(
            self.vocab_size <= rows,
            f"A model must have all {self.vocab_size:,} tokens of the tokenizer: got "
            f"{rows:,}. Name the model's training dataset with `--data`.",
        )

    def write(self, folder: Path) -> None:
        """Write `tokenizer.json` into `folder`."""
        text = json.dumps(self.describe(), indent=2)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def decode(self, tokens: TokenNumbers) -> str:
        """Return the text of `tokens`, with U+FFFD for bytes that are not UTF-8.

        Raises:
            UserError: if a token is outside the vocabulary.
        """
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")

    @staticmethod
    def like(folder: str | Path, bpe_dir: str = "") -> "Tokenizer":
        """Return the tokenizer of a dataset, a run or a published model.

        Raises:
            UserError: as `read`, or if the run is not of a GPT.
        """
        record = open_path(folder) / "config.json"
        if not exists(record) or exists(record.with_name(FILE)):
            return Tokenizer.read(folder, bpe_dir)
        try:
            tree = json.loads(read_text(record))
        except (ValueError, RecursionError):
            tree = None
        match tree:
            case {"data": {"path": str(path), "build": build}}:
                known = build.get("bpe_dir", "") if isinstance(build, dict) else ""
                return Tokenizer.read(path, bpe_dir or known)
        raise UserError(
            f"`{folder}` must be a dataset of text or a run of `train.gpt`: its "
            "`config.json` names no text. Name another."
        )

    def unknown(self, characters: str) -> str:
        """Return the characters that the vocabulary lacks."""
        del characters
        return ""

    def byte_lengths(self) -> Int64[np.ndarray, " vocab"]:
        """Return the length of each token's UTF-8 in bytes.

        Raises:
            UserError: if the vocabulary cannot be read.
        """
        tokens = range(self.vocab_size)
        return np.array([len(self.decode_bytes([token])) for token in tokens], np.int64)

    @abstractmethod
    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Return the tokens of `text`.

        Raises:
            UserError: if the vocabulary lacks a character.
        """

    @abstractmethod
    def decode_bytes(self, tokens: TokenNumbers) -> bytes:
        """Return the UTF-8 of `tokens`; a token may be a part of a character.

        Raises:
            UserError: if a token is outside the vocabulary.
        """

    @abstractmethod
    def describe(self) -> Mapping[str, str | int]:
        """Return the content of `tokenizer.json`."""

    def _checked(self, tokens: TokenNumbers) -> list[int]:
        """Check `tokens` and return them as a list."""
        listed = [int(token) for token in tokens]
        for token in listed:
            require(
                0 <= token < self.vocab_size,
                f"Tokens must be in 0 .. {self.vocab_size - 1}: got {token}. Omit "
                "tokens above (a model may have more rows than the vocabulary).",
            )
        return listed


class Characters(Tokenizer):
    """One token for each character: its index in `characters`."""

    def __init__(self, characters: str):
        """Make the tokenizer of these characters.

        Raises:
            UserError: if they are not 1 to `LARGEST` different ones.
        """
        require(
            1 <= len(characters) == len(set(characters)) <= LARGEST,
            f"A vocabulary must be 1 to {LARGEST:,} different characters: got "
            f"{len(characters):,}, {len(set(characters)):,} of them different. "
            "Use GPT-2's tokens for text of more.",
        )
        self.vocab_size = len(characters)
        self.characters = characters
        points = _code_points(characters)
        self._numbers = np.full(points.max() + 1, -1, np.int32)
        self._numbers[points] = np.arange(self.vocab_size)

    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Return the token of each character; see the base class."""
        points = _code_points(text)
        tokens = self._numbers[np.minimum(points, len(self._numbers) - 1)]
        unknown = (tokens < 0) | (points >= len(self._numbers))
        if unknown.any():
            at = int(unknown.argmax())
            raise UserError(
                f"Text must have only the {self.vocab_size} characters of the "
                f"vocabulary: got {text[at]!r} at position {at}. Omit it, or build the "
                "dataset with GPT-2's tokens."
            )
        return tokens

    def unknown(self, characters: str) -> str:
        """Return the characters that the vocabulary lacks."""
        return "".join(c for c in characters if c not in self.characters)

    def decode_bytes(self, tokens: TokenNumbers) -> bytes:
        """Return the UTF-8 of the characters; see the base class."""
        text = "".join(self.characters[token] for token in self._checked(tokens))
        return text.encode("utf-8")

    def describe(self) -> Mapping[str, str | int]:
        """Return the kind and the characters."""
        return {"kind": "char", "characters": self.characters}


class GPT2(Tokenizer):
    """GPT-2's byte pairs; the files are read with the first text.

    Attributes:
        end: token between documents, `<|endoftext|>`.
    """

    def __init__(self, bpe_dir: str = "", vocab_size: int = GPT2_SIZE):
        """Make the tokenizer of the files in `bpe_dir` (see `load_bpe`)."""
        self._bpe_dir = bpe_dir
        self.vocab_size = vocab_size
        self.end = vocab_size - 1

    @classmethod
    def load(cls, bpe_dir: str) -> "GPT2":
        """Return the tokenizer of the files in `bpe_dir`, of any size.

        Raises:
            UserError: if the files are unavailable or have too many tokens.
        """
        size = load_bpe(bpe_dir).n_vocab
        require(
            size <= LARGEST,
            f"A vocabulary must have at most {LARGEST:,} tokens: got {size:,}. Use "
            "GPT-2's byte pairs.",
        )
        return cls(bpe_dir, size)

    @property
    def at_hand(self) -> bool:
        """True if a folder with the byte pairs is configured."""
        return bool(self._bpe_dir or os.environ.get(FOLDER_VARIABLE))

    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Return the tokens of `text`; `<|endoftext|>` is one token."""
        return self.encoding().encode_to_numpy(text, allowed_special="all").view("i4")

    def encode_document(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Return the tokens of `text`, without special tokens, and the end token."""
        tokens = self.encoding().encode_to_numpy(text, disallowed_special=())
        return np.append(tokens, self.end).astype(np.int32)

    def decode_bytes(self, tokens: TokenNumbers) -> bytes:
        """Return the bytes of the tokens; see the base class."""
        return self.encoding().decode_bytes(self._checked(tokens))

    def byte_lengths(self) -> Int64[np.ndarray, " vocab"]:
        """Return the length of each token in bytes; 0 for `<|endoftext|>`."""
        tokens = self.encoding().decode_tokens_bytes(list(range(self.end)))
        return np.array([*map(len, tokens), 0], np.int64)

    def describe(self) -> Mapping[str, str | int]:
        """Return the kind and the number of tokens."""
        return {"kind": "gpt2", "vocab_size": self.vocab_size}

    def encoding(self) -> tiktoken.Encoding:
        """Return tiktoken's encoding, after a check of its number of tokens."""
        encoding = load_bpe(self._bpe_dir)
        require(
            encoding.n_vocab == self.vocab_size,
            f"Byte pairs must have the dataset's {self.vocab_size:,} tokens: got "
            f"{encoding.n_vocab:,}. Name the folder of the right files (`--bpe-dir`).",
        )
        return encoding


def _code_points(text: str) -> np.ndarray:
    """Return the Unicode number of each character."""
    # A command line may contain half a surrogate pair: an unknown character.
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), "<u4")


def _parse(path: Path, bpe_dir: str) -> Tokenizer:
    """Return the tokenizer of a `tokenizer.json`."""
    try:
        match json.loads(path.read_text(encoding="utf-8-sig")):
            case {"kind": "char", "characters": str(characters)}:
                return Characters(characters)
            case {"kind": "gpt2", "vocab_size": int(size)} if 1 <= size <= LARGEST:
                return GPT2(bpe_dir, size)
            case other:
                what = f"it contains {str(other)[:60]}"
    except (ValueError, RecursionError) as error:
        what = str(error)
    raise UserError(
        f"`{FILE}` must have a kind, `char` with `characters` or `gpt2` with "
        f"`vocab_size`: got {path} ({what}). Repair the file, or build the dataset "
        "with `python -m data.prepare`."
    )
