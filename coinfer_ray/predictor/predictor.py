"""A fitted Accuracy Predictor: what it predicts, what that is worth, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from coinfer_kernels import TreeEnsemble
from numpy.typing import ArrayLike, NDArray

from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.source import graph_from
from coinfer_ray.predictor.calibration import Calibration
from coinfer_ray.predictor.measured import Measured
from coinfer_ray.predictor.regressors import SNR_FEATURE
from coinfer_ray.records.store import Split
from coinfer_ray.runtime.files import write_whole
from coinfer_ray.runtime.outputs import check_replaceable

PREDICTOR_FORMAT = 4


@dataclass(frozen=True)
class Predictor:
    """A fitted regressor and what it was fitted on: ``records`` of ``model`` at ``input_px`` pixels (how many, of those
    whose feature crosses as floats).

    ``ensemble`` predicts, ``calibration`` bounds, ``measured`` are the strategies of the records; ``regressor`` is its
    name; ``accuracy`` says which images were
    measured on, ``base_accuracy`` (0..1) what the unmodified network reaches on them; ``versions``: of the libraries.

    ``feature_names`` are the columns that :meth:`predict` takes: the search space's, and ``snr_db`` behind them
    where the records were collected through a noisy channel. ``settings`` are the records' (data, pixels,
    training), ``settings_hash`` their fingerprint, ``records_hash`` one of their strategies and accuracies.

    Errors, all in accuracy: ``typical_error`` is the root mean square out of fold, what to expect of a strategy that
    was not trained; ``noise_floor`` the standard deviation between trainings of one strategy with several seeds,
    pooled over the ``repeated`` strategies of which the records hold some (None where there are none);
    ``binomial_error`` what the number of images alone leaves open (None where it is not recorded).
    ``graph``: the records' layer graph, None where they have none.
    """

    ensemble: TreeEnsemble
    calibration: Calibration
    measured: Measured
    regressor: str
    model: str
    input_px: int
    feature_names: tuple[str, ...]
    accuracy: Split
    base_accuracy: float
    typical_error: float
    noise_floor: float | None
    repeated: int
    binomial_error: float | None
    records: int
    records_hash: str
    settings_hash: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    graph: LayerGraph | None = None

    @property
    def layer_graph(self) -> LayerGraph:
        """The layer graph of the network: the records', else the one of that name.

        Raises:
            InputError: the records had none, and none is known by that name here.
        """
        return self.graph or load_graph(self.model, self.input_px)

    @property
    def noisy(self) -> bool:
        """Whether the prediction depends on the link's signal-to-noise ratio."""
        return self.feature_names[-1] == SNR_FEATURE

    @property
    def trusted(self) -> bool:
        """Whether an answer with a confidence may rest on a prediction: where the calibration is one of answers."""
        return self.calibration.rests_on == "answers"

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Predicted accuracies (n,) in 0..1 for features ``x`` (n, F); ValueError for other shapes."""
        return self.ensemble.predict(x)

    def lower_bound(self, predicted: ArrayLike, confidence: float) -> NDArray[np.float64]:
        """The accuracy that strategies of those predicted ones reach with that confidence, each.

        Raises:
            InputError: a confidence that is no probability, or higher than these records can promise.
        """
        return self.calibration.bound(predicted, confidence)

    def required_accuracy(self, floor: ArrayLike, confidence: float | None) -> NDArray[np.float64]:
        """The least predicted accuracy whose :meth:`lower_bound` is ``floor``; without a confidence ``floor`` itself.

        Raises:
            InputError: as :meth:`lower_bound`.
        """
        if confidence is None:
            return np.asarray(floor, dtype=np.float64)
        return self.calibration.required(floor, confidence)

    def provenance(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON can say it, and what the calibration rests on; of the records' graph its
        fingerprint."""
        apart = ("ensemble", "calibration", "measured", "graph")
        fields = {name: value for name, value in vars(self).items() if name not in apart}
        if self.graph is not None:
            fields["graph_fingerprint"] = self.graph.fingerprint
        whole = {
            "feature_names": list(self.feature_names),
            "calibrated_on": self.calibration.rests_on,
            "settings": dict(self.settings),
            "versions": dict(self.versions),
        }
        return fields | whole

    def save(self, path: str | Path) -> None:
        """Write to ``path`` in NumPy's npz format, without pickle.

        Raises:
            InputError: ``path`` is there and no predictor.
        """
        check_replaceable(path, "predictor")
        graph = {} if self.graph is None else {"graph": self.graph.to_json(derived=False)}
        document = json.dumps({"format": PREDICTOR_FORMAT, **self.provenance(), **graph})
        arrays: dict[str, Any] = self.ensemble.to_arrays() | self.calibration.to_arrays() | self.measured.to_arrays()

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:  # savez would append .npz to a path
                np.savez_compressed(file, metadata=np.array(document), **arrays)

        write_whole(Path(path), write)

    @classmethod
    def load(cls, path: str | Path) -> Predictor:
        """Read what :meth:`save` wrote to ``path``.

        Raises:
            InputError: no such file, or one that isn't a predictor of this format.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            document = json.loads(str(arrays.pop("metadata")))
            written = document.pop("format")
            if written == PREDICTOR_FORMAT:
                document["feature_names"] = tuple(document["feature_names"])
                calibration = Calibration.from_arrays(arrays, document.pop("calibrated_on"))
                measured = Measured.from_arrays(arrays)
                if document.pop("graph_fingerprint", None) is not None:
                    document["graph"] = graph_from(document["graph"], f"that of {path}")
                return cls(TreeEnsemble.from_arrays(arrays), calibration, measured, **document)
        except FileNotFoundError:
            raise InputError(f"predictor: {path} does not exist; write one with `coinfer fit --out`") from None
        except Exception as error:  # a foreign file breaks NumPy, zipfile, zlib and json each in its own way
            reason = " ".join(str(error).split())
            raise InputError(
                f"predictor: {path} is not a predictor file ({reason}); write it with `coinfer fit --out`"
            ) from None
        raise InputError(
            f"predictor: {path} is of format {written}, this version reads {PREDICTOR_FORMAT}; "
            "fit its records again with `coinfer fit --out`"
        )
