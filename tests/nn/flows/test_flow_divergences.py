"""Every divergence on every field: against finite differences, and against statistics."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from isocline.nn import ExactDivergence, Hutchinson, HutchPlusPlus, PlanarField, Rate

from .flow_cases import CLOSED, DIVERGENCES, DTYPE, FIELDS, agrees, jacobian, pairs, slope

EVERY = pytest.mark.parametrize(("field", "divergence"), pairs())
T = torch.tensor(0.37, dtype=DTYPE)


@functools.cache
def true_jacobians(name: str, count: int = 3) -> Tensor:
    """Of the field at a few points, shape (count, d, d)."""
    case = FIELDS[name]
    field, points, contexts = case.field(), case.points(count), case.contexts(count)

    def at(i: int, z: Tensor) -> Tensor:
        return field(T, z, *(context[i].expand(len(z), -1) for context in contexts))

    return torch.stack([jacobian(functools.partial(at, i), points[i]) for i in range(count)])


def rate_of(field: str, divergence: str, *, repeat: int = 1, norm: bool = False) -> Rate:
    """At the points of `true_jacobians`, each `repeat` times over."""
    case, how = FIELDS[field], DIVERGENCES[divergence].divergence
    z = case.points(3).repeat_interleave(repeat, 0)
    contexts = tuple(c.repeat_interleave(repeat, 0) for c in case.contexts(3))
    return how(case.field(), T, z, contexts, how.noise(z), norm=norm)


@EVERY
def test_the_velocity_is_the_field_and_nothing_comes_unasked(field: str, divergence: str) -> None:
    case, rate = FIELDS[field], rate_of(field, divergence)
    expected = case.field()(T, case.points(3), *case.contexts(3))
    torch.testing.assert_close(rate.velocity, expected, rtol=1e-13, atol=1e-13)
    assert rate.divergence.shape == (3,)
    assert rate.divergence.dtype == DTYPE
    assert rate.squared_norm is None


@EVERY
def test_the_trace(field: str, divergence: str) -> None:
    """Exact where it claims to be; otherwise right on average, with the spread of an estimate."""
    true = true_jacobians(field)
    traces = true.diagonal(dim1=1, dim2=2).sum(1)
    if DIVERGENCES[divergence].is_exact(true.shape[1]):
        found = rate_of(field, divergence).divergence
        torch.testing.assert_close(found, traces, rtol=1e-8, atol=1e-8)
        return
    found = rate_of(field, divergence, repeat=600).divergence.detach().view(3, 600)
    for draws, trace in zip(found, traces, strict=True):
        assert float(draws.std()) > 0
        assert agrees(draws, trace)


@EVERY
def test_the_squared_norm(field: str, divergence: str) -> None:
    case = DIVERGENCES[divergence]
    if not case.knows_norm:
        return
    sizes = true_jacobians(field).square().sum((1, 2))
    if case.exact:
        found = rate_of(field, divergence, norm=True).squared_norm
        torch.testing.assert_close(found, sizes, rtol=1e-8, atol=1e-8)
        return
    found = rate_of(field, divergence, repeat=600, norm=True).squared_norm
    assert found is not None
    for draws, size in zip(found.detach().view(3, 600), sizes, strict=True):
        assert float(draws.min()) >= 0
        assert agrees(draws, size)


@EVERY
def test_the_noise_decides_everything_sample_by_sample(field: str, divergence: str) -> None:
    """It is drawn once for each solve: the rate is a function of it, and of the sample alone."""
    case, how = FIELDS[field], DIVERGENCES[divergence].divergence
    z, contexts, f = case.points(3), case.contexts(3), case.field()
    noise, norm = how.noise(z), DIVERGENCES[divergence].knows_norm
    assert all(not tensor.requires_grad and tensor.dtype == DTYPE for tensor in noise)
    state = torch.get_rng_state()
    whole = how(f, T, z, contexts, noise, norm=norm)
    some = tuple(tensor[1:] for tensor in contexts), tuple(tensor[:, 1:] for tensor in noise)
    part = how(f, T, z[1:], *some, norm=norm)
    assert torch.equal(state, torch.get_rng_state())
    for one, other in zip(whole, part, strict=True):
        assert (one is None) is (other is None)
        if one is not None:
            torch.testing.assert_close(other, one[1:], rtol=1e-12, atol=1e-12)


@EVERY
def test_gradients_by_finite_differences(field: str, divergence: str) -> None:
    """Of trace and squared norm, to the state, parameters and context, the noise held fixed."""
    case, how = FIELDS[field], DIVERGENCES[divergence]
    if not (how.smooth or how.is_exact(math.prod(case.shape))):
        return
    f, norm = case.field(), how.knows_norm and how.exact
    inputs = [tensor.requires_grad_() for tensor in (case.points(2), *case.contexts(2))]
    noise = how.divergence.noise(inputs[0].detach())

    def total() -> Tensor:
        rate = how.divergence(f, T, inputs[0], tuple(inputs[1:]), noise, norm=norm)
        value = (rate.divergence * torch.tensor([1.0, -0.6], dtype=DTYPE)).sum()
        return value if rate.squared_norm is None else value + rate.squared_norm.sum()

    tensors = [*inputs, *f.parameters()]
    value = total()
    assert value.requires_grad is not (field == "hamiltonian" and divergence == "closed")
    if not value.requires_grad:
        return
    found = torch.autograd.grad(value, tensors, allow_unused=True)
    for tensor, gradient in zip(tensors, found, strict=True):
        direction = torch.randn_like(tensor)

        def moved(h: float, tensor: Tensor = tensor, direction: Tensor = direction) -> Tensor:
            tensor.add_(direction, alpha=h)
            value = total()
            tensor.sub_(direction, alpha=h)
            return value.detach()

        got = 0.0 if gradient is None else float((gradient * direction).sum())
        assert got == pytest.approx(float(slope(moved)), rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("divergence", ["rademacher", "gaussian", "hutch++3", "hutch++6"])
@pytest.mark.parametrize("field", ["planar4", "timeless", "hamiltonian"])
def test_the_gradient_of_an_estimate_is_unbiased(field: str, divergence: str) -> None:
    """Also where a subspace is held constant: for any subspace the expectation is the trace."""
    case, count = FIELDS[field], 2000
    f, how = case.field(), DIVERGENCES[divergence].divergence
    one = case.points(1).requires_grad_()
    exact = ExactDivergence()(f, T, one, (), ()).divergence
    (expected,) = torch.autograd.grad(exact, one)
    z = one.detach().expand(count, *case.shape).clone().requires_grad_()
    estimate = how(f, T, z, (), how.noise(z)).divergence
    (found,) = torch.autograd.grad(estimate.sum(), z)
    assert agrees(found, expected)


@pytest.mark.parametrize(
    "divergence",
    [Hutchinson(), Hutchinson("gaussian"), Hutchinson(samples=3), Hutchinson("gaussian", 5)],
    ids=str,
)
def test_the_variance_is_hutchinsons(divergence: Hutchinson) -> None:
    """2 |S|_F^2 for Gaussian noise, without S's diagonal for signs; S is the symmetric part."""
    A = torch.randn(4, 4, dtype=DTYPE)
    S = (A + A.t()) / 2
    if divergence.noise_name == "rademacher":
        S = S - S.diag().diag()
    z = torch.zeros(20_000, 4, dtype=DTYPE)
    draws = divergence(lambda t, z: z @ A.t(), T, z, (), divergence.noise(z)).divergence
    expected = 2 * float(S.square().sum()) / divergence.samples
    assert float(draws.var()) == pytest.approx(expected, rel=0.08)
    assert agrees(draws, float(A.trace()))


