"""Hyperspectral classification: from a scene and a few labels to a georeferenced class map.

What is listed here is loaded on first use: a process that maps parts of a scene needs nothing of what fits models.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arrays import classify_array
    from .classification import classify
    from .evaluation import Evaluation, evaluate
    from .fitting import fit_model
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
    "classify_array",
    "evaluate",
    "fit",
    "fit_model",
    "load_classifier",
    "named_recipe",
    "predict",
]

_MODULES = {
    "arrays": ("classify_array",),
    "classification": ("classify",),
    "evaluation": ("Evaluation", "evaluate"),
    "fitting": ("fit_model",),
    "mapping": ("Prediction", "predict"),
    "model": ("Classifier", "load_classifier"),
    "recipe": ("Recipe", "named_recipe"),
    "results": ("Classification",),
    "training": ("fit",),
}


def __getattr__(name: str) -> Any:
    module = next((module for module, names in _MODULES.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value  # found directly from now on
    return value
