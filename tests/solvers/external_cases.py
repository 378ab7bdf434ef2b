"""What the suites of black boxes share."""

from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.solvers import BLACK_BOXES

EVERY = pytest.mark.parametrize("name", BLACK_BOXES)
SPANS = pytest.mark.parametrize("span", [(0.0, 3.0), (3.0, 0.0)], ids=["forward", "backward"])
START = torch.tensor([1.0, 0.0], dtype=torch.float64)


def solve(*arguments: Any, **options: Any) -> ic.Solution:
    """`solve` without a graph: the gradients have their own tests."""
    with torch.no_grad():
        return ic.solve(*arguments, **options)


def broken(t: Tensor, y: Tensor) -> Tensor:
    """NaN in the second sample, from t = 1/2 on."""
    late = torch.where(t > 0.5, torch.nan, 1.0)
    return -y * torch.stack([torch.ones_like(late), late]).unsqueeze(-1)
