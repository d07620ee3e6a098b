"""An experiment: one kind of model, its data and its optimizer.

Its methods are all that `train/run.py` needs to train it. `train/trm.py` and
`train/gpt.py` define one experiment each. For a new experiment, subclass one of them
and override methods (`docs/own-experiment.md`).

Attributes of a model's modules inform the optimizer:

- `trained = False`: arrays are saved, but neither trained nor averaged;
- `stacked = True`: arrays have a leading axis of layers, so that an array of one vector
  per layer is not treated as a matrix;
- `matrices = {"qkv.weight": (1, 3)}`: this array has 1 axis of inputs, and 3 matrices
  side by side in its other axes (Muon updates each separately).
"""

import abc
import contextlib
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, Key, PyTree

from configs import LARGEST, UserError, require
from gpt.attention import Kernel, pick_kernel
from gpt.metrics import Loss, Metrics
from train.devices import start
from train.evaluation import Evaluation, Split
from train.mesh import make_mesh, require_divides
from train.models import Sizes, build_model
from train.optim import Optimizer
from train.state import TrainState, new_state
from train.watch.speed import Values


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """Execution of a step.

    Only `precision` (by rounding) and `supervision_steps` (which share one update)
    change the result.
    """

    batch_size: int
    precision: Literal["bfloat16", "float16", "float32"]
    seed: int
    accumulation: int = 1
    supervision_steps: int = 1

    @property
    def dtype(self) -> jnp.dtype:
        """The compute type."""
        return jnp.dtype(self.precision)

    def matmuls(self) -> contextlib.AbstractContextManager:
        """Use full float32 products for float32 (GPUs and TPUs round by default)."""
        if self.precision == "float32":
            return jax.default_matmul_precision("highest")
        return contextlib.nullcontext()

    def keys(self, number: Array, rows: Int[Array, " rows"]) -> Key[Array, " rows"]:
        """Return one key per row of the global batch in supervision step `number`."""
        key = jax.random.fold_in(jax.random.key(self.seed), number)
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)


@dataclass(frozen=True, eq=False)
class Phase:
    """The steps `first` to `end - 1`, which share one compiled program."""

    first: int
    end: int
    experiment: "AbstractExperiment"
    """The experiment with the batch size and the depth of these steps."""

    values: dict[str, int]
    """Values of the schedules, reported with the metrics."""


