"""Which point of the base goes to which point of the data, in flow matching."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ...errors import InputError, MissingLibraryError

__all__ = ["CouplingName", "check_coupling", "coupled"]

CouplingName = Literal["independent", "optimal-transport"]


def check_coupling(name: str) -> None:
    """Raise `InputError` unless `name` is a coupling's."""
    if name not in get_args(CouplingName):
        raise InputError("coupling", repr(name), " or ".join(map(repr, get_args(CouplingName))))


def coupled(name: CouplingName, z: Tensor, x: Tensor) -> Tensor:
    """The rows of `z`, shape (batch, ...), in the order in which they go to those of `x`.

    With optimal transport within the batch (Tong et al. 2024, "Improving and generalizing
    flow-based generative models with minibatch optimal transport"; Pooladian et al. 2023) paths
    cross less, and the field that is learnt is straighter.

    Raises:
        MissingLibraryError: for optimal transport without POT.
    """
    if name == "independent":
        return z
    try:
        import ot
    except ImportError as error:
        raise MissingLibraryError(
            "coupling='optimal-transport' needs POT; run: pip install pot (or 'isocline[train]')"
        ) from error
    with torch.no_grad():
        cost = torch.cdist(x.flatten(1).double(), z.flatten(1).double()).square().cpu().numpy()
    # Between two sets of equal size and weight the optimal plan is a permutation.
    uniform = ot.unif(len(x))
    plan = torch.from_numpy(ot.emd(uniform, uniform, cost, numItermax=1_000_000))
    return z[plan.argmax(1).to(z.device)]
