"""The predictor without waiting: shipped beside the records, or kept from an earlier fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coinfer_ray.predictor import obtain
from coinfer_ray.predictor.fit import floats_of, measured_of, record_features, records_hash
from coinfer_ray.predictor.obtain import kept_fit, obtain_predictor, shipped_predictor
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.records.store import Records, Split, few_bits_beside, read_records, shipped_records, with_few_bits
from coinfer_ray.runtime.cache import CACHE_VARIABLE, cache_folder
from tests.synthetic import write_synthetic_records

# Beside the records lie compared methods' choices, a study's trainings, to which no predictor is fitted, and records of
# quantised features, which are fitted to together with those of floats.
SHIPPED = sorted(
    path.name
    for path in shipped_records("alexnet").parent.glob("*.parquet")
    if not path.stem.endswith((".methods", ".verified", ".quantised"))
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return read_records(write_synthetic_records(tmp_path / "records.parquet", count=40))


def count_fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    fits: list[str] = []
    fit = obtain.fit_predictor

    def counting(records: Any, **options: Any) -> Predictor:
        fits.append(options["regressor"])
        return fit(records, **options)

    monkeypatch.setattr(obtain, "fit_predictor", counting)
    return fits


@pytest.mark.parametrize("accuracy", ["validation", "test"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_predictors_belong_to_the_shipped_records(name: str, accuracy: Split) -> None:
    path = shipped_predictor(name, accuracy)
    assert path is not None, "run scripts/fit_shipped.sh"
    predictor, everything = Predictor.load(path), read_records(with_few_bits(Path(name)))
    fresh = measured_of(everything, accuracy)
    assert predictor.measured.fingerprint == fresh.fingerprint
    records = floats_of(everything)
    x, names = record_features(records)
    base = everything.base_accuracy(accuracy)
    assert predictor.records_hash == records_hash(x, records.accuracy(accuracy, base))
    assert predictor.settings_hash == records.info.settings_hash
    assert predictor.base_accuracy == base
    few = few_bits_beside(shipped_records(records.model, records.input_px))
    if records.snr_db is None and few.exists():
        quantised = read_records(few)
        few_bits = predictor.measured.feature_bits < 32
        assert predictor.measured.trainings[few_bits].sum() == len(quantised)
        pooled = (predictor.measured.accuracy * predictor.measured.trainings)[few_bits].sum()
        assert pooled == pytest.approx(quantised.accuracy(accuracy, base).sum())
    assert (predictor.feature_names, predictor.accuracy, predictor.model) == (names, accuracy, records.model)


def test_the_first_answer_of_shipped_records_needs_no_fit() -> None:
    code = (
        "import sys; from coinfer_ray.predictor.obtain import obtain_predictor; "
        "print(obtain_predictor(None, model='alexnet').records, 'sklearn' in sys.modules, 'pyarrow' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(len(read_records(shipped_records("alexnet")))), "False", "False"]


def test_a_fit_is_kept_and_found_again(cache: Path, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = count_fits(monkeypatch)
    first = kept_fit(records, regressor="decision_tree", folds=2)
    again = kept_fit(records, regressor="decision_tree", folds=2)
    x = np.random.default_rng(0).random((50, len(first.feature_names)))
    assert fits == ["decision_tree"] and len(list(cache.rglob("*.npz"))) == 1
    np.testing.assert_array_equal(first.predict(x), again.predict(x))
    assert first.provenance() == again.provenance()


def test_what_a_fit_depends_on_is_told_apart(
    cache: Path, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = count_fits(monkeypatch)
    kept_fit(records, regressor="decision_tree", folds=2)
    kept_fit(records, regressor="linear_regression", folds=2)
    kept_fit(records, regressor="decision_tree", folds=3)
    kept_fit(records, regressor="decision_tree", folds=2, accuracy="test")
    other = read_records(write_synthetic_records(tmp_path / "other.parquet", count=40, seed=9))
    kept_fit(other, regressor="decision_tree", folds=2)
    monkeypatch.setattr(obtain, "_code_hash", lambda: "edited")
    kept_fit(records, regressor="decision_tree", folds=2)
    assert len(fits) == 6


def test_a_damaged_or_unwritable_cache_only_costs_a_fit(
    cache: Path, records: Records, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fits = count_fits(monkeypatch)
    kept_fit(records, regressor="decision_tree", folds=2)
    (kept,) = cache.rglob("*.npz")
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    kept_fit(records, regressor="decision_tree", folds=2)
    assert len(fits) == 2 and Predictor.load(kept).regressor == "decision_tree"
    file = cache.parent / "a file"
    file.write_text("in the way")
    monkeypatch.setenv(CACHE_VARIABLE, str(file))
    capsys.readouterr()
    kept_fit(records, regressor="decision_tree", folds=2)
    assert len(fits) == 3 and "not kept" in capsys.readouterr().err and file.read_text() == "in the way"
    monkeypatch.setenv(CACHE_VARIABLE, "")
    kept_fit(records, regressor="decision_tree", folds=2)
    assert len(fits) == 4 and cache_folder("predictors") is None


def test_another_regressor_than_the_shipped_one_is_fitted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = count_fits(monkeypatch)
    assert obtain_predictor(None, model="alexnet").regressor == "distilled_boosting" and fits == []
    assert obtain_predictor(None, model="alexnet", regressor="decision_tree").regressor == "decision_tree"
    assert fits == ["decision_tree"]
