"""A flow by its settings."""

from __future__ import annotations

import torch

from ...nn import (
    CNF,
    ConcatSquashField,
    Divergence,
    ExactDivergence,
    Hutchinson,
    HutchPlusPlus,
    JacobianNorm,
    KineticEnergy,
    PlanarField,
    Regularizer,
    StandardNormal,
)
from ..adjoint import make_adjoint
from .config import CnfConfig

__all__ = ["build_flow"]

# Columns up to which every row of the Jacobian is found, where there is no closed form: the cost
# of a row is that of the estimate, which is free of it but adds noise.
EXACT_UP_TO = 10


def build_flow(config: CnfConfig, features: int) -> CNF:
    """Build the flow that resolved settings describe, for samples of so many columns."""
    assert config.hidden is not None
    assert config.t1 is not None
    assert config.base_std is not None
    field: torch.nn.Module
    if config.field == "planar":
        field = PlanarField(features, config.units, config.hidden)
    else:
        field = ConcatSquashField(features, config.hidden, config.depth)
    regularizers: list[Regularizer] = []
    if config.kinetic:
        regularizers.append(KineticEnergy(config.kinetic))
    if config.jacobian:
        regularizers.append(JacobianNorm(config.jacobian))
    return CNF(
        field,
        features,
        base=StandardNormal(torch.Size([features]), config.base_std),
        divergence=_divergence(config, features),
        regularizers=regularizers,
        t1=config.t1,
        solver=config.solver,
        rtol=config.tol,
        atol=config.tol,
        norm=config.norm,
        adjoint=make_adjoint(config.adjoint, config.slots, config.graph_memory),
    )


def _divergence(config: CnfConfig, features: int) -> Divergence | None:
    """The divergence in training; ``None`` for the field's closed form."""
    if config.divergence == "hutchinson":
        return Hutchinson()
    if config.divergence == "hutch++":
        return HutchPlusPlus()
    if config.divergence == "exact":
        return ExactDivergence()
    # A closed form of the trace does not give the norm of the whole Jacobian.
    if config.field == "planar" and not config.jacobian:
        return None
    return ExactDivergence() if features <= EXACT_UP_TO else Hutchinson()
