"""What numba cannot say: trees on a block of samples in a processor's vector lanes, written for LLVM directly.

The functions here are compiled for the types of their arguments. They read and write flat arrays without looking at
bounds.

A **record** is one complete tree of depth 3 (:func:`tree_record`), its nodes and leaves numbered breadth first::

               0               node i: left (x <= threshold[i]) to 2 i + 1, right to 2 i + 2
           1       2
         3   4   5   6         leaf j of value[0..7] lies below node 3 + j // 2
        01   23  45  67

    byte     0          28   32                         60   64                              128
             | feature[7]    | threshold[7]             |    | value[8]                      |    float32
             | uint32        | float32                  |    | float64, one line of cache    |
    byte     0          28   32                    88        128                             192
             | feature[7]    | threshold[7], float64 |       | value[8]                      |    float64

Bytes (levels, ranks) lie as float32 does, with thresholds in bytes 32 to 38.

A **block** is ``width`` samples whose features lie side by side. The sample at *place* p has feature f in
``columns[f * width + p]``, a float32, a float64 or a byte::

    columns   place      0    1    2  ...  width - 1
              feature 0  x    x    x         x          the sample at place p is number samples(width, bits)[p]
              feature 1  x    x    x         x
              ...

What :func:`make_add_trees` does with them is, in NumPy (``block = columns.reshape(F, width)``)::

    for tree in trees:                                                   # records
        left = block[tree["feature"]] <= tree["threshold"][:, None]      # (7, width)
        upper = np.where(left[0], left[1], left[2])
        lower = np.where(left[0], np.where(left[1], left[3], left[4]), np.where(left[2], left[5], left[6]))
        leaf = 4 * ~left[0] + 2 * ~upper + 1 * ~lower                    # (width,), 0 .. 7
        total[begin + samples(width, bits)] += tree["value"][leaf]

7 comparisons and 7 selects, the same for every sample. Sums are float64, tree after tree, so that a sum does not depend
on the block. How ``value[leaf]`` is found differs (:class:`Form`):

* AVX-512: a register holds all 8 values, and ``vpermpd`` looks up 8 of them, by the lowest 3 bits of 8 indices.
* AVX2: two registers hold the 8 values' lower and upper 32 bits, ``vpermd`` looks up 8 of either, and two shuffles put
  the halves together, in each half of a register by itself.
* any: the 7 selects are made of values instead of numbers, 2 to 8 at a time.

Leaf numbers are narrower than the values that they look up: a select of bytes does 32 or 64 samples at once. Shifting a
register of them brings every k-th to the lowest bits, so the samples' places are not in their order: :func:`samples`
says which sample is where.

Bytes take a quarter of the comparisons and selects of float32. :func:`make_rank` turns a float32 into a byte, the
number of a feature's thresholds that it exceeds, by a search through thresholds that registers hold.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from typing import Any

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from coinfer_kernels.machine_code import processor
from coinfer_kernels.notation import IntArray

NODES, LEAVES = 7, 8
LANES = 8  # float64 values in a register of 512 bits, and rows that are transposed at once
NARROW, WIDE = 16, 64  # the widths of blocks
EDGE_START = (0, 16, 32, 48, 64, 80, 112)  # where a search finds the edges of each level
EDGE_ROOM = 176
_ZIPPED = (0, 1, 4, 5, 2, 3, 6, 7)  # its own inverse

_code: Any = cgutils  # without type hints
ir: Any = _code.ir  # llvmlite's, which numba brings along
_BYTE, _INT, _LONG, _DOUBLE = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.DoubleType()
_DOUBLES, _LONGS = ir.VectorType(_DOUBLE, LANES), ir.VectorType(_LONG, LANES)


class Form(Enum):
    """How a leaf's value is found, by what the processor has."""

    AVX512 = "AVX-512"  # a register holds 8 float64; one instruction looks up 8 of them by number
    AVX2 = "AVX2"  # a register holds 8 halves of them; two instructions look up 8 of each half
    ANY = "any"  # the values themselves are selected


@cache
def form() -> Form:
    """The fastest form on the processor that numba compiles for (``NUMBA_CPU_NAME``, ``NUMBA_CPU_FEATURES``)."""
    features = processor()[2].split(",")
    return Form.AVX512 if "+avx512f" in features else Form.AVX2 if "+avx2" in features else Form.ANY


def tree_record(column: np.dtype[Any]) -> np.dtype[Any]:
    """A tree as :func:`make_add_trees` reads it: breadth first, node i's children are 2 i + 1 and 2 i + 2.

    A sample goes left up to the threshold. The leaves' values fill a cache line.
    """
    names, types_ = ["feature", "threshold", "value"], [("u4", NODES), (column, NODES), ("f8", LEAVES)]
    value = 64 if column.itemsize < 8 else 128
    return np.dtype({"names": names, "formats": types_, "offsets": [0, 32, value], "itemsize": value + 64})


