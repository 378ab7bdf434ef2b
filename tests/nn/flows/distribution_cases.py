"""What the suites of `torch.distributions`' contract share: one flow of each kind."""

from __future__ import annotations

import torch
from torch import Tensor

from isocline.nn import FlowDistribution, FlowTransform

from .flow_cases import DTYPE, FIELDS, PIXELS, FieldCase

KINDS: dict[str, FieldCase] = {
    **{name: FIELDS[name] for name in ("planar", "conditional", "affine")},
    "pixels": PIXELS,
}
FAST = {"rtol": 1e-6, "atol": 1e-6}


def points(over: FlowDistribution | FlowTransform, *batch: int) -> Tensor:
    """Points of a shape that suits the contexts."""
    flow, context = over.flow, over.context
    rows = () if context is None else context.shape[:-1]
    return torch.randn(*batch, *rows, *flow.shape, dtype=DTYPE)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
