"""Compile a train step, for devices of this machine or not, and measure the program."""

import os
import re
import time
from math import prod
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from configs import UserError
from train.experiment import AbstractExperiment
from train.mesh import AXES
from train.roofline.chips import chip_of
from train.roofline.cost import flops
from train.roofline.gpus import OPTIONS, is_absent
from train.roofline.program import Program
from train.state import TrainState, abstract_state
from train.step import make_eval_step, make_train_step
from train.watch.speed import peak_flops

Facts = dict[str, Any]
"""Measurements of a step by name; bytes and operations are of one device."""

GIGA, GIB = 10**9, 2**30


def trace(experiment: AbstractExperiment) -> tuple[Any, TrainState, PyTree]:
    """Trace the train step on abstract inputs; return it, the state and the batch."""
    mesh, config = experiment.mesh, experiment.step_config
    state = abstract_state(experiment.init, mesh)
    leading = (experiment.config.steps_per_call, config.supervision_steps)
    leading = () if experiment.episode else leading
    batch = _abstract_batch(experiment, leading, config.batch_size)
    parts = experiment, experiment.optimizer, mesh, config, state
    step = make_train_step(*parts, episode=experiment.episode, compiled=False)
    return jax.jit(step, donate_argnums=0).trace(state, batch), state, batch


def trace_evaluation(experiment: AbstractExperiment) -> Any:
    """Trace the evaluation of a batch on abstract inputs."""
    mesh, config = experiment.mesh, experiment.eval_config
    state = abstract_state(experiment.init, mesh)
    batch = _abstract_batch(experiment, (), config.batch_size)
    step = make_eval_step(experiment, mesh, config, state.evaluated)
    return jax.jit(step).trace(state.evaluated, state.table, batch)


def _abstract_batch(
    experiment: AbstractExperiment, leading: tuple[int, ...], size: int
) -> PyTree[jax.ShapeDtypeStruct]:
    """Return the shapes of `size` rows, split over the devices, below other axes."""
    spec = PartitionSpec(*[None] * len(leading), AXES)
    sharding = NamedSharding(experiment.mesh, spec)
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(
            (*leading, *a.shape), a.dtype, sharding=sharding
        ),
        experiment.batch_like(size),
    )


def study(experiment: AbstractExperiment) -> tuple[Facts, Program | None]:
    """Compile the train step; return its facts, and its program.

    The program is None if the compiler refuses it for lack of memory.

    Raises:
        UserError: if the compiler fails for another reason.
    """
    start = time.perf_counter()
    traced, state, batch = trace(experiment)
    facts = _inputs(experiment, state, batch)
    facts, program = _compile(traced, facts, experiment.mesh, start)
    if "best_rate" in facts:
        facts["rates"] = experiment.rates(facts["best_rate"])
    return facts, program


def study_evaluation(experiment: AbstractExperiment) -> Facts:
    """Compile the evaluation of a batch; return its facts.

    Raises:
        UserError: if the compiler fails, except for lack of memory.
    """
    start, mesh = time.perf_counter(), experiment.mesh
    device, size = mesh.devices.flat[0].device_kind, experiment.eval_batch_size
    facts = {"device": device, "examples": size}
    return _compile(trace_evaluation(experiment), facts, mesh, start)[0]


def _compile(
    traced: Any, facts: Facts, mesh: Mesh, start: float
) -> tuple[Facts, Program | None]:
    """Compile a traced program; return `facts` with its measurements, and the program.

    Args:
        traced: the program.
        facts: its inputs.
        mesh: the devices.
        start: time at which tracing began.

    Raises:
        UserError: if the compiler fails, except for lack of memory.
    """
    facts |= {"flops": flops(traced.jaxpr.jaxpr)}
    lowered = traced.lower()
    middle = time.perf_counter()
    device: Any = mesh.devices.flat[0]
    room = room_of(device)
    try:
        compiled = lowered.compile(OPTIONS if is_absent(device) else None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise UserError(
                f"The compiler failed: {str(error).splitlines()[0][:200]}. Try more "
                "slices of the batch, or another slice of devices."
            ) from error
        needed = needed_bytes(str(error))
        return facts | {"fits": False, "peak": needed, "room": room}, None
    memory: Any = compiled.memory_analysis()
    text = compiled.as_text() or ""
    program, header = Program(text), text.partition("\n")[0]
    facts |= {
        "lower_s": round(middle - start, 1),
        "compile_s": round(time.perf_counter() - middle, 1),
        "fits": room is None or memory.peak_memory_in_bytes <= room,
        "room": room,
        "peak": memory.peak_memory_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "aliased_arrays": len(re.findall(r"(?:may|must)-alias", header)),
        "collectives": program.collectives(),
        "sent": program.sent(),
        "collectives_in_loops": program.collectives_in_loops(),
        "loops": program.loops(),
        "launches": program.launches() if device.platform == "gpu" else None,
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "bytes": program.bytes(),
        "cycles": program.cycles_by_kind(),
        "without_cycles": program.without_cycles(),
    }
    return facts | roofline(facts), program


def _inputs(experiment: AbstractExperiment, state: TrainState, batch: PyTree) -> Facts:
    """Return sizes of the devices, the batch and the state."""
    mesh, config = experiment.mesh, experiment.step_config
    updates = experiment.config.steps_per_call
    size = lambda tree: sum(
        prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
    parts = vars(state) | {"batch": batch}
    return {
        "device": mesh.devices.flat[0].device_kind,
        "mesh": dict(mesh.shape),
        "batch": config.batch_size,
        "slices": config.accumulation,
        "examples": config.batch_size * config.supervision_steps * updates,
        "updates": updates,
        "state": {name: size(part) for name, part in parts.items()},
        "arrays": len(jax.tree.leaves(state)),
    }


def needed_bytes(refusal: str) -> float | None:
    """Return the memory of a refused program; None if the refusal has no number."""
    match = re.search(r"(?:Used |temporaries \()([\d.]+)G", refusal)
    return float(match[1]) * GIB if match else None


def room_of(device: Any) -> int | None:
    """Return the bytes of a device that a program may use; None if not known.

    On a GPU, the share of its memory that JAX reserves.
    """
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpu = device.platform == "gpu"
    if gpu and not is_absent(device):
        return (device.memory_stats() or {}).get("bytes_limit")
    share = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75) if gpu else 1
    chip = chip_of(device.device_kind)
    return None if chip is None else int(float(share) * chip.capacity * GIB)


def roofline(facts: Facts) -> Facts:
    """Return the least seconds of a dispatch by each bound, and the best rate.

    And the seconds that the compiler expects, where it says so. Empty if the device is
    not in the tables.
    """
    peak, chip = peak_flops(facts["device"]), chip_of(facts["device"])
    if peak is None or chip is None:
        return {}
    seconds = {
        "compute": facts["flops"] / peak,
        "memory": facts["bytes"] / (chip.memory * GIGA),
        "network": facts["sent"] / (chip.network * GIGA) if chip.network else 0.0,
    }
    bound = max(seconds, key=lambda name: seconds[name])
    rate = facts["examples"] / seconds[bound]
    found = {"seconds": seconds, "bound": bound, "best_rate": rate}
    if chip.clock and facts["cycles"]:
        total = sum(facts["cycles"].values())
        found |= {"clock": chip.clock, "estimate": total / (chip.clock * GIGA)}
    return found
