"""A tree ensemble walked node by node in plain Python."""


def leaf(tables, node, x):
    feature = int(tables.feature[node])
    if feature < 0:
        return float(tables.value[node])
    side = tables.left if float(x[feature]) <= float(tables.threshold[node]) else tables.right
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


def add_complete(total, trees, row):
    """The total, and one leaf of every complete tree of depth 3 added in turn; node i's children: 2 i + 1, 2 i + 2."""
    for tree in trees:
        node = 0
        while node < 7:
            goes_left = row[int(tree["feature"][node])] <= tree["threshold"][node]
            node = 2 * node + (1 if goes_left else 2)
        total += float(tree["value"][node - 7])
    return total
