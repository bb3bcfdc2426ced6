"""Compiled kernels of coinfer-ray: strategies, their costs, their predicted accuracy, and the search for the best.

Needs numpy and numba only. ``notation`` states symbols, shapes and units.
"""

from coinfer_kernels.algorithm1 import solve_paper
from coinfer_kernels.atlas.build import build_atlas
from coinfer_kernels.atlas.lookup import Atlas, make_region
from coinfer_kernels.blackbox.minimize import OptimizeResult, minimize
from coinfer_kernels.blackbox.optimizer import QuantumOptimizer
from coinfer_kernels.costs import cheapest_feasible, latencies, strategy_costs
from coinfer_kernels.exact.solve import solve_exact
from coinfer_kernels.local_search.solve import solve_quantum
from coinfer_kernels.notation import CostTables, EnsembleTables, Scenarios, Solutions, SpaceTables
from coinfer_kernels.space import canonicalize, decode, features
from coinfer_kernels.trees.ensemble import LevelEnsemble, TreeEnsemble

__all__ = [
    "Atlas",
    "CostTables",
    "EnsembleTables",
    "LevelEnsemble",
    "OptimizeResult",
    "QuantumOptimizer",
    "Scenarios",
    "Solutions",
    "SpaceTables",
    "TreeEnsemble",
    "build_atlas",
    "canonicalize",
    "cheapest_feasible",
    "decode",
    "features",
    "latencies",
    "make_region",
    "minimize",
    "solve_exact",
    "solve_paper",
    "solve_quantum",
    "strategy_costs",
]
