"""A compiled program: the runs of its operations, and the bytes they move.

XLA's own cost analysis counts the body of a loop once. Here it counts once per round.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from train.roofline.hlo import (
    Computation,
    Operation,
    arrays_of,
    bytes_of,
    group_size,
    parse,
    trip_count,
)

COLLECTIVES = {
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
}

FREE = {
    # These move nothing, or another operation is counted for them.
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "iota"),
    *("while", "conditional", "call", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "domain", "add-dependency", "async-start"),
}

PRODUCTS = ("convolution", "dot")
"""Matrix products; on a TPU each is a convolution."""

COPIES = ("copy", "slice")

WORKSPACE = re.compile(r", [su]8\[\d+\]\{0\}\)$")
"""The last result of a call of cuBLAS or cuDNN: memory that it may use."""

CUTS = ("dynamic-slice", "slice", "gather")
WRITES = {"dynamic-update-slice": 1, "scatter": -1}
"""Kinds that write into their first operand, with the index of the new values."""


@dataclass(frozen=True)
class Run:
    """An operation with the computation it belongs to, run `times` times."""

    operation: Operation
    times: int
    computation: Computation
    in_loop: bool


class Program:
    """A compiled program of one device.

    Attributes:
        computations: by name.
        devices: number of devices that run the program.
        runs: all operations, in order.
    """

    def __init__(self, text: str):
        self.computations, entry = parse(text)
        head = text.partition("\n")[0]
        counts = re.findall(r"(?:replica_count|num_partitions)=(\d+)", head)
        self.devices = prod(map(int, counts))
        self.runs = list(self._walk(entry, 1, False))

    def _walk(self, name: str, times: int, in_loop: bool) -> Iterator[Run]:
        computation = self.computations[name]
        for operation in computation.values():
            yield Run(operation, times, computation, in_loop)
            loop = operation.kind == "while"
            if loop or operation.kind in ("call", "conditional", "async-start"):
                rounds = trip_count(operation, self.computations) if loop else 1
                for called in operation.called:
                    yield from self._walk(called, times * (rounds or 1), in_loop | loop)

    def loops(self) -> list[int | None]:
        """Return the number of rounds of each loop; None if it depends on the data."""
        return [
            trip_count(run.operation, self.computations)
            for run in self.runs
            if run.operation.kind == "while"
        ]

    # -- network -----------------------------------------------------------------------

    def collectives(self) -> dict[str, tuple[int, int]]:
        """Return the number of runs and the bytes of each kind of collective.

        Bytes of the whole array: summed, after gathering, or before scattering.
        """
        number, size = Counter[str](), Counter[str]()
        for kind, run in self._collectives():
            number[kind] += run.times
            size[kind] += run.times * _whole(kind, run)
        return {kind: (number[kind], size[kind]) for kind in number}

    def collectives_in_loops(self) -> int:
        """Return the number of collectives in the bodies of loops."""
        return sum(run.in_loop for _, run in self._collectives())

    def sent(self) -> float:
        """Return the fewest bytes that a device sends for the collectives.

        A scatter or gather over a group sends all but the device's own part. A sum
        takes one of each.
        """
        total = 0.0
        for kind, run in self._collectives():
            group = group_size(run.operation, self.devices)
            share = (group - 1) / group
            shares = {"all-reduce": 2 * share, "collective-permute": 1.0}
            total += shares.get(kind, share) * run.times * _whole(kind, run)
        return total

    def _collectives(self) -> Iterator[tuple[str, Run]]:
        for run in self.runs:
            kind = run.operation.kind.removesuffix("-start")
            if kind in COLLECTIVES:
                yield kind, run

    # -- time --------------------------------------------------------------------------

    def cycles(self) -> list[tuple[int, Run]]:
        """Return the compiler's estimate for each operation, over all of its runs.

        It has none for kernels, collectives and copies that run beside operations, and
        takes an array that stays on the chip for one in main memory.
        """
        return [(run.times * (run.operation.cycles or 0), run) for run in self.runs]

    def cycles_by_kind(self) -> dict[str, int]:
        """Return the estimate by kind of operation; "product" for those with one."""
        kinds = Counter[str]()
        for cycles, run in self.cycles():
            operation = run.operation
            inside = [operation]
            if operation.kind == "fusion":
                inside = self.computations[operation.called[0]].values()
            product = any(op.kind in PRODUCTS for op in inside)
            kinds["product" if product else operation.kind] += cycles
        return {kind: cycles for kind, cycles in kinds.most_common() if cycles}

    def without_cycles(self) -> dict[str, int]:
        """Return the runs of kernels, collectives and copies without an estimate."""
        kinds = Counter[str]()
        for run in self.runs:
            kind = run.operation.kind
            if "tpu_custom_call" in run.operation.rest:
                kind = "kernel"
            counts = kind.removesuffix("-start") in (*COLLECTIVES, *COPIES, "kernel")
            if counts and run.operation.cycles is None:
                kinds[kind] += run.times
        return dict(kinds.most_common())

    def launches(self) -> int:
        """Return the number of kernels and copies that a GPU starts.

        The condition of a loop counts once a round.
        """
        return sum(run.times for run in self.runs if not _is_free(run.operation))

    # -- memory ------------------------------------------------------------------------

    def bytes(self) -> int:
        """Return the bytes read and written in main memory."""
        return sum(size for size, _ in self.traffic())

    def traffic(self) -> list[tuple[int, Run]]:
        """Return the bytes of each operation in main memory, over all of its runs."""
        return [(run.times * self._moved(run), run) for run in self.runs]

    def _moved(self, run: Run) -> int:
        operation, kind = run.operation, run.operation.kind
        if _is_free(operation):
            return 0
        main = lambda shape: bytes_of(shape, main=True)
        if kind == "slice-start":  # its shape: whole operand, part, flag
            whole, part = arrays_of(operation.shape)[:2]
            return bytes_of(part) * ((main(whole) > 0) + (main(part) > 0))
        if kind.endswith("-start") and kind != "all-reduce-start":
            # Its shape has its operands too.
            return main(operation.shape)
        if kind in CUTS:
            return 2 * main(operation.shape)
        sizes = [
            main(run.computation[name].shape) if name in run.computation else 0
            for name in operation.operands
        ]
        if kind in WRITES:
            return 2 * sizes[WRITES[kind]]
        if kind == "fusion":
            return self._fused(operation, sizes)
        return main(WORKSPACE.sub(")", operation.shape)) + sum(sizes)

    def _fused(self, fusion: Operation, sizes: list[int]) -> int:
        """Return the bytes of a fusion with operands of these `sizes`.

        An operand that is only cut, or only written in part, counts with that part.
        """
        inner = self.computations[fusion.called[0]]
        users: dict[str, list[Operation]] = defaultdict(list)
        for operation in inner.values():
            for operand in operation.operands:
                users[operand].append(operation)
        parameters = [op for op in inner.values() if op.kind == "parameter"]
        total, in_place = 0, 0
        for parameter in parameters:
            whole = sizes[parameter.number]
            part = _used(parameter, users, inner)
            if part is None:
                total += whole
                continue
            read, written = part
            total += min(read, whole)
            if written is not None:
                in_place += whole
                total += min(written, whole)
        return total + max(bytes_of(fusion.shape, main=True) - in_place, 0)


def _is_free(operation: Operation) -> bool:
    """Return True for an operation that runs nothing itself."""
    kind = operation.kind
    return kind in FREE or kind.endswith("-done") or "ConcatBitcast" in operation.rest


def _whole(kind: str, run: Run) -> int:
    """Return the bytes of a collective's whole arrays."""
    operation = run.operation
    operands = sum(bytes_of(run.computation[o].shape) for o in operation.operands)
    if kind != "all-gather":
        return operands
    started = operation.kind == "all-gather-start"  # its shape has its operands too
    return bytes_of(operation.shape) - (operands if started else 0)


def _used(
    node: Operation, users: dict[str, list[Operation]], inner: Computation
) -> tuple[int, int | None] | None:
    """Return the bytes read and written of an array that is used in parts.

    Written is None if nothing is written; the result is None if all is used.
    """
    read, written = 0, None
    for user in users[node.name]:
        if user.kind in ("bitcast", "copy", "reshape") and not user.root:
            further = _used(user, users, inner)
            if further is None:
                return None
            read += further[0]
            written = further[1] if written is None else written
        elif user.kind in CUTS:
            read += bytes_of(user.shape)
        elif user.kind in WRITES and user.operands[0] == node.name:
            update = inner.get(user.operands[WRITES[user.kind]])
            size = bytes_of(update.shape) if update else 0
            read, written = read + size, (written or 0) + size
        else:
            return None
    return read, written
