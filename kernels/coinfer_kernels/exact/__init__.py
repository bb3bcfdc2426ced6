"""The exact solver: branch and bound over boxes of levels, with a proof."""

from coinfer_kernels.exact.solve import solve_exact

__all__ = ["solve_exact"]
