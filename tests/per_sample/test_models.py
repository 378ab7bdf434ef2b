"""Models whose samples step at their own pace: the answers are those of joint stepping."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline import nn

from .lane_cases import off

TIGHT = {"rtol": 1e-8, "atol": 1e-8}


def both(model: Any, answer: Callable[[], Tensor]) -> list[tuple[Tensor, list[Tensor]]]:
    """The answer, and gradients of the parameters, with joint and with per-sample stepping."""
    found = []
    for stepping in ("joint", "per_sample"):
        model.stepping = stepping
        torch.manual_seed(5)  # for the noise of a divergence
        value = answer()
        weights = torch.cos(torch.arange(value.numel()).double()).view(value.shape)
        parameters = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad((weights * value).sum(), parameters, allow_unused=True)
        found.append((value, [g for g in gradients if g is not None]))
    return found


def agree(model: Any, answer: Callable[[], Tensor], tol: float = 1e-5) -> None:
    (joint, joint_gradients), (own, own_gradients) = both(model, answer)
    assert off(own, joint) < tol
    one, other = (
        torch.cat([g.flatten() for g in found]) for found in (own_gradients, joint_gradients)
    )
    assert float((one - other).norm() / other.norm()) < tol


FIELDS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "mlp": (lambda: nn.MLPField(3, hidden=8), (3,)),
    "semilinear": (lambda: nn.SemilinearField(4, hidden=5), (4,)),
    "conv": (lambda: nn.ConvField(4), (4, 3, 3)),
    "concat_squash": (lambda: nn.ConcatSquashField(3, hidden=6), (3,)),
    "planar": (lambda: nn.PlanarField(2, hidden=4), (2,)),
    "hamiltonian": (lambda: nn.HamiltonianField(4, hidden=6), (4,)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_take_a_time_for_each_sample(name: str) -> None:
    torch.manual_seed(0)
    make, shape = FIELDS[name]
    field = make().double()
    y = torch.randn(5, *shape, dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    together = field(t, y)
    for sample in range(5):
        alone = field(t[sample], y[sample : sample + 1])
        assert torch.allclose(together[sample], alone[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", FIELDS)
def test_an_ode_block(name: str) -> None:
    torch.manual_seed(0)
    make, shape = FIELDS[name]
    # ReLUs are not smooth, where tolerances promise little.
    tol = {"rtol": 1e-5, "atol": 1e-5} if name == "conv" else TIGHT
    block = nn.ODEBlock(make().double(), 1.0, **tol)
    x = torch.randn(5, *shape, dtype=torch.float64)
    agree(block, lambda: block(x), 5e-2 if name == "conv" else 1e-5)
    assert block.stats is not None
    assert block.stats.samples is not None
    assert block.stats.samples.nfe.shape == (5,)
    assert "per_sample" in repr(block)


DIVERGENCES = [nn.ExactDivergence(), nn.Hutchinson(samples=2), nn.HutchPlusPlus(samples=3)]


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("context", [0, 2])
def test_a_flow_with_noise_and_contexts_of_each_sample(divergence: Any, context: int) -> None:
    torch.manual_seed(0)
    field = nn.ConcatSquashField(3, hidden=6, context=context)
    tol = 1e-4 if isinstance(divergence, nn.HutchPlusPlus) else 1e-7
    flow = nn.CNF(field, 3, divergence=divergence, rtol=tol, atol=tol).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    contexts = torch.randn(6, 2, dtype=torch.float64) if context else None
    agree(flow, lambda: flow.log_prob(x, contexts), 300 * tol)


def test_guidance_and_trajectories_of_a_flow() -> None:
    torch.manual_seed(0)
    flow = nn.CNF(nn.ConcatSquashField(2, hidden=6, context=1), 2, **TIGHT).double()
    z, context = torch.randn(4, 2).double(), torch.randn(4, 1).double()
    agree(flow, lambda: flow.trajectory(z, [0.0, 0.4, 1.0], context))
    drawn = []
    for stepping in ("joint", "per_sample"):
        flow.stepping = stepping  # type: ignore[assignment]
        torch.manual_seed(1)
        drawn.append(flow.sample(3, context, guidance=1.5))
    assert off(drawn[1], drawn[0]) < 1e-5


def test_paths_of_series_through_their_own_times() -> None:
    torch.manual_seed(0)
    model = nn.LatentODE.of_sizes(2, t0=0.4, **TIGHT).double()
    z0 = torch.randn(5, 3, 4, dtype=torch.float64)
    times = torch.rand(5, 7, dtype=torch.float64)  # in no order, to both sides of t0
    valid = torch.rand(5, 7) < 0.7
    hidden = valid[:, :, None, None]
    # Steps over the union of the times are others, and so are the errors of the interpolant.
    agree(model, lambda: model.paths(z0, times, valid).z * hidden, 1e-4)
    late = 0.4 + times
    agree(model, lambda: model.paths(z0, late).z, 1e-4)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2)])
def test_times_spread_over_states(shape: tuple[int, ...]) -> None:
    y = torch.zeros(shape)
    t = torch.arange(4.0).double()
    assert (nn.time_like(t, y) + y)[2].eq(2.0).all()
    assert nn.time_like(t, y).dtype == y.dtype
    assert nn.time_like(torch.tensor(0.5), y).shape == ()


def test_user_fields_with_the_helper_take_either() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return nn.time_like(t, y) * y

    y0 = torch.randn(3, 2, dtype=torch.float64)
    joint, own = (
        ic.solve(field, y0, 0.0, 1.0, stepping=stepping, **TIGHT).ys[0]
        for stepping in ("joint", "per_sample")
    )
    assert off(own, joint) < 1e-6
