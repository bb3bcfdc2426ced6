"""What a strategy costs, in plain Python and whole numbers (Table I of the paper; the codec as in notation.py)."""

import math
from itertools import pairwise

RAW, SPATIAL, VECTOR, NONE = range(4)


def share(channels, ratio):
    return max(1, math.floor(ratio * channels + 0.5))


def spatial_codec(stages, channels, height, width):
    """FLOPs of encoder and decoder, elements sent; ``stages``: two (ratio, kernel, stride)."""
    shapes = [(channels, height, width)]
    kernels = []
    for ratio, kernel, stride in stages:
        if (ratio, kernel, stride) == (1, 1, 1):
            continue
        c, h, w = shapes[-1]
        pad = kernel // 2
        shapes.append((share(c, ratio), (h + 2 * pad - kernel) // stride + 1, (w + 2 * pad - kernel) // stride + 1))
        kernels.append(kernel)
    encoder = decoder = 0
    for kernel, (ci, hi, wi), (co, ho, wo) in zip(kernels, shapes[:-1], shapes[1:], strict=True):
        encoder += 2 * ho * wo * (ci * kernel**2 + 1) * co
        decoder += 2 * ho * wo * co * kernel**2 * ci + 2 * hi * wi * ci
    if len(kernels) == 2:
        encoder += math.prod(shapes[1])
        decoder += math.prod(shapes[1])
    return encoder, decoder, math.prod(shapes[-1])


def vector_codec(ratios, elements):
    sizes = [elements]
    for ratio in ratios:
        if ratio != 1:
            sizes.append(share(sizes[-1], ratio))
    encoder = sum((2 * a - 1) * b for a, b in pairwise(sizes))
    decoder = sum((2 * b - 1) * a for a, b in pairwise(sizes))
    if len(sizes) == 3:
        encoder += sizes[1]
        decoder += sizes[1]
    return encoder, decoder, sizes[-1]


def costs(cost, cut_variable, levels):
    """[device FLOPs, server FLOPs, uplink bits]"""
    never = len(cost.kept) - 1

    def kept(row):
        return 1 if row == never else int(cost.kept[row][int(levels[row])])

    flops = [
        int(q) * kept(i) * kept(o) + int(line) * kept(o)
        for i, o, q, line in zip(cost.in_set, cost.out_set, cost.quadratic, cost.linear, strict=True)
    ]
    cut = int(levels[cut_variable])
    first = int(cost.cut_layers[cut])
    device, server = sum(flops[:first]), sum(flops[first:])
    kind = int(cost.cut_kind[cut])
    if kind == NONE:
        return [device, server, 0]
    channels = kept(int(cost.cut_set[cut])) * int(cost.cut_channels[cut])
    height, width = int(cost.cut_height[cut]), int(cost.cut_width[cut])
    if kind == RAW:
        return [device, server, channels * height * width * int(cost.input_bits)]
    codec = [float(cost.ratio[p][int(levels[cost.codec_variable + p])]) for p in range(8)]
    if kind == SPATIAL:
        stages = [(codec[i], int(codec[i + 1]), int(codec[i + 2])) for i in (0, 3)]
        encoder, decoder, elements = spatial_codec(stages, channels, height, width)
    else:
        encoder, decoder, elements = vector_codec(codec[6:8], channels * height * width)
    if cost.codec_flops:
        device, server = device + encoder, server + decoder
    return [device, server, elements * int(cost.cut_bits[cut])]


def objective(weights, row):
    """Three weights, or a fourth that a strategy pays which sends anything."""
    crossing = float(weights[3]) if len(weights) == 4 and row[2] > 0 else 0.0
    return sum(float(w) * value for w, value in zip(weights[:3], row, strict=True)) + crossing
