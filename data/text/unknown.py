"""Leave out the characters that a vocabulary lacks, and count them."""

from collections import Counter
from collections.abc import Iterable, Iterator

from data.text.tokenizer import Tokenizer

MOST_SHOWN = 10


def known(
    pieces: Iterable[str], tokenizer: Tokenizer, left_out: Counter[str]
) -> Iterator[str]:
    """Yield the pieces without unknown characters, which are added to `left_out`."""
    for piece in pieces:
        unknown = tokenizer.unknown("".join(set(piece)))
        left_out.update({character: piece.count(character) for character in unknown})
        yield piece.translate(dict.fromkeys(map(ord, unknown)))


def describe(left_out: Counter[str]) -> str:
    """Return a sentence on the characters in `left_out`; empty if there are none."""
    if not left_out:
        return ""
    common = left_out.most_common(MOST_SHOWN)
    shown = ", ".join(f"{character!r} ({count:,})" for character, count in common)
    more = ", ..." if len(left_out) > MOST_SHOWN else ""
    return (
        f"{left_out.total():,} characters are not in the vocabulary and are left out: "
        f"{shown}{more}."
    )