class AbstractExperiment(abc.ABC):
    """One kind of model, its data and its optimizer.

    The traced methods are pure functions over the rows of one device. A *filled carry*
    is the result of `refill`. The defaults suit a model without carry and puzzle
    table.

    Attributes:
        config: of the run.
        title: preset or name, used for the run's directory and in its first line.
        mesh: the devices.
        sizes: sizes of the model taken from the data.
    """

    kind: ClassVar[str]
    """Kind of model, as in `train/models.py`."""

    unit: ClassVar[str] = "examples"
    """Name of a batch's rows in printed output."""

    def __init__(
        self,
        config: Any,
        title: str = "run",
        *,
        mesh: Mesh | None = None,
        sizes: Sizes | None = None,
    ):
        """Describe a run. Its data are opened on first use.

        Args:
            config: of the run.
            title: preset or name.
            mesh: the devices; None to use `config.mesh`.
            sizes: sizes of the model, for an experiment without data; None to read them
                from the data.
        """
        self.config, self.title = config, title
        self.source: Any = None
        if mesh is not None:
            self.mesh = mesh
        if sizes is not None:
            self.sizes = sizes
        elif config.init_from != "scratch":
            self.config, self.source = self.resolve()

    @cached_property
    def mesh(self) -> Mesh:
        """The devices; JAX is started as configured."""
        start(self.config.mesh, self.config.run)
        return make_mesh(self.config.mesh)

    # -- traced ------------------------------------------------------------------------

    def build(self) -> tuple[Any, PyTree]:
        """Return a fresh model and the rows of its puzzle table; () without one."""
        return build_model(self.config, self.sizes, self.kernel)

    @abc.abstractmethod
    def cast(self, model: Any, dtype: jnp.dtype) -> Any:
        """Cast a model to the compute type.

        Leaves whose gradients must be summed in float32, over rows or over several
        uses, are not cast.
        """

    @abc.abstractmethod
    def loss(
        self, model: Any, rows: PyTree, carry: PyTree, keys: Key[Array, " batch"]
    ) -> Loss:
        """Return the loss summed over rows, and (weight, next carry, metrics).

        An update uses the gradient of the loss summed over the global batch, divided by
        the summed weight (rows, or tokens).

        Args:
            model: cast.
            rows: of the puzzle table, one per id in `row_ids`.
            carry: filled.
            keys: one per row.
        """

    @abc.abstractmethod
    def evaluate(
        self, model: Any, rows: PyTree, carry: PyTree
    ) -> tuple[Metrics, PyTree]:
        """Return metrics and predictions for a filled carry."""

    def init_carry(self, model: Any, batch: int) -> PyTree:
        """Return the carry of `batch` rows before the first step."""
        return ()

    def refill(self, model: Any, carry: PyTree, batch: PyTree) -> PyTree:
        """Return the filled carry."""
        return batch

    def row_ids(self, carry: PyTree) -> PyTree:
        """Return the rows of the puzzle table that a filled carry looks up.

        An id beyond the table marks a row of padding.
        """
        return ()

    def done(self, carry: PyTree) -> Bool[Array, ""]:
        """Return whether all rows have halted (`episode`)."""
        return jnp.ones((), bool)

    def init(self) -> TrainState:
        """Return the first state."""
        model, rows = self.build()
        dtype, batch = self.step_config.dtype, self.config.batch_size
        return new_state(
            model,
            rows,
            self.init_carry(self.cast(model, dtype), batch),
            self.optimizer.tx,
            ema=self.averaged,
            scaled=self.config.precision == "float16",
        )

    # -- how a step is made ------------------------------------------------------------

    @property
    @abc.abstractmethod
    def step_config(self) -> StepConfig:
        """Batch size, slices, precision and seed of a step."""

    @property
    def eval_config(self) -> StepConfig:
        """Batch size, precision and seed of an evaluation."""
        size = self.eval_batch_size
        whole = {"accumulation": 1, "supervision_steps": 1}
        return replace(self.step_config, batch_size=size, **whole)

    @property
    def kernel(self) -> Kernel:
        """The kernel of attention on the devices of the mesh."""
        return pick_kernel(
            self.config.model.attention,
            precision=self.config.precision,
            length=self.positions,
            head_dim=self.config.model.head_dim,
            device=self.mesh.devices.flat[0],
        )

    @property
    @abc.abstractmethod
    def positions(self) -> int:
        """Length of a row in attention."""

    @abc.abstractmethod
    def make_optimizer(self, total: int) -> Optimizer:
        """Return the optimizer of a run of `total` steps."""

    @cached_property
    def optimizer(self) -> Optimizer:
        """The optimizer."""
        return self.make_optimizer(self.total)

    @property
    def averaged(self) -> bool:
        """True if averaged weights are kept, and evaluated."""
        return self.config.optim.ema > 0

    @property
    def episode(self) -> bool:
        """True if one batch gets updates until all of its rows are `done`."""
        return False

    def rates(self, examples: float) -> Values:
        """Return metrics of speed, given the examples per second."""
        return {}

    @abc.abstractmethod
    def batch_like(self, size: int) -> PyTree[jax.ShapeDtypeStruct]:
        """Return the shapes of a batch of `size` rows."""

    # -- on the host -------------------------------------------------------------------

    @cached_property
    @abc.abstractmethod
    def sizes(self) -> Sizes:
        """Sizes of the model taken from the data."""

    @property
    @abc.abstractmethod
    def data_hash(self) -> str:
        """Content hash of the data."""

    @cached_property
    @abc.abstractmethod
    def total(self) -> int:
        """Steps of the whole run."""

    @property
    @abc.abstractmethod
    def eval_every(self) -> int:
        """Steps between two evaluations."""

    @abc.abstractmethod
    def train_batch(self, number: int) -> PyTree:
        """Return this process's rows of training batch `number`. Called in a thread."""

    @property
    @abc.abstractmethod
    def eval_batch_size(self) -> int:
        """Rows evaluated at once, over all devices."""

    @abc.abstractmethod
    def eval_splits(self, when: Literal["between", "last", "only"]) -> Sequence[Split]:
        """Return the splits to evaluate during, at the end of, or without training."""

    @abc.abstractmethod
    def score(self, values: Values) -> float:
        """Return the score of an evaluation; higher is better."""

    @abc.abstractmethod
    def summary(self, evaluation: Evaluation) -> str:
        """Return an evaluation as text to print."""

    def advice(self, folder: Any) -> str:
        """Return a hint printed after a complete run; empty for none."""
        return ""

    def resolve(self) -> tuple[Any, Any]:
        """Return the configuration with the model of `init_from`, and its weights.

        Raises:
            UserError: if there are no such weights, or they are of another kind.
        """
        raise UserError(f"`init_from` must be `scratch` for {type(self).__name__}.")

    def first_weights(self) -> tuple[Any, PyTree] | None:
        """Return the first model and table rows; None to initialize them."""
        return None

    def check(self) -> None:
        """Raise `UserError` unless mesh, batches and data are compatible."""
        for size in self.config.batches.values:
            require_divides(self.mesh, size)

    # -- schedules ---------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        """Return the phases of the run in order.

        The experiment of a phase has no schedule except the learning rate's.

        Raises:
            UserError: if the run is too long.
        """
        require(
            self.total <= LARGEST,
            f"A run must have at most {LARGEST} steps: got {self.total}. Use fewer "
            "`epochs` or `max_iters`, or a larger batch.",
        )
        parts = self.config.phases(self.total)
        ends = [*(first for first, _, _ in parts[1:]), self.total]
        phases, before = [], self
        for (first, config, values), end in zip(parts, ends, strict=True):
            experiment = copy(before)
            experiment.config, experiment.total = config, self.total
            for name in ("optimizer", "flops"):  # cached for another configuration
                vars(experiment).pop(name, None)
            experiment.resize_data(first)
            phases.append(Phase(first, end, experiment, values))
            before = experiment
        return phases

    def of_length(self, total: int) -> "AbstractExperiment":
        """Return the experiment of a run of `total` steps."""
        experiment = copy(self)
        experiment.total = total
        vars(experiment).pop("optimizer", None)
        return experiment

    @abc.abstractmethod
    def resize_data(self, first: int) -> None:
        """Read training batches of `config.batch_size` from step `first` on."""
