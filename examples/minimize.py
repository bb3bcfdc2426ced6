"""Minimise a function of real and whole numbers under a constraint."""

import numpy as np
from coinfer_kernels import minimize


def cost(x: np.ndarray) -> np.ndarray:  # x (n, 3): a whole population at a time
    return (x[:, 0] - 0.3) ** 2 + (x[:, 1] - 2.2) ** 2 + abs(x[:, 2])


def too_small(x: np.ndarray) -> np.ndarray:  # positive where violated
    return 1.0 - x[:, 0] - x[:, 2]


result = minimize(cost, [(-5, 5)] * 3, integrality=[False, True, False], constraints=too_small, max_evaluations=5000)
print(f"x = {result.x.round(3)}, cost = {result.fun:.4f} after {result.nfev} evaluations")
