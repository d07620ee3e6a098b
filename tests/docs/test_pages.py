"""What the pages say is there: links, headings, modules, presets, flags."""

import importlib.util
import inspect
import io
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache, partial
from pathlib import Path

import pytest
import tyro

from train import cli, compile
from train.presets import GPT_PRESETS, TRM_PRESETS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PRESETS = {
    "train.trm": TRM_PRESETS,
    "train.gpt": GPT_PRESETS,
    "train.compile": compile.PRESETS,
}
WITH_COMMANDS = ("data.prepare", "benchmarks.time_to_accuracy")
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
        found = re.search(r"\b(train\.(?:trm|gpt|compile)) (.*)", line)
        if not found or re.search(r"\.\.\.|\[|--help|--command|MODULE", line):
            continue
        words = shlex.split(found[2].split("; do")[0].rstrip("'& "), comments=True)
        words = ["0" if word == "$i" else word for word in words]  # of a loop
        if found[1] == "train.compile":
            _, words = compile.options(words)
        cli.parse(PRESETS[found[1]], "", words)


@cache
def flags_of(module: str, command: str) -> set[str]:
    """The flags that a script knows, by its help."""
    script, said = importlib.import_module(module), io.StringIO()
    takes_settings = "settings" in inspect.signature(script.main).parameters
    read = partial(tyro.cli, script.Settings) if takes_settings else script.main
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setattr(sys, "argv", [module, *command.split(), "--help"])
        with pytest.raises(SystemExit):
            read()
    return set(re.findall(r"--[a-z][\w.-]*", said.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_flags_of_other_scripts(page: Path) -> None:
    """In a block or within a line; values are not looked at."""
    text = page.read_text().replace("\\\n", " ")
    for module, words in re.findall(r"python -m ([a-z]+\.\w+)([^`\n#|<>;&]*)", text):
        if module not in PRESETS:
            first = words.split()[:1] if module in WITH_COMMANDS else []
            found = set(re.findall(r"(?<=\s)--[a-z][\w.-]*", words))
            known = flags_of(module, "".join(first)) if found else set()
            assert found <= known, (module, words)
