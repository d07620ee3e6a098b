"""Checkpoints of the golden cases, in the format of the official code."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jax import numpy as jnp

from tests.golden import Golden
from trm.official.state_dict import write_state_dict

STYLES = ("_orig_mod.model.inner.", "model.inner.", "")
"""Prefixes of names: compiled, not compiled, the network alone."""

ARCH = {
    "trm": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
    "trm_singlez": "recursive_reasoning.trm_singlez@TinyRecursiveReasoningModel_ACTV1",
    "trm_hier6": "recursive_reasoning.trm_hier6@TinyRecursiveReasoningModel_ACTV1",
    "hrm": "recursive_reasoning.hrm@HierarchicalReasoningModel_ACTV1",
    "transformer": "recursive_reasoning.transformers_baseline@Model_ACTV2",
}
# Options that `all_config.yaml` does not contain: they come from the data.
OF_DATA = ("batch_size", "seq_len", "vocab_size", "num_puzzle_identifiers")
RATES = ("puzzle_emb_lr", "puzzle_emb_weight_decay", "ema_rate", "global_batch_size")


def weights_of(golden: Golden, style: str = "") -> dict[str, np.ndarray]:
    """Return the weights after six updates, by official names."""
    named = golden.tree("weights") | golden.tree("step5/weights_after")
    return {style + name: array for name, array in named.items()}


def rounded(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights with initial latents in bfloat16, as trained in bfloat16."""
    narrow = np.dtype(jnp.bfloat16)
    return {
        name: array.astype(narrow) if name.endswith("_init") else array
        for name, array in weights.items()
    }


def options_of(golden: Golden) -> dict[str, Any]:
    """Return the content of a case's `all_config.yaml`."""
    stored = golden.options
    optimizer = stored["optimizer"]
    skipped = (*OF_DATA, "arch", "loss_type", "optimizer")
    arch = {name: value for name, value in stored.items() if name not in skipped}
    arch["name"] = ARCH[stored["arch"]]
    arch["loss"] = {"name": "losses@ACTLossHead", "loss_type": stored["loss_type"]}
    training = ("lr", "weight_decay", "beta1", "beta2")
    return {
        "arch": arch,
        "data_paths": ["data/sudoku"],
        "data_paths_test": [],
        "evaluators": [],
        "epochs": 50000,
        "eval_interval": 5000,
        "lr_warmup_steps": optimizer["warmup_steps"],
        "lr_min_ratio": 1.0,
        "seed": 0,
        "ema": True,
        **{name: optimizer[name] for name in (*training, *RATES)},
    }


def write_official(
    folder: Path,
    golden: Golden,
    file: str = "step_6.safetensors",
    style: str = STYLES[0],
    narrow: bool = False,
    before: bool = False,
) -> Path:
    """Write a checkpoint of a case and its `all_config.yaml`; return its path.

    Args:
        folder: of both files.
        golden: the case.
        file: name of the checkpoint.
        style: prefix of all names.
        narrow: store initial latents in bfloat16.
        before: write the weights before the first update.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = weights_of(golden, style)
    if before:
        weights = {style + n: a for n, a in golden.tree("weights").items()}
    write_state_dict(rounded(weights) if narrow else weights, folder / file)
    (folder / "all_config.yaml").write_text(yaml.safe_dump(options_of(golden)))
    return folder / file
