"""Flows among torch's own distributions and transforms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Size
from torch.distributions import (
    AffineTransform,
    Categorical,
    ComposeTransform,
    ExpTransform,
    Independent,
    IndependentTransform,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    kl_divergence,
)

from isocline.nn import CNF, FlowDistribution, FlowTransform, Hutchinson

from .distribution_cases import FAST, close, points
from .flow_cases import DTYPE, FIELDS, TIGHT, affine, agrees


def test_a_mixture_of_conditional_flows() -> None:
    case = FIELDS["conditional"]
    parts = case.flow(**FAST).distribution(*case.contexts(3))
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=DTYPE)
    mixture = MixtureSameFamily(Categorical(weights), parts)
    x = case.points(4)
    each = torch.stack([parts.log_prob(row.expand(3, 2)) for row in x])
    close(mixture.log_prob(x), (each + weights.log()).logsumexp(-1))


def test_composed_with_torchs_own(transform: FlowTransform) -> None:
    dim = len(transform.flow.shape)
    x = points(transform, 2)
    y, log_det = transform.flow(x, transform.context)
    scaled = ComposeTransform([transform.with_cache(0), AffineTransform(1.0, -2.0)])
    assert scaled.domain.event_dim == scaled.codomain.event_dim == dim
    close(scaled(x), 1 - 2 * y)
    close(scaled.inv(1 - 2 * y), x)
    expected = log_det + math.log(2.0) * math.prod(transform.flow.shape)
    close(scaled.log_abs_det_jacobian(x, scaled(x)), expected)
    there_and_back = ComposeTransform([transform, transform.inv])
    close(there_and_back(x), x)
    close(there_and_back.log_abs_det_jacobian(x, x), torch.zeros_like(log_det))
    grouped = IndependentTransform(transform, 1)
    assert grouped.domain.event_dim == dim + 1
    close(grouped.log_abs_det_jacobian(x, grouped(x)), log_det.sum(-1))


def test_distributions_on_top(distribution: FlowDistribution) -> None:
    x = points(distribution, 2)
    expected = distribution.log_prob(x)
    top = TransformedDistribution(distribution, [ExpTransform()])
    assert top.batch_shape == distribution.batch_shape
    assert top.event_shape == distribution.event_shape
    assert top.support.event_dim == len(distribution.event_shape)
    close(top.log_prob(x.exp()), expected - x.flatten(x.ndim - len(top.event_shape)).sum(-1))
    assert bool((top.sample((2,)) > 0).all())
    wide = distribution.expand((2, 3))
    grouped = Independent(wide, 1)
    assert grouped.event_shape == Size([3]) + distribution.event_shape
    values = wide.sample()
    close(grouped.log_prob(values), wide.log_prob(values).sum(-1))


def test_a_base_that_reinterprets_its_batch() -> None:
    """Under a transform of vectors a batch of scalar normals becomes one vector."""
    transform = FIELDS["planar"].flow(**FAST).transform()
    scalars = Normal(torch.zeros(5, 2, dtype=DTYPE), 1.0)
    top = TransformedDistribution(scalars, [transform])
    assert top.batch_shape == (5,)
    assert top.event_shape == (2,)
    assert top.support.event_dim == 1
    x = torch.randn(5, 2, dtype=DTYPE)
    close(top.log_prob(x), transform.flow.log_prob(x))


def test_divergence_between_flows_by_samples() -> None:
    """KL(q || p) between two affine flows, by samples and by the formula for normals."""
    torch.manual_seed(1)
    known, found = [], []
    for _ in range(2):
        field = affine(2)
        still = torch.zeros(2, dtype=DTYPE), torch.eye(2, dtype=DTYPE)
        known.append(field.carried(1.0, *still))
        found.append(CNF(field, 2, **TIGHT).to(DTYPE).distribution())
    q, p = found
    with torch.no_grad():
        x, log_q = q.rsample_and_log_prob((4000,))
        assert agrees(log_q - p.log_prob(x), kl_divergence(*known))
    assert float(kl_divergence(q, q.flow.distribution())) == 0.0
    with pytest.raises(NotImplementedError):
        kl_divergence(q, p)
    with pytest.raises(NotImplementedError):
        kl_divergence(q, MultivariateNormal(torch.zeros(2), torch.eye(2)))


def test_estimates_are_the_same_for_value_and_inverse() -> None:
    """In training value and log-determinant come of one solve, with one draw of the noise."""
    flow = FIELDS["affine"].flow(divergence=Hutchinson("gaussian"), **FAST)
    transform = flow.transform().with_cache(1)
    x = torch.randn(4, 3, dtype=DTYPE)
    y = transform(x)
    one, other = (transform.log_abs_det_jacobian(x, y) for _ in range(2))
    assert torch.equal(one, other)
