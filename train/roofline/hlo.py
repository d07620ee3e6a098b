"""What a compiled program does: its operations, how often each runs, what they move.

XLA's own cost analysis counts the body of a loop once. Here a body counts as often as
the loop runs, which its condition or XLA's notes tell.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

WIDTHS = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16}
"""Bytes of a type that does not end in its bits."""

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)

FREE = {
    # These move nothing, or what another operation is counted for.
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "iota"),
    *("while", "conditional", "call", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "domain", "add-dependency"),
}

_HEAD = re.compile(r"^(?:ENTRY )?%(\S+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%(\S+) = (.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
_CALLED = re.compile(
    r"(?:body|condition|to_apply|calls|branch_computations)=(\{[^}]*\}|%[\w.\-]+)"
)


@dataclass(frozen=True)
class Operation:
    """One line of a compiled program."""

    name: str
    kind: str
    shape: str
    operands: tuple[str, ...]
    rest: str
    """Its line from the operands on."""

    root: bool

    @property
    def place(self) -> str:
        """Where in the model's code it comes from: the path of named scopes."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""


Computation = dict[str, Operation]


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a program by name, and the name of the first to run."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = computations.setdefault(head[1], {})
            entry = head[1] if line.startswith("ENTRY") else entry
        elif found := _LINE.match(line):
            operation = _operation(found[2], found[3], bool(found[1]))
            current[operation.name] = operation
    return computations, entry


def _operation(name: str, line: str, root: bool) -> Operation:
    shape, rest = _split_shape(line)
    kind, _, rest = rest.partition("(")
    inside = rest.split("), ", 1)[0]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Operation(name, kind.strip(), shape, operands, rest, root)


def _split_shape(line: str) -> tuple[str, str]:
    """A line's shape, which may be a tuple of tuples, and the rest."""
    if not line.startswith("("):
        shape, _, rest = line.partition(" ")
        return shape, rest
    depth = 0
    for index, letter in enumerate(line):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return line[: index + 1], line[index + 1 :]
    return line, ""


def bytes_of(shape: str, *, main: bool = False) -> int:
    """Bytes of all arrays of a shape, without padding.

    Args:
        shape: as the program writes it.
        main: only of those in the main memory: `S(n)` marks the others, on a TPU.
    """
    total = 0
    for kind, sizes, layout in _ARRAY.findall(shape):
        bits = re.search(r"(\d+)$", kind)
        width = WIDTHS.get(kind) or (int(bits[1]) / 8 if bits else 0)
        if not (main and re.search(r"S\([1-9]", layout)):
            total += width * prod(map(int, filter(None, sizes.split(","))))
    return int(total)


def trip_count(loop: Operation, computations: dict[str, Computation]) -> int | None:
    """How often a loop runs; None if that depends on the data.

    XLA says it, or the condition is `counter < constant`, of a counter from 0, as
    `scan` and `fori_loop` make it.
    """
    if noted := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.rest):
        return int(noted[1])
    name = re.search(r"condition=%([\w.\-]+)", loop.rest)
    condition = computations.get(name[1], {}) if name else {}
    root = next((op for op in condition.values() if op.root), None)
    while root is not None and root.kind == "fusion":
        inner = computations[_called(root)[0]]
        constants = [
            condition[operand]
            for operand in root.operands
            if operand in condition and condition[operand].kind == "constant"
        ]
        root = next((op for op in inner.values() if op.root), None)
        condition = {**inner, **{op.name: op for op in constants}}
    if root is None or root.kind != "compare" or "direction=LT" not in root.rest:
        return None
    for operation in condition.values():
        if operation.kind == "constant" and operation.shape.startswith("s32[]"):
            return int(operation.rest.split(")")[0])
    return None


def _called(operation: Operation) -> list[str]:
    names = " ".join(_CALLED.findall(operation.rest))
    return re.findall(r"%([\w.\-]+)", names)


@dataclass(frozen=True)
class Run:
    """An operation, how often it runs, and where it stands."""

    operation: Operation
    times: int
    computation: Computation
    in_loop: bool


