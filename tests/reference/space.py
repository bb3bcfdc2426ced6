"""Decision variables in plain Python: level by level, straight from the definition."""


def canonical(space, levels):
    cut = int(levels[space.cut_variable])
    return [int(level) if space.active[cut][v] else int(space.canonical[v]) for v, level in enumerate(levels)]


def decode(space, point):
    """Levels of a point of the unit cube: level i owns [i / n, (i + 1) / n), the last one its end too."""
    levels = []
    for v, u in enumerate(point):
        n = int(space.n_levels[v])
        levels.append(min(int(float(u) * n), n - 1))
    return canonical(space, levels)


def features(space, levels, snr_db=None):
    row = [float(space.values[v][int(level)]) for v, level in enumerate(levels)]
    return row if snr_db is None else [*row, float(snr_db)]
