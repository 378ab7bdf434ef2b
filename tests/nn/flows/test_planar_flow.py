"""Discrete planar flows: determinants, invertibility for any weights, densities, directions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from isocline.errors import InputError
from isocline.nn import PlanarFlow, reverse_kl

from .flow_cases import DTYPE, Learnt, agrees, directional, grid, jacobian


def planar(gain: float, features: int = 2, layers: int = 5, seed: int = 0, **options: Any) -> Any:
    """A flow whose weights are normals of standard deviation `gain`."""
    torch.manual_seed(seed)
    flow = PlanarFlow(features, layers, **options).to(DTYPE)
    with torch.no_grad():
        for parameter in (flow.weight, flow.scale, flow.bias):
            parameter.copy_(gain * torch.randn_like(parameter))
    return flow


@given(st.floats(0.1, 1.0), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_the_log_determinant_is_that_of_the_jacobian(
    gain: float, features: int, layers: int, seed: int
) -> None:
    flow = planar(gain, features, layers, seed)
    z = torch.randn(features, dtype=DTYPE)
    J = torch.func.jacrev(lambda z: flow(z).value)(z).detach()
    sign, size = torch.linalg.slogdet(J)
    assert float(sign) > 0
    torch.testing.assert_close(flow(z).log_det.detach(), size, rtol=1e-6, atol=1e-8)


def test_the_jacobian_of_a_batch_by_finite_differences() -> None:
    flow, z = planar(0.7, 3), torch.randn(2, 4, 3, dtype=DTYPE)
    found = flow(z).log_det
    assert found.shape == (2, 4)
    expected = torch.linalg.slogdet(jacobian(lambda z: flow(z).value, z[1, 2]))[1]
    torch.testing.assert_close(found[1, 2].detach(), expected, rtol=1e-8, atol=1e-8)


def test_a_layer_is_the_papers() -> None:
    """z + u tanh(w^T z + b), with u moved along w alone."""
    flow, z = planar(0.5, layers=1), torch.randn(6, 2, dtype=DTYPE)
    w, b = flow.weight[0], flow.bias[0]
    moved = (flow(z).value - z) / torch.tanh(z @ w + b).unsqueeze(1)
    torch.testing.assert_close(moved, moved[:1].expand(6, 2))
    u = moved[0]
    inner = w @ flow.scale[0]
    torch.testing.assert_close(w @ u, torch.log1p(inner.exp()) - 1.0)
    across = torch.stack([-w[1], w[0]])
    torch.testing.assert_close(across @ u, across @ flow.scale[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(gain=st.floats(0.1, 100.0), seed=st.integers(0, 99))
def test_every_layer_stays_invertible(dtype: torch.dtype, gain: float, seed: int) -> None:
    """w^T u > -1, so that even where the slope is steepest, on w^T z + b = 0, volume is left."""
    flow = planar(gain, 3, 1, seed).to(dtype)
    w, b = flow.weight[0].detach(), flow.bias[0].detach()
    steepest = -b * w / w.square().sum()
    with torch.no_grad():
        found = flow(steepest)
        assert bool(found.log_det.isfinite()), "the map's slope is zero there"
        # Along w the map rises: two points keep their order, as far as rounding lets one see.
        s = torch.linspace(-0.1, 0.1, 9, dtype=dtype)
        line = flow(steepest + s.unsqueeze(1) * w / w.norm()).value @ w / w.norm()
    slack = 20 * torch.finfo(dtype).eps * (1 + float(line.abs().max()) + gain)
    assert bool((line.diff() > -slack).all())


@pytest.mark.parametrize("gain", [0.5, 1.0])
def test_a_density_integrates_to_one(gain: float) -> None:
    flow = planar(gain)
    # The base holds all its mass within 8: what maps there lies not further away than u adds.
    reach = 8 + float(flow._invertible()[1].detach().norm(dim=1).sum())
    points, area = grid([-reach, -reach], [reach, reach], 700)
    with torch.no_grad():
        density = flow.log_prob(points).exp()
    assert float(density.sum() * area) == pytest.approx(1.0, abs=1e-3)
    base = Independent(Normal(torch.zeros(2, dtype=DTYPE), 1.0), 1).log_prob(points).exp()
    assert float((density - base).abs().sum() * area) > 0.5


def test_samples_have_the_density_that_is_said() -> None:
    """E_q[p / q] = 1 for any density p whose mass q covers."""
    flow = planar(0.7, direction="base-to-data", seed=3)
    with torch.no_grad():
        x, log_density = flow.rsample_and_log_prob(20_000)
        p = MultivariateNormal(x.mean(0), 0.2 * torch.cov(x.t()))
        ratio = (p.log_prob(x) - log_density).exp()
    assert float(ratio.std()) > 0.5
    assert agrees(ratio, 1.0)
    assert flow.sample(7).shape == (7, 2)
    assert not flow.sample(7).requires_grad


@pytest.mark.parametrize("what", ["density", "reverse_kl"])
def test_gradients_by_finite_differences(what: str) -> None:
    direction = "data-to-base" if what == "density" else "base-to-data"
    base = Learnt((2,)).to(DTYPE)
    flow = planar(0.7, direction=direction, base=base)
    x = torch.randn(6, 2, dtype=DTYPE)

    def value() -> Tensor:
        torch.manual_seed(2)
        if what == "density":
            return flow.log_prob(x).sum()
        return reverse_kl(flow, lambda x: -x.square().sum(-1).cosh().log(), 6)

    tensors = list(flow.parameters())
    assert len(tensors) == 5
    found = torch.autograd.grad(value(), tensors)
    for tensor, gradient in zip(tensors, found, strict=True):
        way = torch.randn_like(tensor)
        expected = float(directional(value, [tensor], [way]))
        assert float((gradient * way).sum()) == pytest.approx(expected, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("count", [1, 32])
def test_without_weights_there_is_a_gradient_all_the_same(count: int) -> None:
    """A layer whose w has become zero moves all points alike: no quotient by its length."""
    flow = PlanarFlow(2, count)
    with torch.no_grad():
        flow.weight.zero_()
    log_density = flow.log_prob(torch.randn(3, 2))
    assert bool(log_density.isfinite().all())
    log_density.sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in flow.parameters())


def test_shapes_and_dtypes() -> None:
    flow = PlanarFlow(3, 2)
    for batch in ((), (4,), (2, 4)):
        assert flow.log_prob(torch.randn(*batch, 3)).shape == batch
    assert flow.double().log_prob(torch.randn(4, 3, dtype=DTYPE)).dtype == DTYPE


def test_a_copy_and_its_state() -> None:
    flow, x = planar(0.7), torch.randn(4, 2, dtype=DTYPE)
    assert set(flow.state_dict()) == {"weight", "scale", "bias"}
    other = PlanarFlow(2, 5).to(DTYPE)
    other.load_state_dict(flow.state_dict())
    assert torch.equal(other.log_prob(x), flow.log_prob(x))
    assert torch.equal(copy.deepcopy(flow).log_prob(x), flow.log_prob(x))
    assert "PlanarFlow" in repr(flow)


def test_each_direction_says_what_it_cannot_do() -> None:
    fitted, sampled = PlanarFlow(2, 3), PlanarFlow(2, 3, direction="base-to-data")
    with pytest.raises(InputError, match=r"^`direction`.*'data-to-base' to evaluate"):
        sampled.log_prob(torch.zeros(4, 2))
    for ask in (fitted.sample, fitted.rsample_and_log_prob):
        with pytest.raises(InputError, match=r"^`direction`.*'base-to-data' to sample"):
            ask(4)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"features": 0}, "features"),
        ({"layers": 0}, "layers"),
        ({"features": -2}, "features"),
        ({"direction": "both"}, "direction"),
        ({"base": Normal(0.0, 1.0)}, "base"),
        ({"base": 3}, "base"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], named: str) -> None:
    """The base no later than at its first use, where a module first makes one."""
    with pytest.raises(InputError, match=rf"^`{named}`"):
        PlanarFlow(**{"features": 2, "layers": 3, **options}).log_prob(torch.zeros(4, 2))


@pytest.mark.parametrize("shape", [(), (3,), (4, 1)])
def test_input_of_a_wrong_width_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"`(x|z)`"):
        PlanarFlow(2, 3).log_prob(torch.zeros(shape))
