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


def test_a_violation_that_is_not_known_is_one():
    sampler = QuantumSampler(violation=lambda trial: float("nan") if trial.params["x"] < 0 else 0.0)
    study = run(sampler, 200, fun=lambda trial: trial.suggest_float("x", -5, 5))
    assert sum(trial.params["x"] > -0.5 for trial in study.trials[-40:]) > 20
    assert sampler._search.optimizer.best_x[0] >= 0


def test_several_violations_and_one_that_raises():
    def violation(trial):
        if trial.number == 3:
            raise RuntimeError("no such measurement")
        return [1.0 - trial.params["x"], -1.0]

    sampler = QuantumSampler(violation=violation)
    study = optuna.create_study(sampler=sampler)
    for _ in range(2):
        try:
            study.optimize(lambda trial: trial.suggest_float("x", -5, 5), n_trials=150)
        except RuntimeError as error:
            assert "no such" in str(error)
    assert sampler._search.optimizer.best_x[0] == pytest.approx(1.0, abs=0.05)
    assert sampler._search.optimizer.best_x[0] >= 1.0


def test_enqueued_trials_count_for_what_they_ran_with():
    def fun(trial):
        return trial.suggest_float("x", -5, 5) ** 2 + 100 * trial.suggest_float("y", -5, 5)

    study = optuna.create_study(sampler=QuantumSampler(seed=0, population=8))
    study.optimize(fun, 1)
    for _ in range(6):
        study.enqueue_trial({"y": -4.0})
    study.optimize(fun, 40)
    optimizer = study.sampler._search.optimizer
    told = {(trial.params["x"], trial.params["y"]): trial.value for trial in study.trials}
    assert told[tuple(optimizer.best_x)] == optimizer.best_objective
    held = study.sampler._search.state()
    for place, value in zip(held["optimizer.population.x"], held["optimizer.population.objective"], strict=True):
        assert told[tuple(place)] == value


def test_a_trial_that_is_never_told_stalls_nothing():
    study = optuna.create_study(sampler=QuantumSampler(seed=0))
    study.optimize(objective, 1)
    objective(study.ask())
    study.optimize(objective, 400)
    assert study.best_value < 0.1
    assert study.sampler._search.optimizer.evaluations > 300


def test_answers_that_another_process_told_are_read_from_the_storage():
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, study_name="one", sampler=QuantumSampler(seed=0, population=4))

    def fun(trial):
        return trial.suggest_float("x", -5, 5) ** 2

    study.optimize(fun, 1)
    teller = optuna.load_study(storage=storage, study_name="one", sampler=optuna.samplers.RandomSampler())
    for _ in range(3):
        trials = [study.ask() for _ in range(4)]
        for trial in trials:
            teller.tell(trial.number, fun(trial))
    study.ask().suggest_float("x", -5, 5)
    optimizer = study.sampler._search.optimizer
    assert optimizer.evaluations == 12
    assert optimizer.best_objective == min(trial.value for trial in study.trials[1:13])


def test_a_study_goes_on_with_a_pickled_sampler():
    study = run(QuantumSampler(seed=3), 60)
    other = optuna.create_study(sampler=QuantumSampler(seed=3))
    other.optimize(objective, 30)
    other.sampler = pickle.loads(pickle.dumps(other.sampler))
    other.optimize(objective, 30)
    assert [t.params for t in other.trials] == [t.params for t in study.trials]
