"""The atlas's kernels: look-up of any scenario among the strategies that are the best for some, and building it."""

from coinfer_kernels.atlas.lookup import Atlas, Region, make_region

__all__ = ["Atlas", "Region", "make_region"]
