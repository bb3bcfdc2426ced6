"""The quantum-inspired optimizer as an algorithm of pymoo."""

from pymoo.optimize import minimize
from pymoo.problems import get_problem

from coinfer_ray.adapters.pymoo import QuantumAlgorithm

result = minimize(get_problem("g1"), QuantumAlgorithm(), ("n_evals", 20_000), seed=1)  # 13 variables, 9 constraints
print(f"best {result.F[0]:.4f} (the optimum is -15), violation {result.CV[0]:.1g}")
