"""One case of the generation benchmark: sizes, weights, prompt, bytes read."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from configs import GPT_PRESETS, GPTConfig


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is timed: `new_tokens` more of random prompts."""

    preset: str
    vocab: int
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    precision: Literal["float32", "bfloat16"]

    @property
    def model(self) -> GPTConfig:
        """Our configuration."""
        return GPT_PRESETS[self.preset][1].model

    def prompt(self) -> np.ndarray:
        """Random tokens, the same at every call."""
        shape = (self.batch_size, self.prompt_tokens)
        return np.random.default_rng(0).integers(0, self.vocab, shape, np.int32)

    def weight_bytes(self) -> int:
        """Bytes of the weights that every token needs, the position's row left out."""
        config = self.model
        matrices = 12 * config.n_layer * config.n_embd**2 + self.vocab * config.n_embd
        return matrices * (4 if self.precision == "float32" else 2)


def random_weights(case: Case, scale: float = 0.08) -> dict[str, np.ndarray]:
    """Weights under nanoGPT's names, large enough that no two tokens are near equal."""
    rng, config = np.random.default_rng(1), case.model
    dim = config.n_embd
    draw = lambda *shape: scale * rng.standard_normal(shape, np.float32)
    weights = {"wte.weight": draw(case.vocab, dim)}
    weights["wpe.weight"] = draw(config.block_size, dim)
    shapes = {
        "attn.c_attn": (3 * dim, dim),
        "attn.c_proj": (dim, dim),
        "mlp.c_fc": (4 * dim, dim),
        "mlp.c_proj": (dim, 4 * dim),
    }
    norms = ["ln_f"]
    for layer in range(config.n_layer):
        norms += [f"h.{layer}.ln_1", f"h.{layer}.ln_2"]
        for name, shape in shapes.items():
            weights[f"h.{layer}.{name}.weight"] = draw(*shape)
            if config.bias:
                weights[f"h.{layer}.{name}.bias"] = draw(shape[0])
    for name in norms:
        weights[f"{name}.weight"] = 1.0 + draw(dim)
        if config.bias:
            weights[f"{name}.bias"] = draw(dim)
    named = {f"transformer.{name}": array for name, array in weights.items()}
    return named | {"lm_head.weight": weights["wte.weight"]}
