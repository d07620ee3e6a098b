"""Count the parameters and operations of a GPT."""

import equinox as eqx
import jax

from gpt.model import GPT


def count_parameters(model: GPT) -> int:
    """Count parameters without positions; arrays may be abstract.

    Source: nanoGPT, `get_num_params`.
    """
    counted = eqx.tree_at(
        lambda m: m.positions, model, None, is_leaf=lambda x: x is None
    )
    return sum(leaf.size for leaf in jax.tree.leaves(counted))


def flops_per_token(model: GPT) -> int:
    """Count operations per token of forward and backward at full length.

    An embedding lookup counts as no operation, masked attention in full, and a block of
    `loops` each time that it is computed.

    Source: nanoGPT, `estimate_mfu`; Chowdhery et al. 2022, arXiv 2204.02311,
    appendix B.
    """
    vocab, dim = model.embedding.weight.shape
    weights = count_parameters(model) - (0 if model.head is None else vocab * dim)
    block = sum(leaf.size for leaf in jax.tree.leaves(model.blocks))
    block //= model.blocks.length
    weights += (len(model.order) - model.blocks.length) * block
    return 6 * weights + 12 * len(model.order) * dim * model.block_size
