"""DEFLATE streams of Huffman codes alone, made by zlib."""

import zlib


def deflate_bits(rows):
    """Bits of each row's stream. A negative window size leaves out header and checksum: the bare stream."""
    lengths = []
    for row in rows:
        coder = zlib.compressobj(level=9, wbits=-zlib.MAX_WBITS, memLevel=9, strategy=zlib.Z_HUFFMAN_ONLY)
        lengths.append(8 * len(coder.compress(row.tobytes()) + coder.flush()))
    return lengths
