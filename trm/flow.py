"""Looped flows: the model sees a noised answer, whose noise falls from step to step.

A supervision step gets the answer mixed with noise, `(1 - t) x0 + t x1`, and the time
t. In training x1 is the solution, and t ascends over the steps of a puzzle. Evaluation
starts with noise at t = 0, and moves towards each prediction until t = 1.

Source: Suleymanzade et al. 2026, arXiv 2609.11801, algorithms 1 and 2, appendices A, D
and E; no code was found. The paper does not give the initial weights: here the noised
answer's are an embedding's. Left out are its random first time, for ARC and N-Queens,
and its linear layer on the question, for ARC.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32, Key, UInt32

from configs import ACTConfig
from data.puzzles.dataset import Puzzle
from gpt.layers import Embedding, Linear, truncated_normal
from gpt.primitives import project
from trm.noise import draw, fold

START = 0x464C4F57  # keeps these draws apart from others of the same key


class Path(eqx.Module):
    """What a row of training keeps between steps. Leading batch axis on every leaf."""

    key: UInt32[Array, "batch words"]
    """Of noise and times, which stay the same for a puzzle."""

    guess: Float[Array, "batch seq vocab"]
    """Probabilities after the last step."""

    updates: Int32[Array, " batch"]
    """Steps that the row has made since the beginning of the run."""


class Trajectory(eqx.Module):
    """What a row of an evaluation keeps between steps."""

    inputs: Int[Array, "rows seq"]
    state: Float[Array, "rows seq vocab"]
    """The noised answer."""


class Flow(eqx.Module):
    """Adds a noised answer and its time to the question.

    A cell whose token is not `unknown` is given: it is shown without noise.
    """

    answer: Float[Array, "vocab dim"]
    time_in: Linear
    time_out: Linear
    unknown: int | None = eqx.field(static=True)
    gamma: float = eqx.field(static=True)
    log_p: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        vocab: int,
        dim: int,
        *,
        unknown: int | None,
        gamma: float,
        log_p: Callable[[Array], Array],
        key: Key[Array, ""],
    ):
        """Draw the weights.

        Args:
            vocab: number of tokens.
            dim: width of the model.
            unknown: token of the cells to fill in; None: no cell is given.
            gamma: stochasticity of evaluation; 0: none.
            log_p: from logits to log probabilities.
            key: for the weights.
        """
        answer_key, in_key, out_key = jax.random.split(key, 3)
        self.answer = truncated_normal(answer_key, (vocab, dim), dim**-0.5)
        self.time_in = Linear(1, dim, bias=True, key=in_key)
        self.time_out = Linear(dim, dim, bias=True, key=out_key)
        self.unknown, self.gamma, self.log_p = unknown, gamma, log_p

    def __call__(
        self,
        x: Float[Array, "*batch length dim"],
        state: Float[Array, "*batch seq vocab"],
        t: Float[Array, "*batch"],
    ) -> Float[Array, "*batch length dim"]:
        """Return the question with a noised answer in its cells, and the time."""
        seq, dim = state.shape[-2], x.shape[-1]
        cells = math.sqrt(dim) * project(state.astype(x.dtype), self.answer)
        front = [(0, 0)] * (x.ndim - 2) + [(x.shape[-2] - seq, 0), (0, 0)]
        time = self.time_out(jax.nn.silu(self.time_in(t[..., None])))
        return x + (jnp.pad(cells, front) + time[..., None, :]).astype(x.dtype)

    def noise(
        self, keys: Key[Array, " batch"], seq: int
    ) -> Float[Array, "batch seq v"]:
        """Draw noise of standard deviation `vocab ** -0.5`."""
        vocab = len(self.answer)
        return draw(jax.random.normal, keys, (seq, vocab)) * vocab**-0.5

    def with_givens(
        self, state: Float[Array, "batch seq vocab"], inputs: Int[Array, "batch seq"]
    ) -> Float[Array, "batch seq vocab"]:
        """Return the noised answer with the given cells as they are."""
        if self.unknown is None:
            return state
        sure = jax.nn.one_hot(inputs, state.shape[-1])
        return jnp.where((inputs != self.unknown)[..., None], sure, state)

    def probabilities(
        self, logits: Float[Array, "batch seq vocab"]
    ) -> Float[Array, "batch seq vocab"]:
        """Return the predicted distribution of each cell, without gradient."""
        return jnp.exp(self.log_p(jax.lax.stop_gradient(logits)))

    # -- training ----------------------------------------------------------------------

    def init_path(self, batch: int, seq: int) -> Path:
        """Return what rows keep before the first step."""
        words = jax.random.key_data(jax.random.key(0)).shape
        return Path(
            key=jnp.zeros((batch, *words), jnp.uint32),
            guess=jnp.zeros((batch, seq, len(self.answer))),
            updates=jnp.zeros(batch, jnp.int32),
        )

    def learn(
        self,
        x: Float[Array, "batch length dim"],
        path: Path,
        puzzle: Puzzle,
        steps: Int32[Array, " batch"],
        keys: Key[Array, " batch"],
        config: ACTConfig,
    ) -> tuple[
        Float[Array, "batch length dim"],
        Callable[[Float[Array, "batch seq v"]], dict[str, Path]],
    ]:
        """Show the solution between noise and truth, later than in the step before.

        Args:
            x: the question.
            path: what the rows keep.
            puzzle: questions and solutions.
            steps: made on the puzzle.
            keys: one for each row.
            config: `max_steps` and `pseudotargets`.

        Returns:
            The question to answer, and a function from its logits to the next `path`,
            by this name.
        """
        fresh = steps == 0
        new = jax.random.key_data(fold(keys, START))
        path_key = jnp.where(fresh[:, None], new, path.key)
        own = jax.random.wrap_key_data(path_key)
        count = config.max_steps + 1
        times = jax.vmap(lambda key: jnp.sort(jax.random.uniform(key, (count,))))
        t = jnp.take_along_axis(times(fold(own, 1)), steps[:, None], axis=1)[:, 0]
        target = jax.nn.one_hot(puzzle.labels, len(self.answer))
        if config.pseudotargets:
            share = path.updates / config.pseudotargets
            drawn = jax.vmap(jax.random.uniform)(fold(fold(own, 2), steps))
            guessed = ~fresh & (drawn < share)
            target = jnp.where(guessed[:, None, None], path.guess, target)
        t_cell = t[:, None, None]
        noise = self.noise(fold(own, 0), target.shape[1])
        state = (1.0 - t_cell) * noise + t_cell * target
        state = self.with_givens(state, puzzle.inputs)

        def follow(logits: Float[Array, "batch seq v"]) -> dict[str, Path]:
            guess = self.probabilities(logits)
            return {"path": Path(path_key, guess, path.updates + 1)}

        return self(x, state, t), follow

    # -- evaluation --------------------------------------------------------------------

    def begin(
        self, inputs: Int[Array, "rows seq"], keys: Key[Array, " rows"]
    ) -> Trajectory:
        """Return the noise that an evaluation starts with."""
        return Trajectory(inputs, self.noise(fold(keys, START), inputs.shape[1]))

    def sample(
        self,
        x: Float[Array, "rows length dim"],
        trajectory: Trajectory,
        steps: Int32[Array, " rows"],
        total: int,
        keys: Key[Array, " rows"],
    ) -> tuple[
        Float[Array, "rows length dim"],
        Callable[[Float[Array, "rows seq v"]], Trajectory],
    ]:
        """Go back in time by fresh noise, and then towards the prediction.

        Args:
            x: the question.
            trajectory: of the rows.
            steps: made so far; the time is `steps / total`.
            total: steps of the evaluation.
            keys: one for each row and step.

        Returns:
            The question to answer, and a function from its logits to the next
            trajectory.
        """
        inputs = trajectory.inputs
        back = min(max(1.0 - self.gamma / total, 0.0), 1.0)
        t = jnp.minimum(steps, total - 1) / total  # rows that have ended are ignored
        s = back * t
        s_cell, next_cell = s[:, None, None], (t + 1.0 / total)[:, None, None]
        spread = jnp.sqrt((1.0 - s_cell) ** 2 - (back - s_cell) ** 2)
        noise = self.noise(fold(keys, START), inputs.shape[1])
        state = back * trajectory.state + spread * noise
        state = self.with_givens(state, inputs)

        def follow(logits: Float[Array, "rows seq v"]) -> Trajectory:
            change = self.probabilities(logits) - state
            share = (next_cell - s_cell) / (1.0 - s_cell)
            return Trajectory(inputs, state + share * change)

        return self(x, state, s), follow


class FlowEmbedding(eqx.Module):
    """The embedding of tokens, and the flow that adds to it in each step."""

    tokens: Embedding
    flow: Flow

    def __call__(self, tokens: Int[Array, "*axes"]) -> Float[Array, "*axes dim"]:
        """Return a vector per token."""
        return self.tokens(tokens)
