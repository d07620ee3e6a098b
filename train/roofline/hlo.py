"""Read the text of a compiled program: its operations, and the bytes of their arrays.

The form is XLA's HLO, as `compiled.as_text()` prints it.
"""

import re
from dataclasses import dataclass
from math import prod

WIDTHS = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16}
"""Bytes of each type whose name does not end in its bits."""

_HEAD = re.compile(r"^(?:ENTRY )?%(\S+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%(\S+) = (.*?) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
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
    """The line from the operands on."""

    root: bool
    """True for the result of its computation."""

    @property
    def scope(self) -> str:
        """The path of named scopes of the code that the operation comes from."""
        match = re.search(r'op_name="([^"]*)"', self.rest)
        return match[1] if match else ""

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate of its cycles; None without one (not on a TPU)."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(match[1]) if match else None

    @property
    def called(self) -> list[str]:
        """Names of the computations that the operation runs."""
        return _NAME.findall(" ".join(_CALLED.findall(self.rest)))

    @property
    def number(self) -> int:
        """The value of an integer constant, or the index of a parameter."""
        return int(self.rest.partition(")")[0])


Computation = dict[str, Operation]


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Return the computations of a program by name, and the name of its entry."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = computations.setdefault(head[1], {})
            entry = head[1] if line.startswith("ENTRY") else entry
        elif match := _LINE.match(line):
            root, name, shape, kind, rest = match.groups()
            operands = tuple(_NAME.findall(rest.split("), ", 1)[0]))
            current[name] = Operation(name, kind, shape, operands, rest, bool(root))
    return computations, entry


def arrays_of(shape: str) -> list[str]:
    """Return the arrays of a shape, which may be a tuple."""
    return [match[0] for match in _ARRAY.finditer(shape)]


def bytes_of(shape: str, *, main: bool = False) -> int:
    """Return the bytes of all arrays of a shape, without padding.

    Args:
        shape: in the program's notation.
        main: count only arrays in main memory. On a TPU `S(n)` marks the others.
    """
    total = 0
    for kind, sizes, layout in _ARRAY.findall(shape):
        bits = re.search(r"(\d+)$", kind)
        width = WIDTHS.get(kind) or (int(bits[1]) / 8 if bits else 0)
        if not (main and re.search(r"S\([1-9]", layout)):
            total += width * prod(map(int, filter(None, sizes.split(","))))
    return int(total)


def trip_count(loop: Operation, computations: dict[str, Computation]) -> int | None:
    """Return the number of rounds of a `while`; None if it depends on the data.

    The number is XLA's note, or comes from a condition `counter < constant` with a
    counter from 0, as `scan` and `fori_loop` make it.
    """
    if note := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.rest):
        return int(note[1])
    name = re.search(r"condition=%([\w.\-]+)", loop.rest)
    condition = computations.get(name[1], {}) if name else {}
    root = _root(condition)
    while root is not None and root.kind == "fusion":
        passed = (condition[name] for name in root.operands if name in condition)
        constants = {op.name: op for op in passed if op.kind == "constant"}
        inner = computations[root.called[0]]
        root, condition = _root(inner), inner | constants
    if root is None or root.kind != "compare" or "direction=LT" not in root.rest:
        return None
    limits = (op for op in condition.values() if op.kind == "constant")
    return next((op.number for op in limits if op.shape.startswith("s32[]")), None)


def _root(computation: Computation) -> Operation | None:
    return next((op for op in computation.values() if op.root), None)


def group_size(collective: Operation, devices: int) -> int:
    """Return the number of devices that exchange; `devices` if no groups are given.

    Groups are written one by one, `{{0,1},{2,3}}`, by their number and size,
    `[2,2]<=[4]`, or by axes of a mesh, `mesh['a'=4,'b'=2] {'b'}` (JAX 0.12).
    """
    mesh = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", collective.rest)
    if mesh is not None:
        sizes = dict(axis.split("=") for axis in mesh[1].split(","))
        return prod(int(sizes[axis]) for axis in mesh[2].split(","))
    groups = re.search(
        r"replica_groups=(?:\{\{([\d,]+)|\[\d+,(\d+)\])", collective.rest
    )
    if groups is None:
        return devices
    return int(groups[2]) if groups[2] else len(groups[1].split(","))
