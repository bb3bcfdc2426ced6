"""The quantum-inspired optimizer as Optuna's sampler."""

import optuna

from coinfer_ray.adapters.optuna import QuantumSampler


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -10, 10)
    layers = trial.suggest_int("layers", 1, 8)
    kind = trial.suggest_categorical("kind", ["relu", "gelu", "tanh"])
    return (x - 2) ** 2 + abs(layers - 3) + (kind != "gelu")


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(sampler=QuantumSampler(seed=0))
study.optimize(objective, n_trials=400)
print(f"best {study.best_value:.4f} with {study.best_params}")
