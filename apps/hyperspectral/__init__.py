"""Hyperspectral classification: from a scene and a few labels to a georeferenced class map."""

from .classification import classify, fit_model
from .evaluation import Evaluation, evaluate
from .mapping import Prediction, predict
from .model import Classifier, load_classifier
from .recipe import Recipe, named_recipe
from .results import Classification
from .training import fit

__all__ = [
    "Classification",
    "Classifier",
    "Evaluation",
    "Prediction",
    "Recipe",
    "classify",
    "evaluate",
    "fit",
    "fit_model",
    "load_classifier",
    "named_recipe",
    "predict",
]
