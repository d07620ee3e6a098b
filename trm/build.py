"""Build a model: one `match` for the mixer, one for the variant."""

import math
from typing import assert_never

import jax
from jaxtyping import PRNGKeyArray

from configs import TRMConfig, require
from data.puzzles.sudoku.board import BOXES
from gpt.attention import Kernel
from trm.conv_swiglu import ConvSwiGLU
from trm.flow import Flow
from trm.layers import (
    AbstractMixer,
    AttentionMixer,
    Block,
    Network,
    SwiGLU,
    TokenMLP,
)
from trm.loss import log_softmax, log_stablemax
from trm.model import TRM
from trm.recursion import AbstractRecursion
from trm.units import UnitMixer
from trm.variants.eqr import EqR
from trm.variants.hrm import HRM
from trm.variants.infiloop import InfiLoop
from trm.variants.single_latent import SingleLatent
from trm.variants.six_latent import SixLatent
from trm.variants.transformer import Transformer
from trm.variants.two_latent import TwoLatent


def build_mixer(
    config: TRMConfig,
    length: int,
    kernel: Kernel,
    key: PRNGKeyArray,
) -> AbstractMixer:
    """Build the token mixer of one block, over `length` positions."""
    match config.mixer:
        case "attention":
            rotary = config.positions in ("rope", "rope2d")
            board = None
            if config.positions == "rope2d":
                cells = length - config.prefix
                side = math.isqrt(cells)
                require(
                    side**2 == cells,
                    f"`positions=rope2d` needs a square board: got {cells} cells. Use "
                    "rope.",
                )
                board = config.prefix, side
            return AttentionMixer(
                length,
                config.dim,
                config.heads,
                rope_theta=config.rope_theta if rotary else None,
                board=board,
                eps=config.norm_eps,
                kernel=kernel,
                key=key,
            )
        case "mlp":
            return TokenMLP(
                length,
                config.expansion,
                config.inner_multiple,
                normed=config.gate == "normed",
                eps=config.norm_eps,
                # A convolution over positions needs them in one axis.
                kernel="xla" if config.gate == "conv" else kernel,
                key=key,
            )
        case "units":
            size = math.isqrt(length - config.prefix)
            require(
                size in BOXES and size**2 == length - config.prefix,
                "`mixer=units` needs Sudoku of "
                f"{', '.join(f'{n}x{n}' for n in BOXES)}: got puzzles of "
                f"{length - config.prefix} cells. Use mixer=mlp or attention.",
            )
            return UnitMixer(
                BOXES[size],
                config.dim,
                size if config.symbols else 1,
                eps=config.norm_eps,
                key=key,
            )
        case _:
            assert_never(config.mixer)


def build_mlp(
    config: TRMConfig, positions: int, key: PRNGKeyArray
) -> SwiGLU | ConvSwiGLU:
    """Build the MLP over features of one block; `positions` is their axis."""
    sizes = config.dim, config.expansion, config.inner_multiple
    if config.gate == "conv":
        return ConvSwiGLU(*sizes, axis=positions, key=key)
    return SwiGLU(*sizes, normed=config.gate == "normed", key=key)


def build_network(
    config: TRMConfig,
    layers: int,
    length: int,
    kernel: Kernel,
    key: PRNGKeyArray,
) -> Network:
    """Build `layers` blocks over `length` positions."""
    blocks = []
    for block_key in jax.random.split(key, layers):
        mixer_key, mlp_key = jax.random.split(block_key)
        mixer = build_mixer(config, length, kernel, mixer_key)
        mlp = build_mlp(config, 0 if mixer.positions_first else -2, mlp_key)
        blocks.append(Block(mixer, mlp, config.norm_eps))
    return Network(tuple(blocks))


def build_recursion(
    config: TRMConfig,
    length: int,
    kernel: Kernel,
    key: PRNGKeyArray,
) -> AbstractRecursion:
    """Build the configured variant, with its networks."""
    latent_key, network_key, second_key = jax.random.split(key, 3)
    network = build_network(config, config.layers, length, kernel, network_key)
    match config.variant:
        case "trm":
            return TwoLatent(network, config.dim, config.L_cycles, key=latent_key)
        case "single_z":
            return SingleLatent(network, config.dim, config.L_cycles, key=latent_key)
        case "hier6":
            return SixLatent(network, config.dim, config.L_cycles, key=latent_key)
        case "hrm":
            layers = config.H_layers or config.layers
            high = build_network(config, layers, length, kernel, second_key)
            return HRM(high, network, config.dim, config.L_cycles, key=latent_key)
        case "eqr":
            return EqR(network, config.dim, config.L_cycles, key=latent_key)
        case "infiloop":
            return InfiLoop(network, config.dim, config.L_cycles, key=latent_key)
        case "transformer":
            return Transformer(network, config.dim, key=latent_key)
        case _:
            assert_never(config.variant)


def build_trm(
    config: TRMConfig,
    *,
    vocab: int,
    seq: int,
    kernel: Kernel = "xla",
    key: PRNGKeyArray,
) -> TRM:
    """Build a model in float32 for puzzles of `seq` tokens.

    Args:
        config: of the model.
        vocab: number of tokens.
        seq: cells of a puzzle.
        kernel: `config.attention` on the devices at hand.
        key: for the weights.
    """
    require(
        not config.symbols or vocab == math.isqrt(seq) + 2,
        f"`symbols` needs Sudoku, with a token for each digit: got {seq} cells and "
        f"{vocab} tokens. Leave it out.",
    )
    model_key, recursion_key = jax.random.split(key)
    length = config.prefix + seq
    flow = None
    if config.flow != "none":
        flow = Flow(
            vocab,
            config.dim,
            unknown=config.flow_unknown,
            gamma=config.flow_gamma,
            log_p=log_stablemax if config.flow == "stablemax" else log_softmax,
            key=jax.random.fold_in(key, 1),
        )
    return TRM(
        build_recursion(config, length, kernel, recursion_key),
        vocab=vocab,
        seq=seq,
        dim=config.dim,
        prefix=config.prefix,
        cycles=config.H_cycles,
        learned_positions=config.positions == "learned",
        symbols=math.isqrt(seq) if config.symbols else 0,
        flow=flow,
        key=model_key,
    )