def test_signs_are_exact_where_the_jacobian_is_diagonal() -> None:
    rates = torch.randn(6, dtype=DTYPE)
    z = torch.randn(3, 6, dtype=DTYPE)
    how = Hutchinson()
    found = how(lambda t, z: rates * z, T, z, (), how.noise(z)).divergence
    torch.testing.assert_close(found, rates.sum().expand(3))


@pytest.mark.parametrize("rank", [1, 2])
def test_hutch_plus_plus_is_exact_up_to_the_rank_that_it_sees(rank: int) -> None:
    """A planar field of one unit has a Jacobian of rank one: one product finds all of it."""
    torch.manual_seed(3)
    field = PlanarField(7, units=rank, hidden=4).to(DTYPE)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(3.0)
    z = torch.randn(20, 7, dtype=DTYPE)
    expected = field.with_divergence(T, z)[1].detach()
    how, coarse = HutchPlusPlus(3 * rank), HutchPlusPlus(3)
    torch.testing.assert_close(how(field, T, z, (), how.noise(z)).divergence, expected)
    missed = coarse(field, T, z, (), coarse.noise(z)).divergence - expected
    assert (float(missed.detach().abs().max()) > 1e-3) is (rank > 1)


def test_hutch_plus_plus_stands_a_jacobian_of_zeros() -> None:
    z = torch.zeros(4, 3, dtype=DTYPE, requires_grad=True)
    how = HutchPlusPlus(6)
    rate = how(lambda t, z: z**3, T, z, (), how.noise(z), norm=True)
    assert torch.equal(rate.divergence.detach(), torch.zeros(4, dtype=DTYPE))
    (gradient,) = torch.autograd.grad(rate.divergence.sum(), z)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_form_takes_a_time_for_each_sample(name: str) -> None:
    case = FIELDS[name]
    field, z, t = case.field(), case.points(4), torch.rand(4, dtype=DTYPE)
    velocity, divergence = field.with_divergence(t, z)
    for i in range(4):
        one, its = field.with_divergence(t[i], z[i : i + 1])
        torch.testing.assert_close(velocity[i : i + 1], one)
        torch.testing.assert_close(divergence[i : i + 1], its)


def test_noise_has_mean_zero_and_variance_one() -> None:
    for divergence in (Hutchinson(), Hutchinson("gaussian"), HutchPlusPlus(6)):
        for noise in divergence.noise(torch.zeros(20_000, 2, dtype=DTYPE)):
            flat = noise.transpose(0, 1).flatten(1)
            assert agrees(flat, 0.0)
            products = flat.unsqueeze(1) * flat.unsqueeze(2)
            assert agrees(products, torch.eye(flat.shape[1], dtype=DTYPE))
    signs = Hutchinson().noise(torch.zeros(100, 2))[0]
    assert set(signs.unique().tolist()) == {-1.0, 1.0}


def test_the_two_parts_of_hutch_plus_plus_are_independent() -> None:
    subspace, rest = HutchPlusPlus(3).noise(torch.zeros(20_000, 2, dtype=DTYPE))
    assert agrees((subspace * rest)[0], 0.0)
