"""What the pages say is there: links, headings, modules, presets, flags."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from train import cli
from train.presets import GPT_PRESETS, TRM_PRESETS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PRESETS = {"train.trm": TRM_PRESETS, "train.gpt": GPT_PRESETS}
BLOCK = re.compile(r"^```(?:bash|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ +(.*)", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page: Path) -> None:
    """Relative ones lead to a file, and to a heading if they name one."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", link):
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def commands(page: Path) -> Iterator[str]:
    """The lines to be typed, continued ones joined."""
    for block in BLOCK.findall(page.read_text()):
        yield from block.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_modules(page: Path) -> None:
    """`python -m` finds what is run."""
    for line in commands(page):
        for module in re.findall(r"python -m ([a-z]\w*(?:\.\w+)+)", line):
            assert importlib.util.find_spec(module) is not None, line


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_flags(page: Path) -> None:
    """Training commands, however they are launched, are understood."""
    for line in commands(page):
        found = re.search(r"\b(train\.(?:trm|gpt)) (.*)", line)
        if not found or re.search(r"\.\.\.|\[|--help|MODULE", line):
            continue
        words = shlex.split(found[2].split("; do")[0].rstrip("'& "), comments=True)
        words = ["0" if word == "$i" else word for word in words]  # of a loop
        cli.parse(PRESETS[found[1]], "", words)
