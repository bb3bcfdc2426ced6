"""How long DEFLATE's streams of Huffman codes are, without making them.

P. Deutsch, "DEFLATE Compressed Data Format Specification version 1.3", RFC 1951, 1996, and zlib's choices within it
(level 9, memLevel 9, strategy Z_HUFFMAN_ONLY, no header): blocks of :data:`BLOCK` symbols, each sent by the shortest
of its own prefix codes, the fixed ones, and as it is. A block's length follows from how often each symbol occurs, so
counting is all that is done for a symbol; the trees are built as zlib builds them, since of codes that are equally
short the lengths decide how long the table of the code is.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coinfer_kernels.jit import inner, kernel
from coinfer_kernels.notation import IntArray

BLOCK = 32_767  # symbols: zlib's buffer at memLevel 9, less the one that it never fills
_END = 256  # the symbol that ends a block
_SYMBOLS = 286
_LONGEST = 15
_LENGTH_SYMBOLS = 19  # of the code that a table of code lengths is sent by
_LONGEST_OF_LENGTHS = 7
_REPEAT, _ZEROS, _MANY_ZEROS = 16, 17, 18
_SENT_FIRST = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15])


def deflate_bits(rows: ArrayLike) -> IntArray:
    """(n,) bits of the stream of each row of symbols (n, m) uint8, its code tables included: whole bytes.

    Raises:
        ValueError: ``rows`` is no table of bytes.
    """
    symbols = np.ascontiguousarray(rows)
    if symbols.ndim != 2 or symbols.dtype != np.uint8:
        raise ValueError(f"rows: {symbols.dtype} of shape {symbols.shape}; must be uint8 of two dimensions")
    lengths = np.empty(len(symbols), dtype=np.int64)
    _stream_bits(symbols, lengths)
    return lengths


@kernel
def _stream_bits(rows: NDArray[np.uint8], lengths: IntArray) -> None:
    nodes = 2 * _SYMBOLS
    frequency, length, parent, depth = (
        np.empty(nodes, np.int64),
        np.empty(nodes, np.int64),
        np.empty(nodes, np.int64),
        np.empty(nodes, np.int64),
    )
    heap, order, count = np.empty(nodes, np.int64), np.empty(nodes, np.int64), np.empty(_LONGEST + 1, np.int64)
    spare, halves = np.empty(_LENGTH_SYMBOLS, np.int64), np.empty((4, 256), np.int32)
    for i in range(rows.shape[0]):
        bits, start, size = 0, 0, rows.shape[1]
        last = False
        while not last:
            stop = min(start + BLOCK, size)
            # A full block is sent before it is known to be the last: an empty one follows where nothing else does.
            last = stop - start < BLOCK
            _count(rows, i, start, stop, frequency, halves)
            fixed = 7
            for symbol in range(256):
                fixed += frequency[symbol] * (8 if symbol < 144 else 9)
            coded = _tree(frequency, _SYMBOLS, _LONGEST, length, parent, depth, heap, order, count)
            coded += _table(length, spare, frequency, parent, depth, heap, order, count)
            own_bytes, fixed_bytes = (coded + 3 + 7) >> 3, (fixed + 3 + 7) >> 3
            if stop - start + 4 <= min(own_bytes, fixed_bytes):
                bits = ((bits + 3 + 7) & ~7) + 32 + 8 * (stop - start)
            elif fixed_bytes <= own_bytes:
                bits += 3 + fixed
            else:
                bits += 3 + coded
            start = stop
        lengths[i] = (bits + 7) & ~7


@inner
def _count(
    rows: NDArray[np.uint8], i: int, start: int, stop: int, frequency: IntArray, halves: NDArray[np.int32]
) -> None:
    """How often each symbol occurs in a block. Four counts, taken in turns: runs of one symbol, as zeros behind a
    ReLU, would wait for their own last addition."""
    for part in range(4):
        for symbol in range(256):
            halves[part, symbol] = 0
    whole = start + (stop - start) // 4 * 4
    for at in range(start, whole, 4):
        halves[0, rows[i, at]] += 1
        halves[1, rows[i, at + 1]] += 1
        halves[2, rows[i, at + 2]] += 1
        halves[3, rows[i, at + 3]] += 1
    for at in range(whole, stop):
        halves[0, rows[i, at]] += 1
    for symbol in range(256):
        frequency[symbol] = halves[0, symbol] + halves[1, symbol] + halves[2, symbol] + halves[3, symbol]
    for symbol in range(256, _SYMBOLS):
        frequency[symbol] = 0
    frequency[_END] = 1


@inner
def _tree(
    frequency: IntArray,
    symbols: int,
    longest: int,
    length: IntArray,
    parent: IntArray,
    depth: IntArray,
    heap: IntArray,
    order: IntArray,
    count: IntArray,
) -> int:
    """Bits of all symbols by the best prefix code of at most ``longest`` bits a symbol, whose lengths go to
    ``length`` (0: the symbol does not occur)."""
    size, forced, last = 0, 0, -1
    for symbol in range(symbols):
        length[symbol] = 0
        if frequency[symbol] > 0:
            size += 1
            heap[size] = last = symbol
            depth[symbol] = 0
    while size < 2:  # a code has two words at least
        if last < 2:
            last += 1
            symbol = last
        else:
            symbol = 0
        frequency[symbol] = 1
        depth[symbol] = 0
        forced += 1
        size += 1
        heap[size] = symbol
    for at in range(size // 2, 0, -1):
        _sift(frequency, depth, heap, size, at)
    node, placed = symbols, 0
    while size >= 2:
        first = heap[1]
        heap[1] = heap[size]
        size -= 1
        _sift(frequency, depth, heap, size, 1)
        second = heap[1]
        order[placed] = first
        order[placed + 1] = second
        placed += 2
        frequency[node] = frequency[first] + frequency[second]
        depth[node] = max(depth[first], depth[second]) + 1
        parent[first] = parent[second] = node
        heap[1] = node
        node += 1
        _sift(frequency, depth, heap, size, 1)
    for bits in range(longest + 1):
        count[bits] = 0
    total, too_long = 0, 0
    length[heap[1]] = 0
    for at in range(placed - 1, -1, -1):  # from the root down
        here = order[at]
        bits = length[parent[here]] + 1
        if bits > longest:
            bits = longest
            too_long += 1
        length[here] = bits
        if here < symbols:
            count[bits] += 1
            total += frequency[here] * bits
    if too_long:
        total += _shorten(frequency, symbols, longest, length, order, count, too_long)
    return total - forced


@inner
def _sift(frequency: IntArray, depth: IntArray, heap: IntArray, size: int, at: int) -> None:
    """Let the node at a place of the heap sink until none below it is rarer; of equals the shallower counts as such."""
    here = heap[at]
    below = 2 * at
    while below <= size:
        if below < size and _before(frequency, depth, heap[below + 1], heap[below]):
            below += 1
        if _before(frequency, depth, here, heap[below]):
            break
        heap[at] = heap[below]
        at = below
        below *= 2
    heap[at] = here


@inner
def _before(frequency: IntArray, depth: IntArray, a: int, b: int) -> bool:
    return bool(frequency[a] < frequency[b] or (frequency[a] == frequency[b] and depth[a] <= depth[b]))


@inner
def _shorten(
    frequency: IntArray,
    symbols: int,
    longest: int,
    length: IntArray,
    order: IntArray,
    count: IntArray,
    too_long: int,
) -> int:
    """Make a code whose longest words were cut to ``longest`` bits a prefix code again; the bits that it costs."""
    while too_long > 0:
        bits = longest - 1
        while count[bits] == 0:
            bits -= 1
        count[bits] -= 1
        count[bits + 1] += 2
        count[longest] -= 1
        too_long -= 2
    added, at = 0, 0
    for bits in range(longest, 0, -1):
        left = count[bits]
        while left > 0:
            here = order[at]
            at += 1
            if here < symbols:
                added += (bits - length[here]) * frequency[here]
                length[here] = bits
                left -= 1
    return added


@inner
def _table(
    length: IntArray,
    spare: IntArray,
    frequency: IntArray,
    parent: IntArray,
    depth: IntArray,
    heap: IntArray,
    order: IntArray,
    count: IntArray,
) -> int:
    """Bits of the table that a block's own code is sent by: runs of code lengths, in a prefix code of their own."""
    for symbol in range(_LENGTH_SYMBOLS):
        spare[symbol] = 0
    previous, run = -1, 0
    for symbol in range(_END + 1):
        here = length[symbol]
        most = 138 if here == 0 else (6 if here == previous else 7)
        least = 3 if here == 0 or here == previous else 4
        run += 1
        if symbol < _END and run < most and length[symbol + 1] == here:
            continue
        if run < least:
            spare[here] += run
        elif here != 0:
            if here != previous:
                spare[here] += 1
            spare[_REPEAT] += 1
        elif run <= 10:
            spare[_ZEROS] += 1
        else:
            spare[_MANY_ZEROS] += 1
        previous, run = here, 0
    spare[1] += 2  # two distances of one bit, which no symbol uses
    for symbol in range(_LENGTH_SYMBOLS):
        frequency[symbol] = spare[symbol]
    bits = _tree(frequency, _LENGTH_SYMBOLS, _LONGEST_OF_LENGTHS, length, parent, depth, heap, order, count)
    bits += 2 * frequency[_REPEAT] + 3 * frequency[_ZEROS] + 7 * frequency[_MANY_ZEROS]
    sent = _LENGTH_SYMBOLS
    while sent > 4 and length[_SENT_FIRST[sent - 1]] == 0:
        sent -= 1
    return int(bits + 3 * sent + 5 + 5 + 4)
