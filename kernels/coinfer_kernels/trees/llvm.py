"""What numba cannot say: trees on a block of samples in a processor's vector lanes, written for LLVM directly.

The functions here are compiled for the types of their arguments. They read and write flat arrays without looking at
bounds.

A **block** is ``width`` samples whose features lie side by side: feature f of the sample at *place* p is
``columns[f * width + p]``, a float32, a float64 or a byte. :func:`add_trees` takes complete trees of depth 3 through
7 comparisons and 7 selects of the leaf's number, the same for every sample and for ``width`` samples at once, and
looks up the leaf's value in a register that holds all 8 (AVX-512's ``vpermpd``, of whose index only the lowest
3 bits count; elsewhere the values themselves are selected). Sums are float64, tree after tree, so that a sum does not
depend on the block.

Leaf numbers are narrower than the values that they look up. Shifting a register of them brings every k-th to the
lowest bits, so the samples' places are not in their order: :func:`samples` says which sample is where.

Bytes take a quarter of the comparisons and selects of float32. :func:`make_rank` turns a float32 into a byte, the
number of a feature's thresholds that it exceeds, by a search through thresholds that registers hold.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from coinfer_kernels.notation import IntArray

NODES, LEAVES = 7, 8
LANES = 8  # float64 values in a register of 512 bits, and rows that are transposed at once
NARROW, WIDE = 16, 64  # the widths of blocks
EDGE_START = (0, 16, 32, 48, 64, 80, 112)  # where a search finds the edges of each level
EDGE_ROOM = 176

_code: Any = cgutils  # without type hints
ir: Any = _code.ir  # llvmlite's, which numba brings along
_BYTE, _INT, _LONG, _DOUBLE = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.DoubleType()
_DOUBLES, _LONGS = ir.VectorType(_DOUBLE, LANES), ir.VectorType(_LONG, LANES)


@cache
def has_permutes() -> bool:
    """Whether the processor that numba compiles for looks up 8 values by number in one instruction."""
    features: str = cpu_target.target_context.codegen().magic_tuple()[2]
    return "+avx512f" in features.split(",")


def tree_record(column: np.dtype[Any]) -> np.dtype[Any]:
    """A tree as :func:`make_add_trees` reads it: breadth first, node i's children are 2 i + 1 and 2 i + 2.

    A sample goes left up to the threshold. The leaves' values fill a cache line.
    """
    names, types_ = ["feature", "threshold", "value"], [("u4", NODES), (column, NODES), ("f8", LEAVES)]
    value = 64 if column.itemsize < 8 else 128
    return np.dtype({"names": names, "formats": types_, "offsets": [0, 32, value], "itemsize": value + 64})


def _offsets(record: np.dtype[Any]) -> list[int]:
    return [offset for _, offset, *_ in (record.fields or {}).values()]


def numbers_together(width: int, bits: int, permutes: bool | None = None) -> int:
    """How many leaf numbers are shifted together to look up values, in a block of columns of so many bits."""
    if not (has_permutes() if permutes is None else permutes) or width * bits < LANES * 64:
        return 1  # no register full of them
    return 64 // bits


def samples(width: int, together: int) -> IntArray:
    """The sample (width,) at every place of a block; ``together`` from :func:`numbers_together`."""
    place = np.arange(width)
    group, lane = place % together, place // together
    return (lane // LANES * together + group) * LANES + lane % LANES


def _splat(builder: Any, scalar: Any, width: int) -> Any:
    vector = ir.VectorType(scalar.type, width)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), _numbers([0] * width))


def _numbers(numbers: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(_INT, len(numbers)), list(numbers))


def _part(builder: Any, vector: Any, first: int, count: int) -> Any:
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), _numbers(range(first, first + count)))


def _joined(builder: Any, vectors: Sequence[Any]) -> Any:
    """One vector of several, a power of two of them."""
    while len(vectors) > 1:
        numbers = _numbers(range(2 * vectors[0].type.count))
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [builder.shuffle_vector(first, second, numbers) for first, second in pairs]
    return vectors[0]


def _address(builder: Any, data: Any, index: Any, scalar: Any) -> Any:
    return builder.gep(data, [index if not isinstance(index, int) else ir.Constant(_LONG, index)], source_etype=scalar)


def _load(builder: Any, data: Any, index: Any, scalar: Any, width: int = 0) -> Any:
    """One number, or ``width`` of them as a vector."""
    address, size = _address(builder, data, index, scalar), _bytes(scalar)
    address = builder.bitcast(address, scalar.as_pointer())
    if width == 0:
        return builder.load(address, align=size, typ=scalar)
    vector = ir.VectorType(scalar, width)
    return builder.load(builder.bitcast(address, vector.as_pointer()), align=size, typ=vector)


def _store(builder: Any, vector: Any, data: Any, index: Any, scalar: Any) -> None:
    address = _address(builder, data, index, scalar)
    builder.store(vector, builder.bitcast(address, vector.type.as_pointer()), align=_bytes(scalar))


def _bytes(scalar: Any) -> int:
    return {_DOUBLE: 8, ir.FloatType(): 4}[scalar] if not isinstance(scalar, ir.IntType) else scalar.width // 8


def _left(builder: Any, column: Any, threshold: Any) -> Any:
    if isinstance(column.type.element, ir.IntType):
        return builder.icmp_unsigned("<=", column, threshold)
    return builder.fcmp_ordered("<=", column, threshold)


def _descend(builder: Any, left: Sequence[Any], leaves: Sequence[Any]) -> Any:
    """Of 8 leaves the one that 7 decisions lead to."""
    while len(leaves) > 1:
        nodes = left[len(leaves) // 2 - 1 : len(leaves) - 1]
        pairs = zip(nodes, leaves[::2], leaves[1::2], strict=True)
        leaves = [builder.select(node, first, second) for node, first, second in pairs]
    return leaves[0]


def _look_up(builder: Any, left: Sequence[Any], value: Any, bits: int) -> list[Any]:
    """Values of the leaves, LANES of them at a time, by the leaves' numbers."""
    width = left[0].type.count
    numbers = ir.VectorType(ir.IntType(bits), width)
    # Bits beyond the lowest 3 don't count; with them the selects of 0 and 1 remain selects.
    leaf = _descend(builder, left, [ir.Constant(numbers, [LEAVES + i] * width) for i in range(LEAVES)])
    table = _load(builder, value, 0, _DOUBLE, LANES)
    permute = _code.get_or_insert_function(
        builder.module, ir.FunctionType(_DOUBLES, [_DOUBLES, _LONGS]), "llvm.x86.avx512.permvar.df.512"
    )
    found = []
    if width * bits < 512:
        for group in range(0, width, LANES):
            found.append(builder.zext(_part(builder, leaf, group, LANES), _LONGS))
    else:
        longs = builder.bitcast(leaf, ir.VectorType(_LONG, width * bits // 64))
        for group in range(0, width * bits // 64, LANES):
            part = _part(builder, longs, group, LANES)
            found += [builder.lshr(part, ir.Constant(_LONGS, [shift] * LANES)) for shift in range(0, 64, bits)]
    return [builder.call(permute, [table, number]) for number in found]


def _select_values(builder: Any, left: Sequence[Any], value: Any) -> list[Any]:
    """As :func:`_look_up`, by selecting among the values themselves."""
    splats = []
    for leaf in range(LEAVES):
        splats.append(_splat(builder, _load(builder, value, leaf, _DOUBLE), LANES))
    groups = range(0, left[0].type.count, LANES)
    return [_descend(builder, [_part(builder, node, group, LANES) for node in left], splats) for group in groups]


def make_add_trees(width: int, permutes: bool | None = None) -> Callable[..., None]:
    """An intrinsic ``add_trees(columns, trees, total, begin)`` for blocks of that width.

    Adds to ``total[begin : begin + width]``, which is in the samples' order, what trees of depth 3 say of the block
    ``columns``.
    ``trees`` are :func:`tree_record` in a row, viewed as numbers of the columns' type. ``permutes``: as
    :func:`has_permutes` by default.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0].dtype
        scalar, bits = context.get_data_type(kind), kind.bitwidth
        arrays = [
            _code.create_struct_proxy(array)(context, builder, value=argument)
            for array, argument in zip(signature.args[:3], arguments[:3], strict=True)
        ]
        columns, records, total = (array.data for array in arrays)
        total = _address(builder, total, arguments[3], _DOUBLE)
        layout = tree_record(np.dtype(kind.name))
        size = ir.Constant(_LONG, layout.itemsize // (bits // 8))
        trees = builder.udiv(arrays[1].nitems, size)
        sums = [_code.alloca_once(builder, _DOUBLES) for _ in range(width // LANES)]
        for group, room in enumerate(sums):
            builder.store(_load(builder, total, group * LANES, _DOUBLE, LANES), room)
        with _code.for_range(builder, trees, intp=_LONG) as loop:
            tree = builder.bitcast(
                _address(builder, records, builder.mul(loop.index, size), scalar), _BYTE.as_pointer()
            )
            feature, threshold, value = (_address(builder, tree, offset, _BYTE) for offset in _offsets(layout))
            left = []
            for i in range(NODES):
                number = builder.zext(_load(builder, feature, i, _INT), _LONG)
                column = _load(builder, columns, builder.mul(number, ir.Constant(_LONG, width)), scalar, width)
                left.append(_left(builder, column, _splat(builder, _load(builder, threshold, i, scalar), width)))
            if has_permutes() if permutes is None else permutes:
                values = _look_up(builder, left, value, bits)
            else:
                values = _select_values(builder, left, value)
            for room, leaf in zip(sums, values, strict=True):
                builder.store(builder.fadd(builder.load(room, typ=_DOUBLES), leaf), room)
        for group, room in enumerate(sums):
            _store(builder, builder.load(room, typ=_DOUBLES), total, group * LANES, _DOUBLE)
        return context.get_dummy_value()

    def add_trees(_typing: Any, columns: Any, trees: Any, total: Any, begin: Any) -> Any:
        return types.void(columns, trees, total, types.int64), generate

    made: Callable[..., None] = intrinsic(add_trees)
    return made


def _transposed(builder: Any, rows: Sequence[Any]) -> list[Any]:
    """Columns of LANES rows of LANES numbers: half-blocks change places, halves of halves next (Eklundh, 1972)."""
    rows = list(rows)
    distance = 1
    while distance < LANES:
        for i in range(LANES):
            if i & distance:
                continue
            first, second = rows[i], rows[i + distance]
            low = [lane if not lane & distance else LANES + lane - distance for lane in range(LANES)]
            high = [lane + distance if not lane & distance else LANES + lane for lane in range(LANES)]
            rows[i] = builder.shuffle_vector(first, second, _numbers(low))
            rows[i + distance] = builder.shuffle_vector(first, second, _numbers(high))
        distance *= 2
    return rows


def _transposed_bytes(builder: Any, rows: Sequence[Any]) -> list[Any]:
    """As :func:`_transposed` of 8 bytes each: all in one register, of which one shuffle takes the columns."""
    joined = _joined(builder, rows)
    order = [row * LANES + column for column in range(LANES) for row in range(LANES)]
    whole = builder.shuffle_vector(joined, ir.Constant(joined.type, ir.Undefined), _numbers(order))
    return [_part(builder, whole, column * LANES, LANES) for column in range(LANES)]


def _transpose_code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    x, begin, first, rows, place, columns, width = arguments
    source_kind, column_kind = signature.args[0].dtype, signature.args[5].dtype
    source, column = context.get_data_type(source_kind), context.get_data_type(column_kind)
    data = _code.create_struct_proxy(signature.args[0])(context, builder, value=x).data
    room = _code.create_struct_proxy(signature.args[5])(context, builder, value=columns).data
    offsets = _code.create_struct_proxy(signature.args[3])(context, builder, value=rows).data
    loaded, odd, source_start = [], None, builder.add(begin, first)
    for i in range(LANES):
        number = builder.add(place, ir.Constant(_LONG, i))
        at = builder.add(source_start, _load(builder, offsets, number, _LONG))
        row = _load(builder, data, at, source, LANES)
        if isinstance(column_kind, types.Float):
            if column_kind.bitwidth < source_kind.bitwidth:
                row = builder.fptrunc(row, ir.VectorType(column, LANES))
            elif column_kind.bitwidth > source_kind.bitwidth:
                row = builder.fpext(row, ir.VectorType(column, LANES))
            nothing = builder.fsub(row, row)  # NaN where the number is not finite, else 0
            odd = nothing if odd is None else builder.fadd(odd, nothing)
        loaded.append(row)
    transposed = _transposed if isinstance(column_kind, types.Float) else _transposed_bytes
    for i, lanes in enumerate(transposed(builder, loaded)):
        start = builder.mul(builder.add(first, ir.Constant(_LONG, i)), width)
        _store(builder, lanes, room, builder.add(start, place), column)
    if odd is None:
        return ir.Constant(ir.IntType(1), 1)
    zero = ir.Constant(odd.type, [0.0] * LANES)
    finite = builder.bitcast(builder.fcmp_ordered("==", odd, zero), _BYTE)
    return builder.icmp_unsigned("==", finite, ir.Constant(_BYTE, 255))


def _transpose(_typing: Any, x: Any, begin: Any, first: Any, rows: Any, place: Any, columns: Any, width: Any) -> Any:
    """``transpose(x, begin, first, rows, place, columns, width)``: 8 features of 8 samples, side by side.

    Features ``first`` and on of the samples that go to ``place`` and on, which begin at ``begin + rows[place]`` and
    on (int64) in the flat array ``x``; numbers are converted to the type of ``columns``, a block of that width.
    Returns whether all are finite in that type.
    """
    return types.boolean(x, types.int64, types.int64, rows, types.int64, columns, types.int64), _transpose_code


transpose: Callable[..., bool] = intrinsic(_transpose)


def edge_places(levels: int) -> list[IntArray]:
    """Which of ``2 ** levels - 1`` sorted edges each level of a search compares with, by the bits found so far.

    The first comparison's bit is the lowest, so the numbers of a level count in bit-reversed order.
    """
    found = []
    for level in range(levels):
        path = np.zeros(1 << level, dtype=np.int64)
        for bit in range(level):
            path |= (np.arange(1 << level) >> bit & 1) << (level - 1 - bit)
        found.append((2 * path + 1) * (1 << (levels - 1 - level)) - 1)
    return found


def _edge(builder: Any, edges: Any, start: Any, level: int, number: Any) -> Any:
    """The edges that 16 samples are compared with next, by the bits (16,) that they have."""
    single = ir.FloatType()
    table, numbers = ir.VectorType(single, 16), number.type

    def part(offset: int) -> Any:
        at = builder.add(start, ir.Constant(_LONG, EDGE_START[level] + offset))
        return _load(builder, edges, at, single, 16)

    if level < 5:
        name, one = "llvm.x86.avx512.permvar.sf.512", ir.FunctionType(table, [table, numbers])
        return builder.call(_code.get_or_insert_function(builder.module, one, name), [part(0), number])
    name, two = "llvm.x86.avx512.vpermi2var.ps.512", ir.FunctionType(table, [table, numbers, table])
    both = _code.get_or_insert_function(builder.module, two, name)
    found = [builder.call(both, [part(o), number, part(o + 16)]) for o in range(0, 1 << level, 32)]
    if len(found) == 1:
        return found[0]
    bit = builder.and_(number, ir.Constant(numbers, [32] * 16))
    return builder.select(builder.icmp_unsigned("!=", bit, ir.Constant(numbers, [0] * 16)), found[1], found[0])


def make_rank(levels: int) -> Callable[..., None]:
    """An intrinsic ``rank(columns, edges, start, codes, column)`` for processors that permute (:func:`has_permutes`).

    Writes how many edges each number of a float32 ``column`` of a wide block exceeds, times ``2 ** (8 - levels)``, to
    the same column of ``codes``, bytes. ``edges`` holds :func:`edge_places` from ``start`` on, each level at
    ``EDGE_START``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns, edges, start, codes, column = arguments
        data, tables, room = (
            _code.create_struct_proxy(signature.args[i])(context, builder, value=array).data
            for i, array in ((0, columns), (1, edges), (3, codes))
        )
        first = builder.mul(column, ir.Constant(_LONG, WIDE))
        numbers = ir.VectorType(_INT, 16)
        parts = []
        for i in range(0, WIDE, 16):
            x = _load(builder, data, builder.add(first, ir.Constant(_LONG, i)), ir.FloatType(), 16)
            number = ir.Constant(numbers, [0] * 16)
            for level in range(levels):
                beyond = builder.fcmp_ordered(">", x, _edge(builder, tables, start, level, number))
                more = builder.or_(number, ir.Constant(numbers, [1 << level] * 16))
                number = builder.select(beyond, more, number)
            parts.append(builder.trunc(number, ir.VectorType(_BYTE, 16)))
        ranks = _joined(builder, parts)
        function, name = ir.FunctionType(ranks.type, [ranks.type]), f"llvm.bitreverse.v{WIDE}i8"
        reverse = _code.get_or_insert_function(builder.module, function, name)
        _store(builder, builder.call(reverse, [ranks]), room, first, _BYTE)
        return context.get_dummy_value()

    def rank(_typing: Any, columns: Any, edges: Any, start: Any, codes: Any, column: Any) -> Any:
        return types.void(columns, edges, types.int64, codes, types.int64), generate

    made: Callable[..., None] = intrinsic(rank)
    return made
