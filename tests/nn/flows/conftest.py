"""Flows of each kind, as distributions and as transforms."""

from __future__ import annotations

import pytest

from isocline.nn import FlowDistribution, FlowTransform

from .distribution_cases import FAST, KINDS


@pytest.fixture(params=KINDS)
def distribution(request: pytest.FixtureRequest) -> FlowDistribution:
    """One of each kind; the conditional one has batch shape (3,)."""
    case = KINDS[request.param]
    return case.flow(**FAST).distribution(*case.contexts(3))


@pytest.fixture(params=KINDS)
def transform(request: pytest.FixtureRequest) -> FlowTransform:
    case = KINDS[request.param]
    return case.flow(**FAST).transform(*case.contexts(3))
