"""GPT-2 as in nanoGPT: pre-norm blocks, learned positions, a tied head.

Options of `GPTConfig` add newer techniques.

Source: Radford et al. 2019; `karpathy/nanoGPT`, `model.py`.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from configs import Activation, GPTConfig, require
from data.puzzles.arc.rows import OUTPUTS
from gpt.attention import Kernel, attend
from gpt.layers import (
    Embedding,
    LayerNorm,
    Linear,
    RMSNorm,
    Stacked,
    dropout,
    normal,
    rotate,
    rotate_pairs,
    zeros,
)
from gpt.places import angles_of, places_of
from gpt.primitives import ACTIVATIONS, soft_cap

Mix = Callable[..., tuple[Float[Array, "batch seq heads head_dim"], Any]]
"""Mixes positions: `query, key, value -> mixed, extra`."""


class Block(eqx.Module):
    """Attention, then a feed-forward layer, each with a norm and a residual sum."""

    attention_norm: LayerNorm | RMSNorm
    qkv: Linear
    qk_norm: RMSNorm | eqx.nn.Identity
    attention_out: Linear
    mlp_norm: LayerNorm | RMSNorm
    up: Linear
    down: Linear
    heads: int = eqx.field(static=True)
    dropout: float = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)
    expansion: float = eqx.field(static=True)
    ups: int = eqx.field(static=True)

    def __init__(self, config: GPTConfig, *, key: PRNGKeyArray):
        dim, bias = config.n_embd, config.bias
        plain = {"bias": bias, "init": normal(0.02)}
        # Smaller for layers that add to the stream: its variance stays constant.
        small = normal(0.02 / math.sqrt(2 * config.n_layer))
        residual = {"bias": bias, "init": zeros if config.zero_init else small}
        keys = jax.random.split(key, 4)
        self.attention_norm = build_norm(config)
        self.qkv = Linear(dim, 3 * dim, **plain, key=keys[0])
        self.qk_norm = RMSNorm() if config.qk_norm else eqx.nn.Identity()
        self.attention_out = Linear(dim, dim, **residual, key=keys[1])
        self.mlp_norm = build_norm(config)
        self.up = Linear(dim, config.ups * config.hidden, **plain, key=keys[2])
        self.down = Linear(config.hidden, dim, **residual, key=keys[3])
        self.heads = config.n_head
        self.dropout = config.dropout
        self.activation = config.activation
        self.expansion = config.expansion
        self.ups = config.ups

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Matrices that Muon updates separately: `(input axes, matrices)` by name."""
        names = {"qkv": 3, "attention_out": 1, "up": self.ups, "down": 1}
        return {f"{name}.weight": (1, parts) for name, parts in names.items()}

    def __call__(
        self,
        x: Float[Array, "batch seq dim"],
        mix: Mix,
        keys: Key[Array, "batch 2"] | None = None,
    ) -> tuple[Float[Array, "batch seq dim"], Any]:
        """Return the stream after this block, and the extra output of `mix`."""
        first, second = (None, None) if keys is None else (keys[:, 0], keys[:, 1])
        qkv = self.qkv(self.attention_norm(x))
        heads = lambda x: x.reshape(*x.shape[:-1], self.heads, -1)
        query, key, value = map(heads, jnp.split(qkv, 3, axis=-1))
        mixed, extra = mix(self.qk_norm(query), self.qk_norm(key), value)
        mixed = self.attention_out(mixed.reshape(x.shape))
        x = x + dropout(mixed, self.dropout, first)
        hidden = ACTIVATIONS[self.activation](self.up(self.mlp_norm(x)))
        return x + dropout(self.down(hidden), self.dropout, second), extra


def blocks_in_a_row(config: GPTConfig, backend: str) -> int:
    """Return the number of blocks that are compiled in sequence.

    Args:
        config: sizes of the GPT.
        backend: to compile for: `cpu`, `gpu` or `tpu`.
    """
    loop = config.remat or backend == "cpu"
    return config.unroll or (1 if loop else config.depth)


