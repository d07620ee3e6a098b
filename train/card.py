"""The card of a published model: what it is, how to use it, and how it was made."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jaxtyping import PyTree

from train.presets import PRESETS
from train.runs.record import differences, parse
from trm.summary import wilson

EVALUATION = ("test puzzles", "number", "steps", "attempts", "solved (95 % interval)")
OTHERWISE = ("run_dir", "run", "mesh", "accumulation")
"""Settings that do not change the weights."""

ABOUT = {
    "trm": "A tiny recursive model (arXiv 2510.04871): it improves its answer to a "
    "puzzle step by step.",
    "gpt": "A GPT: it continues a text, token by token.",
}
USES = {
    "trm": "python -m trm.solve --run-dir {name} PUZZLE",
    "gpt": "python -m gpt.sample --run-dir {name} --num-samples 1",
}


def card(
    name: str,
    tree: dict[str, Any],
    model: PyTree,
    scores: dict[str, Any],
    evaluations: list[dict[str, Any]],
    notes: str,
) -> str:
    """Return the card as Markdown.

    Args:
        name: of the model.
        tree: content of its `config.json`.
        model: for the number of parameters.
        scores: of the run's own evaluation.
        evaluations: results of `train.evaluate`.
        notes: Markdown to add.
    """
    config, record = parse(tree, name)
    code = record.get("code", {})
    libraries = code.get("libraries", {}).items()
    about = {
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(model)):,}",
        "made by": _origin(config, record),
        "updates": f"{record['step']:,}",
        "seed": config.seed,
        "commit": code.get("commit"),
        "libraries": ", ".join(f"{name} {version}" for name, version in libraries),
        "hash of the data": record.get("data_hash"),
    }
    measured = [f"{value:.4f} {key}" for key, value in scores.items()]
    parts = [
        "---\nlicense: mit\nlibrary_name: tiny-recursive-jax\n---",
        f"# {name}",
        ABOUT[record["kind"]],
        f"```bash\n{USES[record['kind']].format(name=name)}\n```",
        _table(["", ""], about.items()),
        "## Scores",
        f"Of the run's own evaluation: {', '.join(measured) or 'none'}.",
        _table(EVALUATION, map(_row, evaluations)) if evaluations else "",
        notes.strip(),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _origin(config: Any, record: dict[str, Any]) -> str:
    """Return the command of a run, and the settings that differ from its preset's."""
    kind, preset = record["kind"], record.get("preset", "")
    if preset not in PRESETS:
        return f"`train.{kind}`, with the settings in `config.json`"
    changed = differences(PRESETS[preset][1], config, OTHERWISE)
    listed = f", with `{'`, `'.join(changed)}`" if changed else ""
    return f"`python -m train.{kind} {preset}`{listed}"


def _row(evaluation: dict[str, Any]) -> list[str]:
    """Return a line of the table of evaluations."""
    settings, (result, *_) = evaluation["settings"], evaluation["results"]
    share, number = result["values"]["exact_accuracy"], result["scored"]
    low, high = wilson(share, number)
    return [
        ", ".join(settings["data"]) or "its own data",
        f"{number:,}",
        f"{result['values']['steps']:g}",
        str(settings["rollouts"]["number"] or 1),
        f"{share:.1%} ({low:.1%} to {high:.1%})",
    ]


def _table(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table in Markdown."""
    line = lambda cells: f"| {' | '.join(map(str, cells))} |"
    return "\n".join([line(head), "|---" * len(head) + "|", *map(line, rows)])
