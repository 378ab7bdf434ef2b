"""What torch's own suite asks of every distribution and transform, and compositions on top."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Size
from torch.distributions import Distribution, TransformedDistribution
from torch.distributions.transforms import Transform, identity_transform

from isocline.nn import CNF, FlowDistribution, FlowTransform

from ...known import Watched
from .distribution_cases import FAST, close, points
from .flow_cases import DTYPE, FIELDS, jacobian

# --- Distribution --------------------------------------------------------------------------------


def test_shapes_of_samples_and_densities(distribution: FlowDistribution) -> None:
    whole = distribution.batch_shape + distribution.event_shape
    assert distribution.event_shape == distribution.flow.shape
    for shape in (Size(), Size([1]), Size([2, 3])):
        for draw in (distribution.sample, distribution.rsample):
            assert draw(shape).shape == shape + whole
        x, log_density = distribution.rsample_and_log_prob(shape)
        assert x.shape == shape + whole
        assert log_density.shape == shape + distribution.batch_shape
        close(distribution.log_prob(x), log_density)


def test_reparametrised_samples_carry_gradients_and_plain_ones_do_not(
    distribution: FlowDistribution,
) -> None:
    assert distribution.has_rsample
    assert distribution.rsample().requires_grad
    assert not distribution.sample().requires_grad


def test_it_is_the_flows_own_density(distribution: FlowDistribution) -> None:
    x = points(distribution, 2)
    expected = distribution.flow.log_prob(x, distribution.context)
    close(distribution.log_prob(x), expected)


def test_a_density_costs_one_solve() -> None:
    field = Watched(FIELDS["planar"].field())
    flow = CNF(field, 2, **FAST).to(DTYPE)
    x = torch.randn(3, 2, dtype=DTYPE)
    counts = []
    with torch.no_grad():
        for ask in (flow.log_prob, flow.distribution().log_prob):
            field.times.clear()
            ask(x)
            counts.append(len(field.times))
        field.times.clear()
        flow.distribution().rsample_and_log_prob((3,))
        counts.append(len(field.times))
    assert counts[0] == counts[1]
    assert counts[2] < 1.5 * counts[0]


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 1, 3)])
def test_expand(distribution: FlowDistribution, shape: tuple[int, ...]) -> None:
    wide = distribution.expand(shape)
    assert wide.batch_shape == shape
    assert wide.event_shape == distribution.event_shape
    sample = wide.sample()
    assert sample.shape == Size(shape) + distribution.event_shape
    assert wide.rsample((2,)).shape == (2, *shape, *distribution.event_shape)
    close(wide.log_prob(sample), distribution.log_prob(sample))
    assert wide.expand((5, *shape)).batch_shape == (5, *shape)
    # Different rows are different draws.
    assert sample.reshape(math.prod(shape), -1).unique(dim=0).shape[0] == math.prod(shape)
    with pytest.raises(RuntimeError):
        wide.expand((7,))


def test_the_support_holds_the_samples(distribution: FlowDistribution) -> None:
    support = distribution.support
    assert support.event_dim == len(distribution.event_shape)
    assert not support.is_discrete
    x = distribution.sample((2,))
    assert bool(support.check(x).all())
    assert support.check(x).shape == (2, *distribution.batch_shape)
    assert not bool(support.check(torch.full_like(x, math.nan)).any())


def test_values_are_validated(distribution: FlowDistribution) -> None:
    x = points(distribution, 2)
    with pytest.raises(ValueError, match="support"):
        distribution.log_prob(torch.full_like(x, math.nan))
    with pytest.raises(ValueError, match="event_shape"):
        distribution.log_prob(x[..., :1])


def test_validation_can_be_chosen_as_for_any_distribution() -> None:
    flow = FIELDS["planar"].flow(**FAST)
    with pytest.raises(ValueError, match="support"):
        FlowDistribution(flow, validate_args=True).log_prob(torch.full((2,), math.nan))
    careless = FlowDistribution(flow, validate_args=False)
    careless.log_prob(torch.zeros(3, 2, dtype=DTYPE))
    assert careless._validate_args is False
    assert careless.expand((3,))._validate_args is False


def test_what_is_not_known_is_not_implemented(distribution: FlowDistribution) -> None:
    for ask in ("mean", "variance", "mode"):
        with pytest.raises(NotImplementedError):
            getattr(distribution, ask)
    for call in (distribution.entropy, distribution.enumerate_support):
        with pytest.raises(NotImplementedError):
            call()
    assert repr(distribution).startswith("FlowDistribution(")


def test_a_value_broadcasts_against_the_batch() -> None:
    """As for every distribution of torch: one value under each of the batch's distributions."""
    case = FIELDS["conditional"]
    distribution, value = case.flow(**FAST).distribution(*case.contexts(3)), case.points()
    expected = distribution.log_prob(value.expand(3, 2))
    close(distribution.log_prob(value), expected)


# --- freshness -----------------------------------------------------------------------------------


