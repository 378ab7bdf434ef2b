"""Measurements of a classifier: test error, evaluations, times, accuracy of its solve."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...adjoints import Backsolve
from ...data import ImageSet, Slices
from ...nn import ImageClassifier

__all__ = [
    "Cost",
    "Score",
    "measure_backsolve",
    "measure_cost",
    "measure_numerical_error",
    "reference_state",
    "score",
]

# A field with ReLUs is not smooth: a method of order 5 reaches a tight tolerance in fewer
# evaluations than one of order 8 (on a trained network, 272 at 1e-7, where DOP853 takes 869).
REFERENCE_SOLVER = "tsit5"


@dataclass(frozen=True)
class Score:
    """How well a classifier does on a set of images.

    Attributes:
        error: Misclassified images, in per cent.
        loss: Mean cross entropy, in nats.
        nfe: Mean evaluations per batch; 0 for a residual network.
        samples: Number of images.
    """

    error: float
    loss: float
    nfe: float
    samples: int


@dataclass(frozen=True)
class Cost:
    """What one batch costs: evaluations, and the shortest time of several runs in seconds."""

    nfe_forward: int
    nfe_backward: int
    seconds_forward: float
    seconds_training: float


def score(model: ImageClassifier, data: ImageSet, batch_size: int) -> Score:
    """Classify all images, without a graph, on the model's device."""
    device = next(model.parameters()).device
    wrong, loss, evaluations = 0, 0.0, []
    with torch.no_grad():
        for images, labels in Slices(data, batch_size):
            logits, target = model(images.to(device)), labels.to(device)
            wrong += int((logits.argmax(1) != target).sum())
            loss += float(F.cross_entropy(logits, target, reduction="sum"))
            if model.ode is not None:
                evaluations.append(model.ode.nfe_forward)
    count = len(data)
    nfe = statistics.fmean(evaluations) if evaluations else 0.0
    return Score(error=100.0 * wrong / count, loss=loss / count, nfe=nfe, samples=count)


def measure_cost(model: ImageClassifier, batch: ImageSet, repeats: int) -> Cost:
    """Time the forward pass, and forward and backward together, on one batch."""
    device = next(model.parameters()).device
    images, labels = batch.images.to(device), batch.labels.to(device)
    forward, training = [], []
    nfe_forward = nfe_backward = 0
    for _ in range(repeats):
        with torch.no_grad():
            start = _now(device)
            model(images)
            forward.append(_now(device) - start)
        start = _now(device)
        F.cross_entropy(model(images), labels).backward()
        training.append(_now(device) - start)
        model.zero_grad(set_to_none=True)
        if model.ode is not None:
            nfe_forward, nfe_backward = model.ode.nfe_forward, model.ode.nfe_backward
    # The fastest, for other work on the machine only ever adds to a time.
    return Cost(nfe_forward, nfe_backward, min(forward), min(training))


def measure_backsolve(model: ImageClassifier, batch: ImageSet) -> int:
    """Evaluations of the backward pass when it solves the adjoint ODE, whatever the model's own."""
    assert model.ode is not None
    own = model.ode.adjoint, model.ode.stepping
    model.ode.adjoint, model.ode.stepping = Backsolve(), "joint"
    try:
        return measure_cost(model, batch, repeats=1).nfe_backward
    finally:
        model.ode.adjoint, model.ode.stepping = own


def reference_state(model: ImageClassifier, images: Tensor, tolerance: float) -> Tensor:
    """State at the end of the ODE, in float64: the yardstick for numerical errors."""
    exact = copy.deepcopy(model).cpu().double()
    assert exact.ode is not None
    exact.ode.solver = REFERENCE_SOLVER
    exact.ode.rtol = exact.ode.atol = tolerance
    exact.ode.dt0 = None
    with torch.no_grad():
        answer: Tensor = exact.ode(exact.stem(images.double()))
    return answer


def measure_numerical_error(model: ImageClassifier, images: Tensor, reference: Tensor) -> float:
    """RMS distance of the model's own solve from the reference, relative to the latter's RMS."""
    assert model.ode is not None
    device = next(model.parameters()).device
    with torch.no_grad():
        state = model.ode(model.stem(images.to(device))).cpu().double()
    return float((state - reference).square().mean().sqrt() / reference.square().mean().sqrt())


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
