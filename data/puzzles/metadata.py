"""The metadata of a split (`dataset.json`), and the metadata of merged datasets.

The keys are the official ones (`dataset/common.py`, `PuzzleDatasetMetadata`), so that
datasets of the official builders load here and the other way round. Datasets of HRM's
builders lack `total_puzzles`: it is the number of groups there.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from configs import LARGEST, UserError

FILE = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The sizes and special ids of a split."""

    pad_id: int
    """Token that fills the rows of an incomplete test batch."""

    ignore_label_id: int | None
    """Label that is not scored; None if every label is."""

    blank_identifier_id: int
    """Identifier of puzzles without their own, shared by all datasets."""

    vocab_size: int
    """Tokens are 0 .. vocab_size - 1."""

    seq_len: int
    """Tokens of one example."""

    num_puzzle_identifiers: int
    """Identifiers are 0 .. num_puzzle_identifiers - 1, including the blank one."""

    total_groups: int
    """Groups of puzzles and their augmentations; an epoch visits each once."""

    mean_puzzle_examples: float
    """Mean number of examples of a puzzle."""

    total_puzzles: int
    """Weight of `mean_puzzle_examples` in a merge (official Sudoku: the groups)."""

    sets: tuple[str, ...]
    """Prefixes of the array files, nearly always just `all`."""

    extra: Mapping[str, object] = field(default_factory=dict, compare=False)
    """Keys of the file beyond the official ones, such as `seed` and `content_hash`."""

    @classmethod
    def read(cls, folder: str | Path) -> "Metadata":
        """Read the metadata of the split in `folder`.

        Raises:
            UserError: if the file is missing, is not JSON, or lacks or mistypes a key.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise UserError(
                f"`{FILE}` not found in {folder}. Check the path, or build the dataset "
                "with `python -m data.prepare`."
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise _bad(path, f"it is not JSON ({error})") from None
        if not isinstance(values, dict):
            raise _bad(path, f"it is a {type(values).__name__}, not an object")
        if "total_groups" in values:
            values.setdefault("total_puzzles", values["total_groups"])
        names = [f.name for f in fields(cls) if f.name != "extra"]
        if missing := [name for name in names if name not in values]:
            raise _bad(path, f"it lacks {', '.join(missing)}")
        for name in names:
            if not _is_valid(name, values[name]):
                raise _bad(path, f"`{name}` is {values[name]!r:.60}")
        for name, size in (
            ("pad_id", "vocab_size"),
            ("blank_identifier_id", "num_puzzle_identifiers"),
        ):
            if values[name] >= values[size]:
                what = f"`{name}` is {values[name]}, with `{size}` {values[size]}"
                raise _bad(path, what)
        known = {name: values.pop(name) for name in names}
        known["sets"] = tuple(known["sets"])
        known["mean_puzzle_examples"] = float(known["mean_puzzle_examples"])
        return cls(**known, extra=values)

    @property
    def kind(self) -> str | None:
        """Name of the kind of puzzle; None if the file has none."""
        kind = self.extra.get("kind")
        return kind if isinstance(kind, str) else None

    def write(self, folder: Path) -> None:
        """Write `dataset.json` into `folder`; extra keys follow the official ones."""
        values = asdict(self)
        values.update(values.pop("extra"))
        text = json.dumps(values, indent=2)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def recorded_hash(folder: Path) -> str | None:
    """Return the content hash in the metadata of `folder`; None if it has none."""
    try:
        digest = Metadata.read(folder).extra.get("content_hash")
    except (UserError, OSError):
        return None
    return digest if isinstance(digest, str) else None


SAME = (
    "seq_len",
    "vocab_size",
    "pad_id",
    "ignore_label_id",
    "blank_identifier_id",
    "sets",
)


def merge(parts: Sequence[Metadata], names: Sequence[str]) -> Metadata:
    """Return the metadata of several datasets read as one.

    Args:
        parts: one or more metadata that agree on everything but their counts.
        names: their names in an error message.

    Raises:
        UserError: if the metadata do not agree.

    Source: official `puzzle_dataset.PuzzleDataset.__init__`, which also requires equal
    numbers of identifiers.
    """
    first = parts[0]
    for part, name in zip(parts[1:], names[1:], strict=True):
        for key in SAME:
            if getattr(part, key) != getattr(first, key):
                raise UserError(
                    f"Merged datasets must agree on `{key}`: got "
                    f"{getattr(first, key)} in {names[0]} and {getattr(part, key)} "
                    f"in {name}. Rebuild one of them, or train on one alone."
                )
    kinds = {part.kind for part in parts}
    kind = first.kind if len(kinds) == 1 else None
    puzzles = sum(part.total_puzzles for part in parts)
    examples = sum(part.mean_puzzle_examples * part.total_puzzles for part in parts)
    return Metadata(
        **{key: getattr(first, key) for key in SAME},
        num_puzzle_identifiers=sum(part.num_puzzle_identifiers for part in parts),
        total_groups=sum(part.total_groups for part in parts),
        mean_puzzle_examples=examples / puzzles,
        total_puzzles=puzzles,
        extra=first.extra if len(parts) == 1 else {"kind": kind},
    )


def _is_valid(name: str, value: object) -> bool:
    """Check the value of a key."""
    if name == "sets":
        names = value if isinstance(value, list) else []
        plain = all(isinstance(n, str) and re.fullmatch(r"\w[\w.-]*", n) for n in names)
        return plain and 1 <= len(names) == len(set(names))
    if name == "ignore_label_id" and value is None:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if name == "mean_puzzle_examples":
        return 0 < value <= LARGEST
    lowest = 0 if name.endswith("_id") else 1
    if name == "ignore_label_id":
        lowest = -LARGEST
    return isinstance(value, int) and lowest <= value <= LARGEST


def _bad(path: Path, what: str) -> UserError:
    """Return the error for an unusable metadata file."""
    return UserError(
        f"Metadata must have the official keys and types: in {path}, {what}. "
        "Repair the file or rebuild the dataset with `python -m data.prepare`."
    )
