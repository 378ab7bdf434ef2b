"""A classifier of series by its settings."""

from __future__ import annotations

from ...nn import CDEField, NeuralCDE, PathName, SeriesClassifier
from ..adjoint import make_adjoint
from ..series.models import make_recurrence
from ..series.space import SeriesSpace
from .config import NeuralCdeConfig

__all__ = ["build_classifier"]

_PATHS: dict[str, PathName] = {
    "hermite": "hermite",
    "natural-cubic": "natural_cubic",
    "linear": "linear",
}


def build_classifier(config: NeuralCdeConfig, space: SeriesSpace) -> NeuralCDE | SeriesClassifier:
    """Build the classifier that resolved settings describe, for series of a space."""
    if config.model != "neural-cde":
        recurrence = make_recurrence(config.model, space, config.hidden)
        return SeriesClassifier(recurrence, space.classes)
    channels = 1 + space.width * (1 + config.counts)
    return NeuralCDE(
        space.width,
        config.hidden,
        space.classes,
        field=CDEField(config.hidden, channels, config.width, config.depth),
        path=_PATHS[config.path_kind],
        intensity=config.counts,
        row_steps=config.row_steps or None,
        solver=config.solver,
        rtol=config.tol,
        atol=config.tol,
        norm=config.norm if config.norm == "rms" else None,
        adjoint=make_adjoint(config.adjoint),
    )
