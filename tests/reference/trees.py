"""A tree ensemble walked node by node in plain Python."""

import struct


def single(x):
    """The nearest float32."""
    return struct.unpack("f", struct.pack("f", x))[0]


def leaf(tables, node, x):
    feature = int(tables.feature[node])
    if feature < 0:
        return float(tables.value[node])
    side = tables.left if single(float(x[feature])) <= float(tables.threshold[node]) else tables.right
    return leaf(tables, int(side[node]), x)


def predict(tables, x):
    values = [leaf(tables, int(root), x) for root in tables.roots]
    weights = [float(weight) for weight in tables.weights]
    if tables.median:
        ranked = sorted(zip(values, weights, strict=True), key=lambda pair: pair[0])
        total = sum(weights)
        reached = 0.0
        for value, weight in ranked:
            reached += weight
            if reached >= total / 2:
                return value
        return ranked[-1][0]
    linear = sum(float(c) * float(v) for c, v in zip(tables.coefficients, x, strict=True))
    return float(tables.intercept) + linear + sum(w * v for w, v in zip(weights, values, strict=True))