def _offsets(record: np.dtype[Any]) -> list[int]:
    """Of the fields, in their order."""
    return [offset for _, offset, *_ in (record.fields or {}).values()]


def numbers_together(width: int, bits: int, of: Form | None = None) -> int:
    """How many leaf numbers are shifted together to look up values, in a block of columns of so many bits."""
    of = of or form()
    number = {Form.AVX512: 64, Form.AVX2: 32, Form.ANY: 0}[of]  # bits of a number that looks up
    if width * bits < LANES * number:
        return 1  # no register full of them
    return max(1, number // bits)


def samples(width: int, bits: int, of: Form | None = None) -> IntArray:
    """The sample (width,) at every place of a block whose columns' numbers have so many bits."""
    of = of or form()
    together = numbers_together(width, bits, of)
    place = np.arange(width)
    group, lane = place % together, place // together
    here = lane % LANES
    if of is Form.AVX2 and bits < 64:  # the halves of 8 values are put together in each half of a register
        here = np.array(_ZIPPED)[here]
    return (lane // LANES * together + group) * LANES + here


def _splat(builder: Any, scalar: Any, width: int) -> Any:
    """``np.full(width, scalar)``."""
    vector = ir.VectorType(scalar.type, width)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), _numbers([0] * width))


def _numbers(numbers: Sequence[int]) -> Any:
    """``np.array(numbers, np.int32)``, as a constant: the lanes that a shuffle takes."""
    return ir.Constant(ir.VectorType(_INT, len(numbers)), list(numbers))


def _part(builder: Any, vector: Any, first: int, count: int) -> Any:
    """``vector[first : first + count]``."""
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), _numbers(range(first, first + count)))


def _joined(builder: Any, vectors: Sequence[Any]) -> Any:
    """``np.concatenate(vectors)``, of a power of two of them."""
    while len(vectors) > 1:
        numbers = _numbers(range(2 * vectors[0].type.count))
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [builder.shuffle_vector(first, second, numbers) for first, second in pairs]
    return vectors[0]


def _address(builder: Any, data: Any, index: Any, scalar: Any) -> Any:
    """``data[index:]``, numbers of the type ``scalar``."""
    data = builder.bitcast(data, scalar.as_pointer())  # until numba 0.61, pointers have types
    return builder.gep(data, [index if not isinstance(index, int) else ir.Constant(_LONG, index)], source_etype=scalar)


def _load(builder: Any, data: Any, index: Any, scalar: Any, width: int = 0) -> Any:
    """``data[index]``, or ``data[index : index + width]`` as a vector."""
    address, size = _address(builder, data, index, scalar), _bytes(scalar)
    address = builder.bitcast(address, scalar.as_pointer())
    if width == 0:
        return builder.load(address, align=size, typ=scalar)
    vector = ir.VectorType(scalar, width)
    return builder.load(builder.bitcast(address, vector.as_pointer()), align=size, typ=vector)


def _store(builder: Any, vector: Any, data: Any, index: Any, scalar: Any) -> None:
    """``data[index : index + len(vector)] = vector``."""
    address = _address(builder, data, index, scalar)
    builder.store(vector, builder.bitcast(address, vector.type.as_pointer()), align=_bytes(scalar))


def _bytes(scalar: Any) -> int:
    """``np.dtype(scalar).itemsize``."""
    return {_DOUBLE: 8, ir.FloatType(): 4}[scalar] if not isinstance(scalar, ir.IntType) else scalar.width // 8


def _left(builder: Any, column: Any, threshold: Any) -> Any:
    """``column <= threshold``, (width,) bits; never true of NaN."""
    if isinstance(column.type.element, ir.IntType):
        return builder.icmp_unsigned("<=", column, threshold)
    return builder.fcmp_ordered("<=", column, threshold)


