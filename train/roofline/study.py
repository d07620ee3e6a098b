"""A train step compiled for devices that need not be here: what it needs and does."""

import os
import re
import time
from math import prod
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from configs import UserError
from train.experiment import AbstractExperiment
from train.mesh import AXES
from train.roofline.chips import chip_of
from train.roofline.cost import flops
from train.roofline.hlo import Program
from train.state import TrainState, abstract_state
from train.step import make_train_step
from train.watch.speed import peak_flops

Facts = dict[str, Any]
"""What is known of a step; numbers of bytes and operations are those of a device."""

GIGA, GIB = 10**9, 2**30


def trace(experiment: AbstractExperiment) -> tuple[Any, TrainState, PyTree]:
    """Trace the train step for devices that need not be here; return its inputs too."""
    mesh, config = experiment.mesh, experiment.step_config
    state = abstract_state(experiment.init, mesh)
    leading = (experiment.config.steps_per_call, config.supervision_steps)
    leading = () if experiment.episode else leading
    spec = PartitionSpec(*[None] * len(leading), AXES)
    sharding = NamedSharding(mesh, spec)
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(
            (*leading, *a.shape), a.dtype, sharding=sharding
        ),
        experiment.batch_like(config.batch_size),
    )
    parts = experiment, experiment.optimizer, mesh, config, state
    step = make_train_step(*parts, episode=experiment.episode, compiled=False)
    return jax.jit(step, donate_argnums=0).trace(state, batch), state, batch


def study(experiment: AbstractExperiment) -> tuple[Facts, Program | None]:
    """Return what a step needs and does, and its program; None if it does not fit."""
    mesh, config = experiment.mesh, experiment.step_config
    calls = experiment.config.steps_per_call
    device = mesh.devices.flat[0]
    start = time.perf_counter()
    traced, state, batch = trace(experiment)
    each = lambda tree: sum(
        prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
    facts: Facts = {
        "device": device.device_kind,
        "mesh": dict(mesh.shape),
        "batch": config.batch_size,
        "slices": config.accumulation,
        "examples": config.batch_size * config.supervision_steps * calls,
        "updates": calls,
        "state": {name: each(part) for name, part in vars(state).items()}
        | {"batch": each(batch)},
        "arrays": len(jax.tree.leaves(state)),
        "flops": flops(traced.jaxpr.jaxpr),
    }
    room = room_of(device)
    lowered = traced.lower()
    middle = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise UserError(
                "The compiler must take the program: it ended with an error of its own "
                f"({str(error).splitlines()[0][:200]}). Try more slices of the batch, "
                "or another slice of devices."
            ) from error
        needed = asked_for(str(error))
        return facts | {"fits": False, "peak": needed, "room": room}, None
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None
    assert text is not None
    program = Program(text)
    facts |= {
        "lower_s": round(middle - start, 1),
        "compile_s": round(time.perf_counter() - middle, 1),
        "fits": room is None or memory.peak_memory_in_bytes <= room,
        "room": room,
        "peak": memory.peak_memory_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "aliased_arrays": len(re.findall(r"(?:may|must)-alias", text.split("\n")[0])),
        "collectives": program.collectives(),
        "sent": program.sent(),
        "collectives_in_loops": program.collectives_in_loops(),
        "loops": program.loops(),
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "bytes": program.bytes(),
    }
    found = roofline(facts)
    if found:
        found["rates"] = experiment.rates(found["best_rate"])
    return facts | found, program


def asked_for(refusal: str) -> float | None:
    """Bytes that a refused program would take; None if libtpu does not say."""
    found = re.search(r"(?:Used |temporaries \()([\d.]+)G", refusal)
    return float(found[1]) * GIB if found else None


def room_of(device: Any) -> int | None:
    """Bytes of a device that a program may use; None if not known."""
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device.platform == "tpu":
        chip = chip_of(device.device_kind)
        return None if chip is None or chip.usable is None else int(chip.usable * GIB)
    return (device.memory_stats() or {}).get("bytes_limit")


def roofline(facts: Facts) -> Facts:
    """Least seconds of a dispatch by each bound, and what follows from them.

    Nothing of a device that is not in the tables.
    """
    peak, chip = peak_flops(facts["device"]), chip_of(facts["device"])
    if peak is None or chip is None:
        return {}
    bounds = {
        "compute": facts["flops"] / peak,
        "memory": facts["bytes"] / (chip.memory * GIGA),
        "network": facts["sent"] / (chip.network * GIGA) if chip.network else 0.0,
    }
    bound = max(bounds, key=lambda name: bounds[name])
    rate = facts["examples"] / bounds[bound]
    return {"seconds": bounds, "bound": bound, "best_rate": rate}
