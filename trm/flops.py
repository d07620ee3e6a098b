"""Operations of a TRM, from its configuration alone: what MFU counts.

Those of matrix products; a multiplication and its addition are two. A backward pass
takes twice the operations of its forward pass.

Source: Chowdhery et al. 2022, arXiv 2204.02311, appendix B, for MFU.
"""

import math

from configs import ACTConfig, TRMConfig
from trm.layers import swiglu_width


def mixer_flops(config: TRMConfig, length: int) -> int | None:
    """Operations of a mixer on one puzzle, forward; None of one not known here."""
    dim = config.dim
    match config.mixer:
        case "attention":
            return length * (8 * dim * dim + 4 * length * dim)
        case "mlp":
            return 6 * dim * length * _inner_width(config, length)
        case "units":
            cells = length - config.prefix
            units = 4 * round(cells ** (2 / 3)) if config.symbols else 3 * cells**0.5
            return 2 * dim * dim * (round(units) + (config.prefix > 0))
        case _:
            return None


def network_flops(config: TRMConfig, layers: int, length: int) -> int | None:
    """Operations of a network of so many blocks on one puzzle, forward."""
    mixer = mixer_flops(config, length)
    if mixer is None:
        return None
    return layers * (mixer + 6 * length * config.dim * _inner_width(config, config.dim))


def cycle_flops(config: TRMConfig, length: int) -> tuple[int, int] | None:
    """Operations of one cycle, forward: all, and those that are differentiated."""
    network = network_flops(config, config.layers, length)
    high = network_flops(config, config.H_layers or config.layers, length)
    if network is None or high is None:
        return None
    match config.variant:
        case "trm" | "single_z" | "hier6" | "eqr":
            every = (config.L_cycles + 1) * network
            return every, every
        case "hrm":
            return config.L_cycles * network + high, network + high
        case "transformer":
            return network, network
        case _:
            return None


def step_flops(
    config: TRMConfig, act: ACTConfig, *, vocab: int, seq: int
) -> int | None:
    """Operations of one supervision step of one puzzle, forward and backward.

    None of a variant or a mixer that is not known here.
    """
    cells = seq * math.isqrt(seq) if config.symbols else seq
    cycle = cycle_flops(config, config.prefix + cells)
    if cycle is None:
        return None
    forward, differentiated = config.H_cycles * cycle[0], cycle[1]
    heads = 2 * config.dim * ((1 if config.symbols else vocab) * cells + 2)
    once_more = act.continue_loss and act.max_steps > 1
    return (1 + once_more) * (forward + heads) + 2 * (differentiated + heads)


def _inner_width(config: TRMConfig, width: int) -> int:
    return swiglu_width(width, config.expansion, config.inner_multiple)
