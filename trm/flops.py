"""Operations of a TRM, from its configuration alone: what MFU counts.

Those of matrix products; a multiplication and its addition are two. A backward pass
takes twice the operations of its forward pass.

Source: Chowdhery et al. 2022, arXiv 2204.02311, appendix B, for MFU.
"""

from configs import ACTConfig, TRMConfig
from trm.layers import swiglu_width


def network_flops(config: TRMConfig, layers: int, length: int) -> int:
    """Operations of a network of so many blocks on one puzzle, forward."""
    dim, expansion = config.dim, config.expansion
    if config.mixer == "attention":
        projections, scores = 8 * dim * dim, 4 * length * dim
        mixer = length * (projections + scores)
    else:
        mixer = 6 * dim * length * swiglu_width(length, expansion)
    return layers * (mixer + 6 * length * dim * swiglu_width(dim, expansion))


def cycle_flops(config: TRMConfig, length: int) -> tuple[int, int] | None:
    """Operations of one cycle, forward: all, and those that are differentiated.

    None of a variant that is not known here.
    """
    network = network_flops(config, config.layers, length)
    match config.variant:
        case "trm" | "single_z" | "hier6" | "eqr":
            all_calls = (config.L_cycles + 1) * network
            return all_calls, all_calls
        case "hrm":
            high = network_flops(config, config.H_layers or config.layers, length)
            return config.L_cycles * network + high, network + high
        case "transformer":
            return network, network
        case _:
            return None


def step_flops(
    config: TRMConfig, act: ACTConfig, *, vocab: int, seq: int
) -> int | None:
    """Operations of one supervision step of one puzzle, forward and backward.

    None of a variant that is not known here.
    """
    cycle = cycle_flops(config, config.prefix + seq)
    if cycle is None:
        return None
    forward, differentiated = config.H_cycles * cycle[0], cycle[1]
    heads = 2 * config.dim * (vocab * seq + 2)
    once_more = act.continue_loss and act.max_steps > 1
    return (1 + once_more) * (forward + heads) + 2 * (differentiated + heads)
