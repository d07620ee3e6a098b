"""nanoGPT's model, imported from a checkout."""

import contextlib
import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from configs import GPTConfig

_NAME = "nanogpt_model"


def import_nanogpt(checkout: Path) -> ModuleType:
    """The module `model.py` of a checkout.

    Raises:
        SystemExit: if there is none.
    """
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    path = checkout / "model.py"
    spec = importlib.util.spec_from_file_location(_NAME, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(
            f"A checkout of nanoGPT must have a file `model.py`: there is no {path}. "
            "Pass `--nanogpt` the folder of a clone of github.com/karpathy/nanoGPT."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module  # where torch.compile looks for it
    spec.loader.exec_module(module)
    return module


def build_nanogpt(config: GPTConfig, rows: int, checkout: Path) -> Any:
    """NanoGPT's `GPT` of our configuration, on the CPU, with fresh weights.

    Args:
        config: sizes, biases and dropout.
        rows: of the token embedding.
        checkout: folder of nanoGPT.
    """
    code = import_nanogpt(checkout)
    names = ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")
    options = {name: getattr(config, name) for name in names}
    with quiet():
        return code.GPT(code.GPTConfig(**options, vocab_size=rows))


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Without what nanoGPT prints of its parameters."""
    return contextlib.redirect_stdout(io.StringIO())