class GPT(eqx.Module):
    """Map tokens to logits of the next tokens, for sequences up to `block_size`."""

    embedding: Embedding
    positions: Float[Array, "block dim"] | None
    """Learned positions; None for rotary positions."""

    labels: int = eqx.field(static=True)
    """The vectors of the first `labels` tokens are added to all tokens."""

    blocks: Stacked
    order: tuple[int, ...] = eqx.field(static=True)
    """Numbers of the blocks in the order in which they are computed."""

    norm: LayerNorm | RMSNorm
    head: Embedding | None
    """None: the token embedding is the head (tied)."""

    rope_theta: float = eqx.field(static=True)
    rope_length: int = eqx.field(static=True)
    in_grids: bool = eqx.field(static=True)
    """Rotary positions are places in grids."""

    logit_cap: float = eqx.field(static=True)
    dropout: float = eqx.field(static=True)
    kernel: Kernel = eqx.field(static=True)
    unroll: int = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self, config: GPTConfig, *, vocab: int, kernel: Kernel, key: PRNGKeyArray
    ):
        token_key, position_key, block_key = jax.random.split(key, 3)
        dim, small = config.n_embd, normal(0.02)
        self.embedding = Embedding(vocab, dim, init=small, key=token_key)
        learned = config.positions == "learned"
        drawn = small(position_key, (config.block_size, dim))
        self.positions = drawn if learned else None
        self.labels = config.labels
        self.blocks = Stacked(
            lambda key: Block(config, key=key),
            jax.random.split(block_key, config.n_layer),
        )
        self.order = config.order
        self.norm = build_norm(config)
        init = zeros if config.zero_init else small
        outputs = OUTPUTS if config.labels else vocab  # labels are never predicted
        head = Embedding(outputs, dim, init=init, key=jax.random.fold_in(token_key, 1))
        self.head = None if config.tied_head else head
        self.rope_theta = config.rope_theta
        self.rope_length = 0 if learned else config.block_size
        self.in_grids = config.positions == "rope3d"
        self.logit_cap = config.logit_cap
        self.dropout = config.dropout
        self.kernel = kernel
        self.unroll = blocks_in_a_row(config, jax.default_backend())
        self.remat = config.remat

    @property
    def compute_type(self) -> jnp.dtype:
        """Type of the linear layers."""
        return self.blocks.layers.qkv.weight.dtype

    def __call__(
        self,
        tokens: Int[Array, "batch seq"],
        keys: Key[Array, " batch"] | None = None,
    ) -> Float[Array, "batch seq vocab"]:
        """Return logits of the token after each position."""
        return self.logits(self.hidden(tokens, keys))

    @property
    def block_size(self) -> int:
        """Maximum sequence length."""
        return self.rope_length if self.positions is None else len(self.positions)

    @property
    def unembedding(self) -> Embedding:
        """The head: its weights compute the logits."""
        return self.embedding if self.head is None else self.head

    def embed(
        self,
        tokens: Int[Array, "batch seq"],
        first: int | Int[Array, ""] = 0,
        whole: Int[Array, "batch block"] | None = None,
    ) -> Float[Array, "batch seq dim"]:
        """Return the blocks' input for tokens at positions `first` onwards.

        `whole` are the sequences that contain these tokens, if these are only a part.
        """
        x = self.embedding(tokens)
        if self.labels:
            named = (tokens if whole is None else whole)[:, : self.labels]
            x = x + jnp.sum(self.embedding(named), axis=1, keepdims=True)
        if self.positions is None:
            return x
        seq = tokens.shape[1]
        return x + jax.lax.dynamic_slice_in_dim(self.positions, first, seq)

    def turn(
        self,
        tokens: Int[Array, "batch seq"],
        first: int | Int[Array, ""] = 0,
        whole: Int[Array, "batch block"] | None = None,
    ) -> Callable[[Mix], Mix]:
        """Return a function that applies rotary positions to queries and keys.

        The identity for learned positions. See `embed` for the arguments.
        """
        if self.positions is not None:
            return lambda mix: mix
        turned = lambda x: rotate(x, self.rope_theta, first)
        if self.in_grids:
            places = places_of(tokens if whole is None else whole)
            places = jax.lax.dynamic_slice_in_dim(places, first, tokens.shape[1], 1)
            angles = lambda width: angles_of(places, width, self.rope_theta)
            turned = lambda x: rotate_pairs(x, angles(x.shape[-1]))
        return lambda mix: (
            lambda query, key, value: mix(turned(query), turned(key), value)
        )

    def logits(self, x: Float[Array, "*axes dim"]) -> Float[Array, "*axes vocab"]:
        """Return logits of the next token from the head's input."""
        return soft_cap(self.unembedding.unembed(x), self.logit_cap)

    def hidden(
        self,
        tokens: Int[Array, "batch seq"],
        keys: Key[Array, " batch"] | None = None,
    ) -> Float[Array, "batch seq dim"]:
        """Return the head's input; dropout only with `keys`, one per sequence."""
        if self.dropout == 0.0:
            keys = None
        with jax.named_scope("embed"):
            x = self.embed(tokens)
            if keys is not None:
                both = jax.vmap(jax.random.split)(keys)
                keys, embedding_keys = jnp.moveaxis(both, 1, 0)
                x = dropout(x, self.dropout, embedding_keys)
            turn = self.turn(tokens)
        return self.norm(self._blocks(x, turn, keys)).astype(self.compute_type)

    @jax.named_scope("blocks")
    def _blocks(
        self,
        x: Float[Array, "batch seq dim"],
        turn: Callable[[Mix], Mix],
        keys: Key[Array, " batch"] | None = None,
    ) -> Float[Array, "batch seq dim"]:
        def apply(
            block: Block, x: Float[Array, "batch seq dim"], layer: Int[Array, ""]
        ) -> tuple[Float[Array, "batch seq dim"], None]:
            options, rest = {"causal": True, "kernel": self.kernel}, None
            if keys is not None:
                three = jax.vmap(
                    lambda key: jax.random.split(jax.random.fold_in(key, layer), 3)
                )(keys)
                options |= {"rate": self.dropout, "keys": three[:, 0]}
                rest = three[:, 1:]
            mix = lambda *qkv: (attend(*qkv, **options), None)
            return block(x, turn(mix), rest)

        how = {"order": self.order, "unroll": self.unroll, "remat": self.remat}
        return self.blocks.scan(apply, x, **how)[0]