def _descend(builder: Any, left: Sequence[Any], leaves: Sequence[Any]) -> Any:
    """Of 8 leaves (each a vector) the one that 7 decisions lead to, lane by lane.

    ``leaves = np.where(left[3:7], leaves[0::2], leaves[1::2])``, then by ``left[1:3]``, then by ``left[0]``.
    """
    while len(leaves) > 1:
        nodes = left[len(leaves) // 2 - 1 : len(leaves) - 1]
        pairs = zip(nodes, leaves[::2], leaves[1::2], strict=True)
        leaves = [builder.select(node, first, second) for node, first, second in pairs]
    return leaves[0]


def _look_up(builder: Any, left: Sequence[Any], value: Any, bits: int) -> list[Any]:
    """``value[leaf]``, LANES of them at a time: AVX-512's ``vpermpd`` of the 8 values by the leaves' numbers."""
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
    """As :func:`_look_up`, by selecting among the values themselves: :func:`_descend` of 8 splats."""
    splats = []
    for leaf in range(LEAVES):
        splats.append(_splat(builder, _load(builder, value, leaf, _DOUBLE), LANES))
    groups = range(0, left[0].type.count, LANES)
    return [_descend(builder, [_part(builder, node, group, LANES) for node in left], splats) for group in groups]


def _look_up_halves(builder: Any, left: Sequence[Any], value: Any, bits: int) -> list[Any]:
    """As :func:`_look_up`, by AVX2's ``vpermd`` of the values' lower and upper 32 bits.

    ``low, high = value.view(np.int32).reshape(8, 2).T``, then ``np.stack([low[leaf], high[leaf]], 1).view(float)``.
    """
    width, halves = left[0].type.count, ir.VectorType(_INT, LANES)
    # Loaded as they lie, values 0 1 2 3 and 4 5 6 7 give halves of 0 1 4 5 and 2 3 6 7 without leaving a half register.
    first, last = (builder.bitcast(_load(builder, value, at, _DOUBLE, 4), halves) for at in (0, 4))
    order = [0, 2, 8, 10, 4, 6, 12, 14]
    low = builder.shuffle_vector(first, last, _numbers(order))
    high = builder.shuffle_vector(first, last, _numbers([lane + 1 for lane in order]))
    permute = _code.get_or_insert_function(
        builder.module, ir.FunctionType(halves, [halves, halves]), "llvm.x86.avx2.permd"
    )
    numbers = ir.VectorType(ir.IntType(bits), width)
    # Only a number's lowest 3 bits count; with those beyond, the selects of two constants remain selects.
    leaf = _descend(builder, left, [ir.Constant(numbers, [LEAVES + place] * width) for place in _ZIPPED])
    found: list[Any] = []
    if bits == 64:
        ints = builder.bitcast(leaf, ir.VectorType(_INT, 2 * width))
        for group in range(0, 2 * width, LANES):
            twice = _numbers([group + lane - lane % 2 for lane in range(LANES)])
            number = builder.shuffle_vector(ints, ir.Constant(ints.type, ir.Undefined), twice)
            both = [builder.call(permute, [table, number]) for table in (low, high)]
            mixed = builder.shuffle_vector(*both, _numbers([lane + LANES * (lane % 2) for lane in range(LANES)]))
            found.append(builder.bitcast(mixed, ir.VectorType(_DOUBLE, 4)))
        return [_joined(builder, found[i : i + 2]) for i in range(0, len(found), 2)]
    together = numbers_together(width, bits, Form.AVX2)
    if together == 1:
        whole = leaf if bits == 32 else builder.zext(leaf, ir.VectorType(_INT, width))
        parts = [_part(builder, whole, group, LANES) for group in range(0, width, LANES)]
    else:
        ints, parts = builder.bitcast(leaf, ir.VectorType(_INT, width // together)), []
        for group in range(0, width // together, LANES):
            part = _part(builder, ints, group, LANES)
            parts += [builder.lshr(part, ir.Constant(halves, [shift] * LANES)) for shift in range(0, 32, bits)]
    for number in parts:
        both = [builder.call(permute, [table, number]) for table in (low, high)]
        for start in (0, 2):  # lanes 0 1 4 5, then 2 3 6 7
            lanes = [lane + half for lane in (start, start + 1, start + 4, start + 5) for half in (0, LANES)]
            found.append(builder.bitcast(builder.shuffle_vector(*both, _numbers(lanes)), ir.VectorType(_DOUBLE, 4)))
    return [_joined(builder, found[i : i + 2]) for i in range(0, len(found), 2)]


def make_add_trees(width: int, of: Form | None = None) -> Callable[..., None]:
    """An intrinsic ``add_trees(columns, trees, total, begin)`` for blocks of that width.

    Adds to ``total[begin : begin + width]``, which is in the samples' order, what trees of depth 3 say of the block
    ``columns``.
    ``trees`` are :func:`tree_record` in a row, viewed as numbers of the columns' type. ``of``: as :func:`form` by
    default.
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
            if (of or form()) is Form.AVX512:
                values = _look_up(builder, left, value, bits)
            elif (of or form()) is Form.AVX2:
                values = _look_up_halves(builder, left, value, bits)
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
    """``np.stack(rows).T`` of LANES rows of LANES numbers.

    Half-blocks change places, halves of halves next (Eklundh, 1972).
    """
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
    """``edges[start + EDGE_START[level] :][number]``: the edges of 16 samples, by the bits (16,) found so far."""
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
    """An intrinsic ``rank(columns, edges, start, codes, column)`` for ``Form.AVX512``.

    Writes how many edges each number of a float32 ``column`` of a wide block exceeds, times ``2 ** (8 - levels)``, to
    the same column of ``codes``, bytes. ``edges`` holds :func:`edge_places` from ``start`` on, each level at
    ``EDGE_START``. In NumPy, ``searchsorted(thresholds, columns[column]) << (8 - levels)``, found bit by bit::

        number = 0
        for level in range(levels):
            number |= (x > edges[start + EDGE_START[level] :][number]) << level
        codes[column] = bits in reverse order of uint8(number)
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
