"""Scores of a model on held-out series."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...nn import LatentODE
from ..report import Mean
from ..seeding import seed_global
from ..series.batches import SeriesBatch
from ..series.module import EVALUATION_BATCH
from ..series.parts import Part
from ..series.scores import ClassScores, Errors, class_scores
from ..series.solves import evaluating, evaluations
from ..series.space import SeriesSpace
from .model import SeriesModel

__all__ = ["AHEAD", "EventScores", "Scores", "event_scores", "score", "truth_errors"]

# Samples of the latent state behind the evidence lower bound of held-out series.
SAMPLES = 5
# Points beyond those observed, as in the paper's tables of extrapolation.
AHEAD = (10, 25, 50, 100)
# Times at which intensities are compared.
GRID = 200


@dataclass(frozen=True)
class Scores:
    """How well a model knows some series.

    Attributes:
        elbo: Evidence lower bound of a series (a forecaster: its log-likelihood).
        kl: Divergence of the posterior from the prior, mean over the series.
        per_value: Lower bound per observed value.
        errors: Of the values that were hidden, or else of all; ``None`` without values.
        classes: Of the classifier; ``None`` without one, or without labels.
        logits: ``(n, classes)``, or ``None``.
        nfe: Evaluations of fields in a forward pass, mean over the parts.
    """

    elbo: Mean
    kl: float
    per_value: float
    errors: Errors | None
    classes: ClassScores | None
    logits: Tensor | None
    nfe: float


def score(model: SeriesModel, batch: SeriesBatch, *seeds: int) -> Scores:
    """Score all series, `EVALUATION_BATCH` at a time.

    Args:
        model: The model.
        batch: What it reads, and what it is asked for.
        *seeds: What the samples of the latent state follow from.
    """
    device = next(model.parameters()).device
    features = batch.observed.features
    errors = Errors(features) if features else None
    bounds, kl, logits, counts = [], 0.0, [], []
    values = 0.0
    with evaluating(model):
        for number, piece in enumerate(batch.parts(EVALUATION_BATCH)):
            seed_global(device, *seeds, number)
            observed, asked = piece.observed.to(device), piece.asked.to(device)
            bound = model.bound(observed, asked, SAMPLES)
            counts.append(evaluations(model)[0])
            bounds.append((bound.log_likelihood - bound.kl).cpu())
            kl += float(bound.kl.sum())
            values += float(model.values(asked).sum())
            if bound.logits is not None:
                logits.append(bound.logits.cpu())
            if errors is not None:
                held = asked.mask if piece.held is None else piece.held.to(device)
                errors.add(model.predict(observed, asked.times).mean, asked.values, held)
    each = torch.cat(bounds).double()
    spread = float(each.std()) if len(each) > 1 else math.nan
    said = torch.cat(logits) if logits else None
    classes = None
    if said is not None and batch.labels is not None:
        classes = class_scores(said, batch.labels)
    return Scores(
        elbo=Mean(float(each.mean()), spread / math.sqrt(len(each)), digits=3),
        kl=kl / len(each),
        per_value=float(each.sum()) / max(values, 1.0),
        errors=errors,
        classes=classes,
        logits=said,
        nfe=sum(counts) / len(counts),
    )


@dataclass(frozen=True)
class EventScores:
    """How near a model comes to known intensities.

    Attributes:
        true_log_likelihood: Of a series under its own intensity, mean over the series, in nats: no
            model that has to find that out from the events reaches it.
        intensity_rmse: Root mean square error of the intensity, relative to its mean.
        constant_rmse: The same of the constant rate that is right on average.
    """

    true_log_likelihood: float
    intensity_rmse: float
    constant_rmse: float


def event_scores(model: SeriesModel, part: Part, space: SeriesSpace) -> EventScores:
    """Compare a latent ODE of events with the intensities that they were drawn from.

    All in the unit of time of the model.
    """
    core = model.core
    assert isinstance(core, LatentODE)
    times = torch.linspace(0.0, space.until, GRID)
    unit = space.scaling.time_scale
    device = next(model.parameters()).device
    found = []
    with evaluating(model):
        for first in range(0, len(part.series), EVALUATION_BATCH):
            observed = part.batch[first : first + EVALUATION_BATCH].to(device)
            found.append(core.intensity(observed, times.to(device)).squeeze(-1).cpu())
    rates = torch.cat(found).double()
    true = unit * torch.stack([own.rate(unit * times.double()) for own in part.intensities])
    pairs = zip(part.intensities, part.series.times, strict=True)
    likelihoods = [
        float(own.log_likelihood(unit * events)) + len(events) * math.log(unit)
        for own, events in pairs
    ]
    level = true.mean()
    return EventScores(
        true_log_likelihood=sum(likelihoods) / len(likelihoods),
        intensity_rmse=float((rates - true).square().mean().sqrt() / level),
        constant_rmse=float((true - level).square().mean().sqrt() / level),
    )


def truth_errors(model: SeriesModel, part: Part) -> dict[str, float]:
    """Errors of what is predicted for series whose truth is known, against that truth.

    Returns:
        Root mean square over all times that may have been observed, ``inside``, and over so many
        times beyond: ``10``, ``25``, ``50``, ``100``.
    """
    truth = part.truth
    assert truth is not None
    device = next(model.parameters()).device
    inside = truth.inside
    beyond = [ahead for ahead in AHEAD if inside + ahead <= len(truth.times)]
    spans = {"inside": slice(0, inside)}
    spans |= {str(ahead): slice(inside, inside + ahead) for ahead in beyond}
    errors = {name: Errors(truth.values.shape[-1]) for name in spans}
    with evaluating(model):
        for first in range(0, len(part.series), EVALUATION_BATCH):
            series = slice(first, first + EVALUATION_BATCH)
            observed = part.batch[series].to(device)
            mean = model.predict(observed, truth.times.to(device)).mean.cpu()
            for name, span in spans.items():
                found, true = mean[:, span], truth.values[series, span]
                errors[name].add(found, true, torch.ones_like(found, dtype=torch.bool))
    return {name: error.rmse for name, error in errors.items()}
