"""What a strategy costs, in plain Python and whole numbers (Table I of the paper; the codec as in notation.py)."""

import math
from itertools import pairwise

RAW, SPATIAL, VECTOR, NONE = range(4)


def share(channels, ratio):
    return max(1, math.floor(ratio * channels + 0.5))


def spatial_codec(stages, channels, height, width):
    """FLOPs of encoder and decoder, elements sent, elements that the stages read and write, and the number of stages.

    ``stages``: two (ratio, kernel, stride).
    """
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
    moved = sum(math.prod(a) + math.prod(b) for a, b in pairwise(shapes))
    return encoder, decoder, math.prod(shapes[-1]), moved, len(kernels)


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
    return encoder, decoder, sizes[-1], sum(a + b for a, b in pairwise(sizes)), len(sizes) - 1


def number(value):
    """A whole number where it is one: FLOPs are counted without rounding, seconds are not."""
    return int(value) if value == int(value) else float(value)


def costs(cost, cut_variable, levels):
    """[device FLOPs, server FLOPs, uplink bits]; seconds where the tables hold seconds"""
    never = len(cost.kept) - 1

    def kept(row):
        return 1 if row == never else int(cost.kept[row][int(levels[row])])

    def each(quadratic, linear):
        return [
            number(q) * kept(i) * kept(o) + number(line) * kept(o)
            for i, o, q, line in zip(cost.in_set, cost.out_set, quadratic, linear, strict=True)
        ]

    cut = int(levels[cut_variable])
    first = int(cost.cut_layers[cut])
    here = each(cost.quadratic, cost.linear)
    there = each(cost.server_quadratic, cost.server_linear) if len(cost.server_quadratic) else here
    device, server = sum(here[:first]), sum(there[first:])
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
        encoder, decoder, elements, moved, present = spatial_codec(stages, channels, height, width)
    else:
        encoder, decoder, elements, moved, present = vector_codec(codec[6:8], channels * height * width)
    if cost.codec_flops and len(cost.codec_price):
        form = 0 if kind == SPATIAL else 1
        own, other = cost.codec_price[0][form], cost.codec_price[1][form]
        device += encoder * own[0] + moved * own[1] + present * own[2]
        server += decoder * other[0] + moved * other[1] + present * other[2]
    elif cost.codec_flops:
        device, server = device + encoder, server + decoder
    return [device, server, elements * int(cost.cut_bits[cut])]


def objective(weights, row):
    """Three weights, or a fourth that a strategy pays which sends anything."""
    crossing = float(weights[3]) if len(weights) == 4 and row[2] > 0 else 0.0
    return sum(float(w) * value for w, value in zip(weights[:3], row, strict=True)) + crossing
