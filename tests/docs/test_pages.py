"""Links, modules, presets, flags and Python names in the pages exist."""

import re
import runpy
import shlex
import sys
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

from train import cli, compile
from train.presets import GPT_PRESETS, TRM_PRESETS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for folder in ("", "docs/", "benchmarks/*/")
    for page in ROOT.glob(f"{folder}*.md")
)
PRESETS = {
    "train.trm": TRM_PRESETS,
    "train.gpt": GPT_PRESETS,
    "train.compile": compile.PRESETS,
}
WITH_COMMANDS = ("data.prepare", "benchmarks.time_to_accuracy")
NEW_FILES = (
    "trm/variants/twice.py",
    "trm/linear_mixer.py",
)  # of CONTRIBUTING's recipes
IMPORT = r"^from (?:configs|data|gpt|train|trm)\b.*?(?:\(.*?\)|\n)"
NO_COMMAND = re.compile(r"\.\.\.|\[|--help|--command|MODULE")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ +(.*)", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@each_page
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", link):
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


@each_page
def test_paths(page: Path) -> None:
    """Modules in backquotes exist."""
    packages = "benchmarks|data|gpt|tests|train|trm"
    for path in re.findall(rf"`((?:{packages})/[\w/]+\.py)`", page.read_text()):
        assert (ROOT / path).exists() or "NAME" in path or path in NEW_FILES, path


@each_page
def test_training_commands(page: Path) -> None:
    """Commands in shell blocks parse, also behind a launcher such as `sbatch`."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.M | re.S)
    for line in "".join(blocks).replace("\\\n", " ").splitlines():
        command = re.search(r"\b(train\.(?:trm|gpt|compile)) (.*)", line)
        if command is None or NO_COMMAND.search(line):
            continue
        text = command[2].split("; do")[0].rstrip("'& ").replace("$i", "0")
        words = shlex.split(text, comments=True)
        if command[1] == "train.compile":
            _, words = compile.options(words)
        cli.parse(PRESETS[command[1]], "", words)


@cache
def flags_of(module: str, command: str) -> set[str]:
    """Return the flags in the help of a script."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as text:
        patch.setattr(sys, "argv", [module, *command.split(), "--help"])
        patch.setattr(cli, "run", lambda main: main())
        patch.delitem(sys.modules, module, raising=False)
        with pytest.raises(SystemExit):
            runpy.run_module(module, run_name="__main__")
    return set(re.findall(r"--[a-z][\w.-]*", text.getvalue()))


@each_page
def test_other_commands(page: Path) -> None:
    """Flags of other scripts exist, in blocks and within lines."""
    text = page.read_text().replace("\\\n", " ")
    for module, words in re.findall(r"python -m ([a-z]+\.\w+)([^`\n#|<>;&]*)", text):
        if module not in PRESETS:
            command = words.split()[:1] if module in WITH_COMMANDS else []
            own = re.sub(r'"[^"]*"', "", words)  # not those of a quoted command
            flags = set(re.findall(r"(?<=\s)--[a-z][\w.-]*", own))
            assert flags <= flags_of(module, "".join(command)), (module, words)


@each_page
def test_imports(page: Path) -> None:
    """Names that Python blocks import from the project exist."""
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        for line in re.findall(IMPORT, block, re.M | re.S):
            exec(line, {})
