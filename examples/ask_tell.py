"""Ask, evaluate anywhere, tell; stop, save, and go on as if nothing had happened."""

import tempfile
from pathlib import Path

import numpy as np
from coinfer_kernels import QuantumOptimizer

state = Path(tempfile.mkdtemp()) / "state.npz"
optimizer = QuantumOptimizer([(-5.12, 5.12)] * 5, seed=0)
for evaluations in (4_000, 8_000):
    while optimizer.evaluations < evaluations:
        x = optimizer.ask()
        optimizer.tell(x, (x**2 - 10 * np.cos(2 * np.pi * x) + 10).sum(axis=1))
    np.savez(state, **optimizer.state())
    optimizer = QuantumOptimizer.from_state(np.load(state))
print(f"best {optimizer.best_objective:.3g} at {optimizer.best_x.round(3)}, {optimizer.evaluations} evaluations")
