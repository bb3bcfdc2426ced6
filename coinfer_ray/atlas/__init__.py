"""The atlas: every strategy that is the best for some scenario, so that any scenario is a look-up."""

from coinfer_ray.atlas.atlas import AtlasInfo, StrategyAtlas, load_atlas, solve_by_atlas
from coinfer_ray.atlas.build import build

__all__ = ["AtlasInfo", "StrategyAtlas", "build", "load_atlas", "solve_by_atlas"]
