"""What a flow is trained for, and how it is scored on held-out points."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from ...data import Potential, log_normalizer
from ...nn import CNF, FlowMatching, reverse_kl
from ..history import Columns
from ..trainer import Watched
from .config import CnfConfig

__all__ = ["WATCHED", "Loss", "Objective", "make_objective"]

_EVALUATIONS = ("nfe_forward", "nfe_backward")


WATCHED = {
    "likelihood": Watched(
        columns=Columns(
            averaged=("train_loss", "train_log_likelihood", *_EVALUATIONS),
            validated=("validation_log_likelihood", "validation_nfe"),
        ),
        monitor="validation_log_likelihood",
        mode="max",
        shown={
            "train_loss": "loss",
            "validation_log_likelihood": "held-out",
            "nfe_forward": "NFE",
            "nfe_backward": "NFE",
        },
    ),
    "flow-matching": Watched(
        columns=Columns(
            averaged=("train_loss",), validated=("validation_log_likelihood", "validation_nfe")
        ),
        monitor="validation_log_likelihood",
        mode="max",
        shown={
            "train_loss": "loss",
            "validation_log_likelihood": "held-out",
            "validation_nfe": "NFE",
        },
    ),
    "density": Watched(
        columns=Columns(
            averaged=("train_loss", *_EVALUATIONS), validated=("validation_kl", "validation_nfe")
        ),
        monitor="validation_kl",
        mode="min",
        shown={
            "train_loss": "loss",
            "validation_kl": "held-out",
            "nfe_forward": "NFE",
            "nfe_backward": "NFE",
        },
    ),
}
"""What is looked at while a flow trains, by objective."""


class Loss(NamedTuple):
    """A loss to minimise, the metric to log beside it, and whether an ODE was solved for it."""

    value: Tensor
    metrics: dict[str, Tensor]
    solved: bool


class Objective(Protocol):
    """What a flow is trained for."""

    @property
    def metric(self) -> str:
        """What the score is called in ``metrics.csv``, after ``validation_`` or ``train_``."""

    def loss(self, flow: CNF, batch: Tensor) -> Loss:
        """Loss of a training batch."""

    def score(self, flow: CNF, points: Tensor) -> Tensor:
        """Score of each held-out point in nats, ``(n,)``, of a flow in evaluation mode.

        Draws are made of the global generators, which the caller seeds.
        """


class Likelihood:
    """Maximum likelihood, with the flow's penalties."""

    metric = "log_likelihood"

    def loss(self, flow: CNF, batch: Tensor) -> Loss:
        """Minus the mean log density, plus the mean penalty."""
        if flow.regularizers:
            log_density, penalty = flow.log_prob_and_penalty(batch)
            value = (penalty - log_density).mean()
        else:
            log_density = flow.log_prob(batch)
            value = -log_density.mean()
        return Loss(value, {"train_log_likelihood": log_density.detach().mean()}, solved=True)

    def score(self, flow: CNF, points: Tensor) -> Tensor:
        """Log densities."""
        return flow.log_prob(points)


class Matching:
    """Flow matching; scored by the likelihood all the same."""

    metric = "log_likelihood"

    def __init__(self, config: CnfConfig) -> None:
        self.coupling = config.coupling

    def loss(self, flow: CNF, batch: Tensor) -> Loss:
        """Mean squared error of the velocity."""
        return Loss(FlowMatching(flow, coupling=self.coupling).loss(batch), {}, solved=False)

    def score(self, flow: CNF, points: Tensor) -> Tensor:
        """Log densities."""
        return flow.log_prob(points)


class DensityMatching:
    """KL(q || p) to a density known up to a constant, by samples of the flow.

    The constant of the potentials of the plane is known by quadrature. It joins loss and score, so
    that both are estimates of the divergence itself, whose least value is zero.
    """

    metric = "kl"

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self.log_normalizer = log_normalizer(potential)

    def loss(self, flow: CNF, batch: Tensor) -> Loss:
        """The divergence, estimated by as many samples as the batch has rows."""
        kl = reverse_kl(flow, self.potential.log_density, len(batch)) + self.log_normalizer
        return Loss(kl, {}, solved=True)

    def score(self, flow: CNF, points: Tensor) -> Tensor:
        """``log q - log p`` of as many samples as there are points."""
        samples, log_density = flow.rsample_and_log_prob(len(points))
        return log_density - self.potential.log_density(samples) + self.log_normalizer


def make_objective(config: CnfConfig, potential: Potential | None) -> Objective:
    """The objective that the settings name."""
    if config.objective == "density":
        assert potential is not None
        return DensityMatching(potential)
    if config.objective == "flow-matching":
        return Matching(config)
    return Likelihood()
