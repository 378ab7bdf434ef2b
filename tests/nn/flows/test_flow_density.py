"""Densities: they integrate to one, agree with what is known, and with the samples' own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from isocline.nn import (
    CNF,
    ExactDivergence,
    Hutchinson,
    HutchPlusPlus,
    KineticEnergy,
    PlanarField,
)

from .flow_cases import (
    ADJOINTS,
    DTYPE,
    FIELDS,
    PLANE,
    TIGHT,
    Affine,
    Learnt,
    affine,
    agrees,
    grid,
    jacobian,
)

LOOSE = {"solver": "tsit5", "rtol": 1e-5, "atol": 1e-5}


def standard(shape: tuple[int, ...]) -> Distribution:
    return Independent(Normal(torch.zeros(shape, dtype=DTYPE), 1.0), len(shape))


@pytest.mark.parametrize("t", [None, 0.35])
@pytest.mark.parametrize("name", PLANE)
def test_a_density_integrates_to_one(name: str, t: float | None) -> None:
    case = FIELDS[name]
    flow, context = case.flow(**LOOSE), case.contexts()
    with torch.no_grad():
        samples = flow.sample(2000, *context, t=t)
        low, high = samples.amin(0) - 2.5, samples.amax(0) + 2.5
        points, area = grid(low.tolist(), high.tolist(), 131)
        density = flow.log_prob(points, *context, t=t).exp()
    assert float(density.sum() * area) == pytest.approx(1.0, abs=1e-3)
    # The field must have done something: half the absolute difference is the total variation.
    moved = (density - standard((2,)).log_prob(points).exp()).abs().sum() * area / 2
    assert float(moved) > (0.3 if t is None else 0.05)


@pytest.mark.parametrize("t", [None, 0.35])
def test_the_density_is_that_of_the_samples(t: float | None) -> None:
    """The mass of quarters of the plane, by the density and by counting."""
    flow = FIELDS["planar"].flow(**LOOSE)
    samples = flow.sample(20_000, t=t)
    middle = samples.median(0).values
    points, area = grid((samples.amin(0) - 2).tolist(), (samples.amax(0) + 2).tolist(), 201)
    with torch.no_grad():
        density = flow.log_prob(points, t=t).exp() * area
    for signs in ([1, 1], [1, -1], [-1, 1], [-1, -1]):
        side = torch.tensor(signs)
        share = float(density[((points - middle) * side > 0).all(1)].sum())
        counted = ((samples - middle) * side > 0).all(1).to(DTYPE)
        assert abs(float(counted.mean()) - share) < 5 * math.sqrt(0.25 / 20_000) + 3e-3


@pytest.mark.parametrize(
    ("name", "training"), [*((name, True) for name in FIELDS), ("planar", False)]
)
def test_the_density_of_samples_is_the_samplers_own(name: str, training: bool) -> None:
    case = FIELDS[name]
    flow, contexts = case.flow(rtol=1e-7, atol=1e-7).train(training), case.contexts(4)
    x, log_density = (
        flow.rsample_and_log_prob((3,), *contexts)
        if contexts
        else (flow.rsample_and_log_prob((3, 4)))
    )
    assert x.shape == (3, 4, *case.shape)
    torch.testing.assert_close(flow.log_prob(x, *contexts), log_density, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, pytest.param(1e-9, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FIELDS)
def test_there_and_back_within_20_tolerances(name: str, tolerance: float) -> None:
    case = FIELDS[name]
    solver = "tsit5" if tolerance > 1e-8 else "dop853"
    flow = case.flow(solver=solver, rtol=tolerance, atol=tolerance)
    z, contexts = case.points(5), case.contexts(5)
    with torch.no_grad():
        there = flow(z, *contexts)
        back = flow.inverse(there.value, *contexts)
    size = 1 + float(torch.maximum(z.abs(), there.value.abs()).max())
    assert float((back.value - z).abs().max()) <= 20 * tolerance * size
    size = 1 + float(there.log_det.abs().max())
    assert float((there.log_det + back.log_det).abs().max()) <= 20 * tolerance * size


@pytest.mark.parametrize("name", FIELDS)
def test_the_log_determinant_is_that_of_the_jacobian(name: str) -> None:
    case = FIELDS[name]
    flow, contexts, z = case.flow(), case.contexts(1), case.points(1)

    def ends(z: Tensor) -> Tensor:
        return flow.trajectory(z, [1.0], *contexts)[0]

    J = jacobian(ends, z[0])
    sign, size = torch.linalg.slogdet(J)
    flowed = flow(z, *contexts)
    assert float(sign) == 1.0
    assert float(flowed.log_det.detach()) == pytest.approx(float(size), abs=1e-7)
    if name == "hamiltonian":
        assert float(flowed.log_det.detach()) == 0.0


SPANS = [(0.0, 1.0), (1.0, 0.0), (-2.0, -1.3), (3.0, 2.2)]


@pytest.mark.parametrize("t", [None, 0.3])
@pytest.mark.parametrize(
    ("t0", "t1", "divergence"), [*((*span, None) for span in SPANS), (0.0, 1.0, HutchPlusPlus(9))]
)
def test_an_affine_field_gives_the_analytic_gaussian(
    t0: float, t1: float, divergence: object, t: float | None
) -> None:
    """In either direction of time, from a base that is not the standard one."""
    field, shift = affine(3), torch.tensor([0.3, -1.0, 0.5], dtype=DTYPE)
    L = torch.tensor([[0.8, 0.0, 0.0], [0.3, 1.2, 0.0], [-0.4, 0.2, 0.6]], dtype=DTYPE)
    base = MultivariateNormal(shift, scale_tril=L)
    flow = CNF(field, 3, base=base, t0=t0, t1=t1, divergence=divergence, **TIGHT)
    end = t1 if t is None else t0 + t * (t1 - t0)
    expected = field.carried(end - t0, shift, L @ L.t())
    x = expected.mean + 2 * torch.randn(20, 3, dtype=DTYPE)
    found = flow.log_prob(x, t=None if t is None else end)
    torch.testing.assert_close(found, expected.log_prob(x), rtol=1e-8, atol=1e-8)
    # And the map itself.
    P, q = field.flow(end - t0)
    flowed = flow(x, t=None if t is None else end)
    torch.testing.assert_close(flowed.value, x @ P.t() + q, rtol=1e-9, atol=1e-9)
    trace = (end - t0) * field.A.trace()
    torch.testing.assert_close(flowed.log_det, trace.expand(20), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("t0", "t1"), SPANS)
def test_an_affine_field_whose_pace_depends_on_time(t0: float, t1: float) -> None:
    """dz/dt = cos(t) A z is exp(A (sin t1 - sin t0)) z: the time is the solve's own."""
    field = affine(2, torch.cos)
    with torch.no_grad():
        field.b.zero_()
    flow = CNF(field, 2, t0=t0, t1=t1, **TIGHT).to(DTYPE)
    still = torch.zeros(2, dtype=DTYPE), torch.eye(2, dtype=DTYPE)
    expected = Affine(field.A, field.b).carried(math.sin(t1) - math.sin(t0), *still)
    x = expected.sample((20,))
    torch.testing.assert_close(flow.log_prob(x), expected.log_prob(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_an_estimated_density_is_right_on_average(noise: str) -> None:
    """The log-density is linear in the divergence, hence as unbiased; one draw for each sample."""
    field, count = affine(3), 3000
    flow = CNF(field, 3, divergence=Hutchinson(noise), **LOOSE).to(DTYPE)
    x = torch.randn(1, 3, dtype=DTYPE)
    with torch.no_grad():
        draws = flow.log_prob(x.expand(count, 3))
        again = flow.log_prob(x.expand(count, 3))
        exact = flow.eval().log_prob(x)
    assert float(draws.std()) > 0.1
    assert agrees(draws, exact, 5)
    assert not torch.equal(draws, again)
    # One vector for the whole solve: an affine field's estimate is then a constant rate.
    products = (draws - exact).sort().values
    assert noise == "gaussian" or len(products.mul(1e4).round().unique()) <= 4


def test_samples_have_the_moments_of_the_gaussian() -> None:
    field = affine(2)
    flow = CNF(field, 2, **LOOSE).to(DTYPE)
    expected = field.carried(1.0, torch.zeros(2, dtype=DTYPE), torch.eye(2, dtype=DTYPE))
    x = flow.sample(20_000)
    assert agrees(x, expected.mean)
    centred = x - expected.mean
    assert agrees(centred.unsqueeze(1) * centred.unsqueeze(2), expected.covariance_matrix)
    # Densities at samples: the mean is minus the entropy.
    assert agrees(flow.log_prob(x[:4000]).detach(), -expected.entropy())


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_the_density_does_not_depend_on_the_adjoint(adjoint: str) -> None:
    case = FIELDS["conditional"]
    x, contexts = case.points(4), case.contexts(4)
    with torch.no_grad():
        expected = case.flow().log_prob(x, *contexts)
    found = case.flow(adjoint=ADJOINTS[adjoint]).log_prob(x, *contexts)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=1e-12)


def test_a_trained_base_is_asked_anew_at_every_call() -> None:
    base = Learnt((2,)).to(DTYPE)
    flow = CNF(PlanarField(2, 3).to(DTYPE), 2, base=base, **LOOSE)
    x = torch.randn(5, 2, dtype=DTYPE)
    with torch.no_grad():
        z, log_det = flow.inverse(x)
        for _ in range(2):
            expected = base().log_prob(z) + log_det
            torch.testing.assert_close(flow.log_prob(x), expected, rtol=1e-12, atol=1e-12)
            base.mean.add_(0.5)
            base.log_scale.add_(0.3)


def test_at_the_start_the_flow_is_its_base() -> None:
    flow = FIELDS["planar"].flow()
    x = torch.randn(5, 2, dtype=DTYPE)
    torch.testing.assert_close(flow.log_prob(x, t=0.0), standard((2,)).log_prob(x))
    assert torch.equal(flow(x, t=0.0).value, x)
    assert torch.equal(flow(x, t=0.0).log_det, torch.zeros(5, dtype=DTYPE))
    assert flow.sample(3, t=0.0).shape == (3, 2)


@pytest.mark.parametrize(("t0", "t1"), SPANS)
def test_a_trajectory_is_the_map_at_each_time(t0: float, t1: float) -> None:
    flow = FIELDS["planar"].flow(t0=t0, t1=t1)
    z = torch.randn(2, 3, 2, dtype=DTYPE)
    ts = [t0, t0 + 0.3 * (t1 - t0), t1]
    path = flow.trajectory(z, torch.tensor(ts, dtype=DTYPE))
    assert path.shape == (3, 2, 3, 2)
    for t, state in zip(ts, path, strict=True):
        torch.testing.assert_close(state, flow(z, t=t).value, rtol=1e-7, atol=1e-7)


SCALARS = {
    "exact": ExactDivergence(),
    "hutchinson": Hutchinson(),
    "hutch++": HutchPlusPlus(3),
}


@pytest.mark.parametrize("divergence", SCALARS)
def test_flows_over_a_scalar(divergence: str) -> None:
    """Event shape (), as `Normal` has it: dz/dt = z / 2."""
    settings = {"divergence": SCALARS[divergence], "regularizers": [KineticEnergy(1.0)], **TIGHT}
    flow = CNF(lambda t, z: 0.5 * z, (), **settings).to(DTYPE)
    assert flow.sample(3).shape == (3,)
    x = torch.randn(4, dtype=DTYPE)
    found, energy = flow.log_prob_and_penalty(x)
    expected = Normal(0.0, torch.tensor(0.5, dtype=DTYPE).exp()).log_prob(x)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(energy, x**2 * (1 - math.exp(-1)) / 4, rtol=1e-8, atol=1e-8)


def _constant(t: Tensor, z: Tensor) -> Tensor:
    return torch.ones_like(z)


def test_a_field_that_ignores_its_state_only_shifts() -> None:
    """A Jacobian of zeros without a graph of its own."""
    flow = CNF(_constant, 2, **LOOSE).to(DTYPE)
    x = torch.randn(5, 2, dtype=DTYPE, requires_grad=True)
    found = flow.log_prob(x)
    torch.testing.assert_close(found, standard((2,)).log_prob(x - 1.0))
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, (1.0 - x).detach())