class Program:
    """A compiled program, for one device of all that run it."""

    def __init__(self, text: str):
        self.computations, self.entry = parse(text)
        head = text.partition("\n")[0]
        found = re.findall(r"(?:replica_count|num_partitions)=(\d+)", head)
        self.devices = prod(map(int, found))
        self.runs = list(self._walk(self.entry, 1, False))

    def _walk(self, name: str, times: int, in_loop: bool) -> Iterator[Run]:
        computation = self.computations[name]
        for operation in computation.values():
            yield Run(operation, times, computation, in_loop)
            if operation.kind == "while":
                count = trip_count(operation, self.computations)
                for called in _called(operation):
                    yield from self._walk(called, times * (count or 1), True)
            elif operation.kind in ("call", "conditional", "async-start"):
                for called in _called(operation):
                    yield from self._walk(called, times, in_loop)

    def loops(self) -> list[int | None]:
        """How often each loop runs."""
        return [
            trip_count(run.operation, self.computations)
            for run in self.runs
            if run.operation.kind == "while"
        ]

    def collectives(self) -> dict[str, tuple[int, int]]:
        """For each kind of collective, how many run, and bytes of all their arrays.

        Of an array that is whole on a device before or after it: the summed one, the
        gathered one, the one that is scattered.
        """
        number: Counter[str] = Counter()
        size: Counter[str] = Counter()
        for kind, run in self._collectives():
            number[kind] += run.times
            size[kind] += run.times * _collected(kind, run)
        return {kind: (number[kind], size[kind]) for kind in number}

    def collectives_in_loops(self) -> int:
        """How many collectives stand in loops."""
        return sum(run.in_loop for _, run in self._collectives())

    def sent(self) -> float:
        """Bytes that a device must at least send for the collectives.

        A sum over a group of devices is a scatter and a gather, and each of these sends
        all but a device's own part.
        """
        total = 0.0
        for kind, run in self._collectives():
            group = group_size(run.operation, self.devices)
            share = (group - 1) / group
            times = {"all-reduce": 2 * share, "collective-permute": 1.0}
            total += times.get(kind, share) * run.times * _collected(kind, run)
        return total

    def _collectives(self) -> Iterator[tuple[str, Run]]:
        for run in self.runs:
            kind = run.operation.kind.removesuffix("-start")
            if kind in COLLECTIVES:
                yield kind, run

    def traffic(self) -> list[tuple[int, Run]]:
        """Bytes that each operation moves in the main memory, all its runs, ordered."""
        moved = [(run.times * self._moved(run), run) for run in self.runs]
        return sorted(moved, key=lambda pair: -pair[0])

    def bytes(self) -> int:
        """All bytes moved in the main memory, read and written."""
        return sum(size for size, _ in self.traffic())

    def _moved(self, run: Run) -> int:
        operation, at = run.operation, run.computation
        kind = operation.kind
        if kind in FREE or kind.endswith("-done") or "ConcatBitcast" in operation.rest:
            return 0
        if kind.endswith("-start") and kind != "async-start":
            # Operand, result and a flag: each counts where it lies.
            parts = [m[0] for m in _ARRAY.finditer(operation.shape)]
            if kind == "slice-start":
                part = bytes_of(parts[1])
                return sum(
                    part for shape in parts[:2] if bytes_of(shape, main=True) > 0
                )
            return sum(bytes_of(shape, main=True) for shape in parts)
        if kind == "async-start":
            return 0
        shape = lambda name: at[name].shape if name in at else ""
        main = lambda text: bytes_of(text, main=True)
        if kind in ("dynamic-slice", "slice", "gather"):
            return 2 * main(operation.shape)
        if kind in ("dynamic-update-slice", "scatter"):
            return 2 * main(shape(operation.operands[-1 if kind == "scatter" else 1]))
        if kind == "fusion":
            return self._fused(operation, at)
        return main(operation.shape) + sum(main(shape(o)) for o in operation.operands)

    def _fused(self, fusion: Operation, at: Computation) -> int:
        """Bytes of a fusion: of what it only cuts from, or writes into, that part."""
        inner = self.computations[_called(fusion)[0]]
        users: dict[str, list[Operation]] = {}
        for operation in inner.values():
            for operand in operation.operands:
                users.setdefault(operand, []).append(operation)
        parameters = {
            int(op.rest.split(")")[0]): op
            for op in inner.values()
            if op.kind == "parameter"
        }
        total, in_place = 0, 0
        for index, name in enumerate(fusion.operands):
            whole = bytes_of(at[name].shape, main=True) if name in at else 0
            if not whole or index not in parameters:
                continue
            part = _used(parameters[index], users, inner)
            if part is None:
                total += whole
            else:
                read, written = part
                total += min(read, whole)
                if written is not None:
                    in_place += whole
                    total += min(written, whole)
        return total + max(bytes_of(fusion.shape, main=True) - in_place, 0)


def _collected(kind: str, run: Run) -> int:
    """Bytes of a collective's arrays, whole as they are before or after it."""
    operation = run.operation
    parts = [run.computation[name].shape for name in operation.operands]
    before = sum(map(bytes_of, parts))
    if kind != "all-gather":
        return before
    listed = operation.kind == "all-gather-start"  # its shape lists its operands too
    return bytes_of(operation.shape) - (before if listed else 0)


def group_size(collective: Operation, devices: int) -> int:
    """How many devices exchange among themselves; all `devices` if it does not say.

    Groups are written one by one, `{{0,1},{2,3}}`, or by their number and size,
    `[2,2]<=[4]`.
    """
    found = re.search(r"replica_groups=(?:\{\{([\d,]+)|\[\d+,(\d+)\])", collective.rest)
    if found is None:
        return devices
    return int(found[2]) if found[2] else len(found[1].split(","))


def _used(
    node: Operation, users: dict[str, list[Operation]], inner: Computation
) -> tuple[int, int | None] | None:
    """Bytes read and written of an array that is only cut or written in part."""
    read, written = 0, None
    for user in users.get(node.name, []):
        if user.kind in ("bitcast", "copy", "reshape") and not user.root:
            further = _used(user, users, inner)
            if further is None:
                return None
            read += further[0]
            written = further[1] if written is None else written
        elif user.kind in ("dynamic-slice", "slice", "gather"):
            read += bytes_of(user.shape)
        elif user.kind in ("dynamic-update-slice", "scatter") and (
            user.operands[0] == node.name
        ):
            update = user.operands[-1 if user.kind == "scatter" else 1]
            size = bytes_of(inner[update].shape) if update in inner else 0
            read, written = read + size, (written or 0) + size
        else:
            return None
    return read, written
