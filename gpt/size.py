"""The parameters of a GPT, and the operations that a token costs."""

import equinox as eqx
import jax

from gpt.model import GPT


def count_parameters(model: GPT) -> int:
    """Parameters without the positions; of shapes too. nanoGPT, `get_num_params`."""
    counted = eqx.tree_at(
        lambda m: m.positions, model, None, is_leaf=lambda x: x is None
    )
    return sum(leaf.size for leaf in jax.tree.leaves(counted))


def flops_per_token(model: GPT) -> int:
    """Operations of forward and backward at full length, as nanoGPT counts them.

    Looking up a token is none, so that an embedding counts only if it is the head too.

    Source: nanoGPT, `estimate_mfu`; Chowdhery et al. 2022, arXiv 2204.02311,
    appendix B. Attention counts in full although half of it is masked.
    """
    vocab, dim = model.embedding.weight.shape
    weights = count_parameters(model) - (0 if model.head is None else vocab * dim)
    return 6 * weights + 12 * model.blocks.length * dim * model.block_size
