"""The Accuracy Predictor: regressors fitted on records of really trained strategies, and what they are worth."""

from coinfer_ray.predictor.fit import FitReport, fit, fit_predictor
from coinfer_ray.predictor.obtain import obtain_predictor
from coinfer_ray.predictor.predictor import Predictor

__all__ = ["FitReport", "Predictor", "fit", "fit_predictor", "obtain_predictor"]
