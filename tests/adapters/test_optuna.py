import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

optuna = pytest.importorskip("optuna")

from coinfer_ray.adapters.optuna import QuantumSampler  # noqa: E402
from coinfer_ray.errors import InputError  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.WARNING)


def objective(trial):
    x = trial.suggest_float("x", -10, 10)
    rate = trial.suggest_float("rate", 1e-5, 1.0, log=True)
    layers = trial.suggest_int("layers", 1, 16, step=3)
    kind = trial.suggest_categorical("kind", ["relu", "gelu", None])
    trial.set_user_attr("excess", max(0.0, 1.0 - x))
    return (x - 2) ** 2 + 100 * (rate - 1e-3) ** 2 + abs(layers - 7) + (kind != "gelu")


def run(sampler, n=300, direction="minimize", fun=objective, jobs=1):
    study = optuna.create_study(sampler=sampler, direction=direction)
    study.optimize(fun, n_trials=n, n_jobs=jobs, catch=(ArithmeticError,))
    return study


def test_it_finds_what_random_search_does_not():
    ours = run(QuantumSampler(seed=0))
    random = run(optuna.samplers.RandomSampler(seed=0))
    assert ours.best_value < 0.05 < random.best_value
    assert ours.best_params["layers"] == 7 and ours.best_params["kind"] == "gelu"


def test_the_same_seed_gives_the_same_trials_and_maximising_is_minimising_the_negative():
    one, two = run(QuantumSampler(seed=5), 60), run(QuantumSampler(seed=5), 60)
    assert [t.params for t in one.trials] == [t.params for t in two.trials]
    up = run(QuantumSampler(seed=5), 60, "maximize", lambda trial: -objective(trial))
    assert [t.params for t in up.trials] == [t.params for t in one.trials]


def test_failed_pruned_and_parallel_trials_and_conditional_parameters():
    def moody(trial):
        x = trial.suggest_float("x", -5, 5)
        trial.suggest_float("fixed", 1.0, 1.0)
        if x > 4:
            raise ZeroDivisionError
        if x < -4:
            raise optuna.TrialPruned
        return x**2 + (trial.suggest_float("only left", 0, 1) if x < 0 else 0.0)

    study = run(QuantumSampler(seed=1), 200, fun=moody, jobs=2)
    assert len(study.trials) == 200
    assert study.best_value < 0.01


def test_threads_that_see_different_parameters_get_their_own():
    """Two threads with two spaces, and time between looking which search there is and asking it."""

    class Slow(dict):
        __hash__ = None

        def __ne__(self, other):
            different = super().__ne__(other)
            time.sleep(0.002)
            return different

    sampler, study = QuantumSampler(seed=0), optuna.create_study()
    domain = optuna.distributions.FloatDistribution(0, 1)
    spaces = [Slow(x=domain), Slow(x=domain, y=domain)]
    trials = [study.ask() for _ in spaces]

    def ask(which):
        frozen = study.trials[trials[which].number]
        return {frozenset(sampler.sample_relative(study, frozen, spaces[which])) for _ in range(50)}

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(ask, range(2)))
    assert [each - {frozenset()} for each in found] == [{frozenset({"x"})}, {frozenset({"x", "y"})}]


def test_a_fresh_sampler_can_be_pickled():
    one, two = run(QuantumSampler(seed=3), 20), run(pickle.loads(pickle.dumps(QuantumSampler(seed=3))), 20)
    assert [t.params for t in one.trials] == [t.params for t in two.trials]


def test_constraints_bind():
    sampler = QuantumSampler(seed=0, violation=lambda trial: trial.user_attrs["excess"])
    study = run(sampler, 300, fun=lambda trial: (objective(trial), trial.params["x"] ** 2)[1])
    last = [trial.params["x"] for trial in study.trials[-20:]]
    assert sum(x >= 0.9 for x in last) > 10
    assert min(abs(x - 1) for x in last) < 0.1


def test_several_objectives_are_refused():
    study = optuna.create_study(sampler=QuantumSampler(), directions=["minimize", "minimize"])
    with pytest.raises(InputError, match="several objectives"):
        study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 0.0), n_trials=2)
