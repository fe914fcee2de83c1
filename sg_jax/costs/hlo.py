"""Read a compiled TPU program: estimated cycles by kind of operation, collectives by kind.

Both come from the text of the optimised program, in which the compiler notes estimated cycles next
to each operation that it schedules. Loop bodies count as often as they run. Of branches that the
data chooses between, only the most costly one counts, as if it always ran.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip
COPIES = ("copy", "transpose", "bitcast", "reshape", "broadcast", "convert", "pad", "slice")
INDEXING = ("gather", "scatter", "dynamic-slice", "dynamic-update-slice")
BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2} | {
    f"{kind}{bits}": bits // 8 for kind in "suf" for bits in (8, 16, 32, 64)
}

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\(")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONSTANT = re.compile(r" constant\((\d+)\)")
_CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"\b(?:true_computation|false_computation|branch_computations)=(?:\{([^}]*)\}|(%?[\w.\-]+))"
)
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CHANNEL = re.compile(r"channel_id=(\d+)")


@dataclasses.dataclass(frozen=True)
class Collectives:
    """Collectives of one kind: how often they run, and the bytes of their results, per device."""

    count: int
    bytes: float


@dataclasses.dataclass(frozen=True)
class Operation:
    """A line of a computation, and how often it runs."""

    computation: str
    line: str
    shape: str
    name: str
    times: int


def cycles_by_kind(text: str, loops_only: bool = False) -> dict[str, int]:
    """Return the estimated cycles of each kind of operation, or only of those in loops; most first.

    A fusion counts as the most costly kind in it: matmul, then reduction, indexing (gather,
    slices), elementwise, copy. The estimates leave out the time that collectives take on wires.
    """
    computations, entry = parse(text)
    found: collections.Counter[str] = collections.Counter()
    for operation in walk(computations, entry):
        if loops_only and operation.computation == entry:
            continue
        if cycles := _CYCLES.search(operation.line):
            found[_kind(operation, computations)] += int(cycles[1]) * operation.times
    return dict(found.most_common())


def kernels(text: str) -> dict[tuple[str, tuple[int, ...]], int]:
    """Return how often each Pallas kernel is called, by its name and its first result's shape."""
    computations, entry = parse(text)
    found: collections.Counter[tuple[str, tuple[int, ...]]] = collections.Counter()
    for operation in walk(computations, entry):
        if 'custom_call_target="tpu_custom_call"' in operation.line:
            name = _found(r"^\s+(?:ROOT )?%?([\w\-]+)", operation.line)
            shape = _found(r"\b[a-z]+\d*\[([\d,]*)\]", operation.shape)
            found[name, tuple(int(n) for n in shape.split(","))] += operation.times
    return dict(found)


def collectives(text: str) -> dict[str, Collectives]:
    """Return the collectives of each kind, most bytes first.

    A collective that overlaps with other work is spread over several fusions, and is recognised by
    its channel.
    """
    computations, entry = parse(text)
    counts: dict[str, int] = collections.Counter()
    sizes: dict[str, float] = collections.defaultdict(float)
    seen = set()
    for outer in walk(computations, entry):
        for operation in (outer, *_inside(outer, computations)):
            kind = operation.name.removesuffix("-start")
            channel = _CHANNEL.search(operation.line)
            if kind not in COLLECTIVES or (key := (kind, channel and channel[1])) in seen:
                continue
            if channel:
                seen.add(key)
            counts[kind] += operation.times
            sizes[kind] += operation.times * _result_bytes(operation)
    most_first = sorted(sizes.items(), key=lambda item: -item[1])
    return {kind: Collectives(counts[kind], size) for kind, size in most_first}


def parse(text: str) -> tuple[dict[str, list[str]], str]:
    """Return the lines of each computation by its name, and the name of the entry."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", list[str]()
    for line in text.splitlines():
        if not line.startswith(" "):
            if head := _HEAD.match(line):
                lines = computations[head[2]] = []
                entry = head[2] if head[1] else entry
        elif line.strip():
            lines.append(line)
    return computations, entry


def walk(computations: dict[str, list[str]], name: str, times: int = 1) -> Iterator[Operation]:
    """Yield the operations of a computation, and of the loops and branches in it."""
    for line in computations.get(name, ()):
        if not (found := _OPERATION.match(line)):
            continue
        operation = Operation(name, line, found[1], found[2], times)
        yield operation
        if operation.name == "while":
            body = _found(r"\bbody=%?([\w.\-]+)", line)
            yield from walk(computations, body, times * _trips(line, computations))
        elif operation.name == "call":
            for called in _CALLED.findall(line):
                yield from walk(computations, called, times)
        elif operation.name == "conditional":
            names = ",".join(a or b for a, b in _BRANCHES.findall(line))
            branches = [list(walk(computations, n, times)) for n in re.findall(r"[\w.\-]+", names)]
            yield from max(branches, key=lambda each: (_cycles(each), len(each)))


def _cycles(operations: list[Operation]) -> int:
    """Return the estimated cycles of operations."""
    found = [(_CYCLES.search(each.line), each.times) for each in operations]
    return sum(int(cycles[1]) * times for cycles, times in found if cycles)


def _found(pattern: str, text: str) -> str:
    """Return what the group of a pattern matches; every such line of the compiler matches."""
    match = re.search(pattern, text)
    assert match, f"{pattern} is not in {text}"
    return match[1]


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """Return how often a loop runs: as noted, or the bound in its condition."""
    if known := _TRIPS.search(line):
        return int(known[1])
    condition = _found(r"\bcondition=%?([\w.\-]+)", line)
    bounds = [int(n) for each in computations[condition] for n in _CONSTANT.findall(each)]
    return max(bounds, default=1)


def _inside(outer: Operation, computations: dict[str, list[str]]) -> Iterator[Operation]:
    """Yield the operations inside a fusion or an asynchronous call."""
    if outer.name in ("call", "conditional", "while", "reduce", "sort", "scatter", "all-reduce"):
        return
    for called in _CALLED.findall(outer.line):
        for line in computations.get(called, ()):
            if found := _OPERATION.match(line):
                inner = Operation(called, line, found[1], found[2], outer.times)
                yield inner
                yield from _inside(inner, computations)


def _kind(operation: Operation, computations: dict[str, list[str]]) -> str:
    names = {operation.name, *(inner.name for inner in _inside(operation, computations))}
    names = {name.removesuffix("-start").removesuffix("-done") for name in names}
    if names & {"convolution", "dot"}:
        return "matmul"
    if names & set(COLLECTIVES):
        return "collective"
    for kind, members in (("reduction", ("reduce",)), ("indexing", INDEXING), ("sort", ("sort",))):
        if names & set(members):
            return kind
    plain = {"fusion", "parameter", "constant", "tuple", "get-tuple-element", *COPIES}
    return "elementwise" if names - plain else "copy"


def _result_bytes(operation: Operation) -> float:
    """Return the bytes of a collective's result; without the operands of an asynchronous one."""
    sizes = [
        BYTES.get(kind, 4) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in _ARRAY.findall(operation.shape)
    ]
    if operation.name.endswith("-start"):  # (operands, results, context)
        return max(sizes, default=0)
    return sum(sizes)