def test_the_density_of_a_sample_carries_gradients() -> None:
    """Score-function estimators draw without a graph, and differentiate the density there."""
    distribution = FIELDS["planar"].flow(**FAST).distribution()
    x = distribution.sample((4,))
    log_density = distribution.log_prob(x)
    assert log_density.requires_grad
    assert bool(next(distribution.flow.field.parameters()).requires_grad)
    parameters = list(distribution.flow.parameters())
    found = torch.autograd.grad(log_density.sum(), parameters, allow_unused=True)
    expected = torch.autograd.grad(
        distribution.flow.log_prob(x).sum(), parameters, allow_unused=True
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("own", [True, False])
def test_one_distribution_serves_a_whole_training(own: bool) -> None:
    """The same tensor of data at every step, with parameters that change in between."""
    flow = FIELDS["planar"].flow(solver="rk4", dt0=0.25)
    x = torch.randn(16, 2, dtype=DTYPE)
    distribution: Distribution = flow.distribution()
    if not own:
        distribution = TransformedDistribution(flow.base_distribution(), [flow.transform()])
    optimizer = torch.optim.SGD(flow.parameters(), 1e-2)
    for _ in range(3):
        loss = -distribution.log_prob(x).mean()
        assert float(loss.detach()) == pytest.approx(-float(flow.log_prob(x).mean().detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("cache", [0, 1])
def test_a_log_determinant_is_never_stale(cache: int) -> None:
    """It is asked for with x and y in hand: the parameters may have changed since."""
    flow = FIELDS["affine"].flow(**FAST)
    transform = flow.transform().with_cache(cache)
    x = torch.randn(3, 3, dtype=DTYPE)
    with torch.no_grad():
        y = transform(x)
        before = transform.log_abs_det_jacobian(x, y)
        flow.field.A.add_(torch.eye(3, dtype=DTYPE))
        after = transform.log_abs_det_jacobian(x, y)
    torch.testing.assert_close(after, before + 3.0, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cache", [0, 1])
def test_a_log_determinant_found_without_a_graph_is_not_handed_out_with_one(cache: int) -> None:
    transform = FIELDS["affine"].flow(**FAST).transform().with_cache(cache)
    x = torch.randn(3, 3, dtype=DTYPE)
    with torch.no_grad():
        y = transform(x)
    (gradient,) = torch.autograd.grad(
        transform.log_abs_det_jacobian(x, y).sum(), transform.flow.field.A
    )
    torch.testing.assert_close(gradient, 3 * torch.eye(3, dtype=DTYPE))


def _pickled(distribution: FlowDistribution) -> FlowDistribution:
    found: FlowDistribution = pickle.loads(pickle.dumps(distribution))
    return found


@pytest.mark.parametrize("copied", [copy.deepcopy, _pickled])
def test_copies_can_be_made_after_use(
    copied: Callable[[FlowDistribution], FlowDistribution],
) -> None:
    distribution = FIELDS["planar"].flow(**FAST).distribution()
    x = torch.randn(3, 2, dtype=DTYPE)
    expected = distribution.log_prob(x)
    close(copied(distribution).log_prob(x), expected)


# --- Transform -----------------------------------------------------------------------------------


def test_the_inverse(transform: FlowTransform) -> None:
    assert isinstance(transform, Transform)
    assert transform.inv.inv is transform
    assert transform.bijective
    assert transform.inv.bijective
    fresh = transform.with_cache(0)
    x = points(transform, 2)
    y = fresh(x)
    assert y.shape == x.shape
    close(fresh.inv(y), x)
    close(fresh.inv.log_abs_det_jacobian(y, x), -fresh.log_abs_det_jacobian(x, y))
    close(fresh(fresh.inv(x)), x)


def test_domains_and_event_dimensions(transform: FlowTransform) -> None:
    dim = len(transform.flow.shape)
    assert transform.domain.event_dim == transform.codomain.event_dim == dim
    assert transform.inv.domain.event_dim == transform.inv.codomain.event_dim == dim
    x = points(transform, 2)
    assert bool(transform.domain.check(x).all())
    assert bool(transform.codomain.check(transform(x)).all())
    assert transform.forward_shape(x.shape) == transform.inverse_shape(x.shape) == x.shape
    assert transform.log_abs_det_jacobian(x, transform(x)).shape == x.shape[: x.ndim - dim]


def test_the_log_determinant(transform: FlowTransform) -> None:
    """Against the Jacobian of the whole map, for one sample."""
    flow, context = transform.flow, transform.context
    context = None if context is None else context[:1]
    transform = FlowTransform(flow, context, cache_size=0)
    x = torch.randn(1, *flow.shape, dtype=DTYPE)
    J = jacobian(lambda x: flow.trajectory(x, [1.0], context)[0], x[0])
    expected = torch.linalg.slogdet(J)[1]
    y = transform(x)
    for found in (
        transform.log_abs_det_jacobian(x, y),
        transform.log_abs_det_jacobian(x.clone(), y.clone()),
        transform.call_and_ladj(x)[1],
        -transform.inv.log_abs_det_jacobian(y, x),
    ):
        close(found, expected.view(1))


def test_cache(transform: FlowTransform) -> None:
    cached = transform.with_cache(1)
    assert cached.with_cache(1) is cached
    x = points(cached, 2)
    y = cached(x)
    assert cached(x) is y
    assert cached.inv(y) is x
    back = cached.inv(y.clone())
    assert back is not x
    bare = cached.with_cache(0)
    assert bare is not cached
    assert bare(x) is not bare(x)
    assert cached.inv.with_cache(0).inv(x) is not y
    with pytest.raises(ValueError, match="cache_size"):
        cached.with_cache(2)


def test_equality(transform: FlowTransform) -> None:
    flow, context = transform.flow, transform.context
    assert transform == flow.transform(context)
    assert hash(transform) == hash(flow.transform(context))
    assert transform.inv == flow.transform(context).inv
    assert transform != copy.deepcopy(flow).transform(context)
    assert transform != identity_transform
    assert transform != transform.inv
    if context is not None:
        assert transform != flow.transform(context + 1)


def test_a_transform_can_be_saved_and_loaded(transform: FlowTransform) -> None:
    x, stream = points(transform, 2), io.BytesIO()
    torch.save(transform.with_cache(0), stream)
    stream.seek(0)
    close(torch.load(stream, weights_only=False)(x), transform(x))
