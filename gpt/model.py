"""GPT-2 as nanoGPT writes it: pre-norm blocks, learned positions, a tied head.

Options of `GPTConfig` take in what the field has learnt since.

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
    zeros,
)
from gpt.primitives import ACTIVATIONS, soft_cap

Mix = Callable[..., tuple[Float[Array, "batch seq heads head_dim"], Any]]
"""How positions exchange information: `query, key, value -> mixed, kept`."""


class Block(eqx.Module):
    """Attention, then a feed-forward layer; each reads a norm, adds to the stream."""

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
    ups: int = eqx.field(static=True)

    def __init__(self, config: GPTConfig, *, key: PRNGKeyArray):
        dim, bias = config.n_embd, config.bias
        plain = {"bias": bias, "init": normal(0.02)}
        # Each adds to the stream: smaller, so that its variance does not grow.
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
        self.ups = config.ups

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Query, key and value, and gate and up, are matrices of their own."""
        names = {"qkv": 3, "attention_out": 1, "up": self.ups, "down": 1}
        return {f"{name}.weight": (1, parts) for name, parts in names.items()}

    def __call__(
        self,
        x: Float[Array, "batch seq dim"],
        mix: Mix,
        keys: Key[Array, "batch 2"] | None = None,
    ) -> tuple[Float[Array, "batch seq dim"], Any]:
        """The stream after this block, and what `mix` keeps.

        Args:
            x: the stream.
            mix: attention of this call.
            keys: for dropout; none for no dropout.
        """
        first, second = (None, None) if keys is None else (keys[:, 0], keys[:, 1])
        qkv = self.qkv(self.attention_norm(x))
        heads = lambda x: x.reshape(*x.shape[:-1], self.heads, -1)
        query, key, value = map(heads, jnp.split(qkv, 3, axis=-1))
        mixed, kept = mix(self.qk_norm(query), self.qk_norm(key), value)
        mixed = self.attention_out(mixed.reshape(x.shape))
        x = x + dropout(mixed, self.dropout, first)
        hidden = ACTIVATIONS[self.activation](self.up(self.mlp_norm(x)))
        return x + dropout(self.down(hidden), self.dropout, second), kept


