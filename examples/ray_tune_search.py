"""The quantum-inspired optimizer as Ray Tune's search algorithm."""

import os

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from ray import tune

from coinfer_ray.adapters.ray_tune import QuantumSearch


def trainable(config: dict) -> dict:
    return {"loss": (config["x"] - 2) ** 2 + abs(config["layers"] - 3)}


ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
search = QuantumSearch({"x": tune.uniform(-10, 10), "layers": tune.randint(1, 9)}, metric="loss", mode="min")
settings = tune.TuneConfig(search_alg=search, num_samples=40, max_concurrent_trials=2)
best = tune.Tuner(trainable, tune_config=settings, run_config=tune.RunConfig(verbose=0)).fit()
print(f"best {best.get_best_result('loss', 'min').metrics['loss']:.3f}")
ray.shutdown()