def build_norm(config: GPTConfig) -> LayerNorm | RMSNorm:
    """Return a norm for the input of a layer or of the head."""
    if config.norm == "rms":
        return RMSNorm()
    return LayerNorm(config.n_embd, bias=config.bias)


def cast(model: GPT, dtype: jnp.dtype) -> GPT:
    """Cast the linear layers, the compute type of products and attention.

    Embeddings, positions, norms and the stream stay in float32, as under PyTorch's
    autocast.
    """
    is_linear = lambda node: isinstance(node, Linear)

    def narrow(node: Any) -> Any:
        if not is_linear(node):
            return node
        return jax.tree.map(lambda w: w.astype(dtype), node)

    return jax.tree.map(narrow, model, is_leaf=is_linear)


def crop(model: GPT, block_size: int) -> GPT:
    """Keep the first `block_size` learned positions.

    Source: nanoGPT, `GPT.crop_block_size`.

    Raises:
        UserError: if the model has fewer.
    """
    assert model.positions is not None
    require(
        block_size <= model.block_size,
        f"`block_size` must be at most {model.block_size}, the number of positions in "
        f"the loaded weights: got {block_size}.",
    )
    return eqx.tree_at(lambda m: m.positions, model, model.positions[:block_size])


_GPT2_TOKENS, _PADDED = 50257, 50304


def embedding_rows(config: GPTConfig, tokens: int) -> int:
    """Return the rows of the embedding for a vocabulary of `tokens` tokens.

    Source: nanoGPT, `train.py`: 50,304 for GPT-2's tokens, else `tokens`.

    Raises:
        UserError: if the configured number is smaller than `tokens`.
    """
    default = _PADDED if tokens == _GPT2_TOKENS else tokens
    rows = config.vocab_size or default
    require(
        rows >= tokens,
        f"`vocab_size` must be at least {tokens}, the vocabulary of the data: got "
        f"{rows}. Omit it, or increase it.",
    )
    return rows


def build_gpt(
    config: GPTConfig, *, tokens: int, kernel: Kernel = "xla", key: PRNGKeyArray
) -> GPT:
    """Initialize a float32 model for a vocabulary of `tokens` tokens."""
    rows = embedding_rows(config, tokens)
    return GPT(config, vocab=rows, kernel=kernel, key=key)