class GPT(eqx.Module):
    """Tokens to logits of the next ones, for sequences up to `block_size`.

    The token embedding is also the head, one field, two uses, unless there is a head.
    """

    embedding: Embedding
    positions: Float[Array, "block dim"] | None
    """Learned; None for rotary ones."""

    blocks: Stacked
    norm: LayerNorm | RMSNorm
    head: Embedding | None
    rope_theta: float = eqx.field(static=True)
    rope_length: int = eqx.field(static=True)
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
        self.blocks = Stacked(
            lambda key: Block(config, key=key),
            jax.random.split(block_key, config.n_layer),
        )
        self.norm = build_norm(config)
        init = zeros if config.zero_init else small
        head = Embedding(vocab, dim, init=init, key=jax.random.fold_in(token_key, 1))
        self.head = None if config.tied_head else head
        self.rope_theta = config.rope_theta
        self.rope_length = 0 if learned else config.block_size
        self.logit_cap = config.logit_cap
        self.dropout = config.dropout
        self.kernel = kernel
        in_a_row = config.n_layer if jax.default_backend() == "gpu" else 1
        self.unroll = config.unroll or in_a_row
        self.remat = config.remat

    @property
    def compute_type(self) -> jnp.dtype:
        """That of the linear layers."""
        return self.blocks.layers.qkv.weight.dtype

    def __call__(
        self,
        tokens: Int[Array, "batch seq"],
        keys: Key[Array, " batch"] | None = None,
    ) -> Float[Array, "batch seq vocab"]:
        """Logits of the token after each position."""
        return self.logits(self.hidden(tokens, keys))

    @property
    def block_size(self) -> int:
        """The longest sequence."""
        return self.rope_length if self.positions is None else len(self.positions)

    @property
    def unembedding(self) -> Embedding:
        """What the logits are made by."""
        return self.embedding if self.head is None else self.head

    def embed(
        self, tokens: Int[Array, "batch seq"], first: int | Int[Array, ""] = 0
    ) -> Float[Array, "batch seq dim"]:
        """What goes into the blocks, of tokens from position `first` on."""
        x = self.embedding(tokens)
        if self.positions is None:
            return x
        seq = tokens.shape[1]
        return x + jax.lax.dynamic_slice_in_dim(self.positions, first, seq)

    def turn(self, mix: Mix, first: int | Int[Array, ""] = 0) -> Mix:
        """`mix` of queries and keys that are turned by their positions, if rotary."""
        if self.positions is not None:
            return mix
        turned = lambda x: rotate(x, self.rope_theta, first)
        return lambda query, key, value: mix(turned(query), turned(key), value)

    def logits(self, x: Float[Array, "*axes dim"]) -> Float[Array, "*axes vocab"]:
        """Logits of the next token, from what the head reads."""
        return soft_cap(self.unembedding.unembed(x), self.logit_cap)

    def hidden(
        self,
        tokens: Int[Array, "batch seq"],
        keys: Key[Array, " batch"] | None = None,
    ) -> Float[Array, "batch seq dim"]:
        """What the head reads.

        Args:
            tokens: no more of them than the model has positions.
            keys: for dropout, one for each sequence; none for no dropout.
        """
        if self.dropout == 0.0:
            keys = None
        with jax.named_scope("embed"):
            x = self.embed(tokens)
            if keys is not None:
                both = jax.vmap(jax.random.split)(keys)
                keys, embedding_keys = jnp.moveaxis(both, 1, 0)
                x = dropout(x, self.dropout, embedding_keys)
        return self.norm(self._blocks(x, keys)).astype(self.compute_type)

    @jax.named_scope("blocks")
    def _blocks(
        self,
        x: Float[Array, "batch seq dim"],
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
            return block(x, self.turn(mix), rest)

        return self.blocks.scan(apply, x, unroll=self.unroll, remat=self.remat)[0]


def build_norm(config: GPTConfig) -> LayerNorm | RMSNorm:
    """The norm in front of every layer and of the head."""
    if config.norm == "rms":
        return RMSNorm()
    return LayerNorm(config.n_embd, bias=config.bias)


def cast(model: GPT, dtype: jnp.dtype) -> GPT:
    """The model with its linear layers in a type, in which they and attention compute.

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
    """The model with its first `block_size` positions.

    Source: nanoGPT, `GPT.crop_block_size`.

    Raises:
        ValueError: if it has fewer.
    """
    assert model.positions is not None
    have = model.block_size
    require(
        block_size <= have,
        f"`block_size` must not exceed the positions of the loaded weights: got "
        f"{block_size}, they have {have}. Use at most {have}.",
    )
    return eqx.tree_at(lambda m: m.positions, model, model.positions[:block_size])


_GPT2_TOKENS, _PADDED = 50257, 50304


def embedding_rows(config: GPTConfig, tokens: int) -> int:
    """Rows of the embedding of a model of `tokens` different tokens.

    Source: nanoGPT, `train.py`: 50,304 for GPT-2's tokens, else what the data has.

    Raises:
        UserError: if the configured number is too small.
    """
    default = _PADDED if tokens == _GPT2_TOKENS else tokens
    rows = config.vocab_size or default
    require(
        rows >= tokens,
        f"`vocab_size` must hold the {tokens:,} tokens of the data: got {rows:,}. "
        f"Leave it out, or use at least {tokens}.",
    )
    return rows


def build_gpt(
    config: GPTConfig, *, tokens: int, kernel: Kernel = "xla", key: PRNGKeyArray
) -> GPT:
    """A freshly initialised model in float32 for `tokens` different tokens."""
    rows = embedding_rows(config, tokens)
    return GPT(config, vocab=rows, kernel=kernel, key=key)
