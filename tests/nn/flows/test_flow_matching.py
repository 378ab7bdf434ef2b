"""Flow matching where the best velocity and least loss are known; fields, couplings, contexts."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.distributions import Normal

import isocline.nn as inn
from isocline.errors import InputError, MissingLibraryError
from isocline.nn import CNF, ConcatSquashField, FlowMatching
from isocline.nn.flows.coupling import coupled

from .flow_cases import DTYPE, TIGHT, agrees

# --- a known case --------------------------------------------------------------------------------

MEAN, SPREAD = 0.8, 1.7


class Best(nn.Module):
    """E[velocity | point] where a standard normal goes to N(MEAN, SPREAD^2), independently.

    On the way the point is a z + s x with a = 1 - (1 - sigma) s, its velocity x - (1 - sigma) z:
    jointly normal, so that the regression is linear.
    """

    def __init__(self, sigma: float, t0: float, t1: float) -> None:
        super().__init__()
        self.sigma, self.t0, self.t1 = sigma, t0, t1

    def moments(self, s: Tensor) -> tuple[Tensor, Tensor, float]:
        """Variance of the point, its covariance with the velocity, and that one's variance."""
        a = 1 - (1 - self.sigma) * s
        variance = a**2 + (s * SPREAD) ** 2
        covariance = s * SPREAD**2 - (1 - self.sigma) * a
        return variance, covariance, SPREAD**2 + (1 - self.sigma) ** 2

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        s = ((t - self.t0) / (self.t1 - self.t0)).reshape(-1, *(1,) * (z.ndim - 1))
        variance, covariance, _ = self.moments(s)
        return (MEAN + covariance / variance * (z - s * MEAN)) / (self.t1 - self.t0)

    def least(self) -> float:
        """The mean of the velocity's variance given the point, by quadrature."""
        s = torch.linspace(0, 1, 4001, dtype=DTYPE)
        variance, covariance, total = self.moments(s)
        left = torch.trapezoid(total - covariance**2 / variance, s)
        return float(left) / (self.t1 - self.t0) ** 2


CASES = [(0.0, 0.0, 1.0), (0.3, 0.0, 1.0), (0.0, 2.0, -1.0), (0.3, -1.0, 1.5)]


def data(count: int, *shape: int) -> Tensor:
    return MEAN + SPREAD * torch.randn(count, *shape, dtype=DTYPE)


@pytest.mark.parametrize(("sigma", "t0", "t1"), CASES)
@pytest.mark.parametrize("shape", [(1,), (2, 1, 2)])
def test_the_least_loss(sigma: float, t0: float, t1: float, shape: tuple[int, ...]) -> None:
    """The best field has it, and any other loses the square of the difference."""
    best = Best(sigma, t0, t1)
    x, off = data(20_000, *shape), 0.7
    losses = [
        FlowMatching(CNF(field, shape, t0=t0, t1=t1).to(DTYPE), sigma=sigma)(x, reduction="none")
        for field in (best, lambda t, z: best(t, z) + off)
    ]
    assert losses[0].shape == (20_000,)
    assert agrees(losses[0], best.least())
    assert agrees(losses[1], best.least() + off**2)


@pytest.mark.parametrize(("sigma", "t0", "t1"), CASES)
def test_the_best_field_carries_the_base_to_the_data(sigma: float, t0: float, t1: float) -> None:
    """N(0, 1) to N(MEAN, SPREAD^2 + sigma^2), and its likelihood is the flow's own."""
    flow = CNF(Best(sigma, t0, t1), 1, t0=t0, t1=t1, **TIGHT).to(DTYPE)
    x = data(20, 1)
    scale = torch.tensor(math.hypot(SPREAD, sigma), dtype=DTYPE)
    expected = Normal(MEAN, scale).log_prob(x).squeeze(1)
    torch.testing.assert_close(flow.log_prob(x), expected, rtol=1e-8, atol=1e-8)


def test_the_mean_is_that_of_the_samples_losses() -> None:
    matching = FlowMatching(CNF(ConcatSquashField(2, 4), 2))
    x = torch.randn(16, 2)
    found = []
    for reduction in ("mean", "none"):
        torch.manual_seed(3)
        found.append(matching.loss(x, reduction=reduction))
    assert found[0].shape == ()
    torch.testing.assert_close(found[0], found[1].mean())
    torch.manual_seed(3)
    assert torch.equal(matching(x), found[0])


def test_the_points_lie_on_straight_paths() -> None:
    """What the field is shown: every time in the span, and s x + (1 - s) z at it."""
    seen: list[tuple[Tensor, Tensor]] = []

    def field(t: Tensor, z: Tensor) -> Tensor:
        seen.append((t, z))
        return torch.zeros_like(z)

    flow = CNF(field, 2, t0=3.0, t1=1.0, base=inn.StandardNormal(torch.Size([2]), 1e-9))
    x = torch.randn(500, 2)
    loss = FlowMatching(flow)(x)
    ((t, point),) = seen
    assert t.shape == (500,)
    assert 1.0 <= float(t.min()) < 1.05
    assert 2.95 < float(t.max()) <= 3.0
    torch.testing.assert_close(point, (3.0 - t).unsqueeze(1) / 2 * x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, x.square().mean() / 4)


# --- fields with a time for each sample ----------------------------------------------------------

TIMED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: inn.MLPField(3, 8), (3,)),
    "timeless": (lambda: inn.MLPField(3, 8, time=False), (3,)),
    "semilinear": (lambda: inn.SemilinearField(3, 8), (3,)),
    "concat_squash": (lambda: inn.ConcatSquashField(3, 8), (3,)),
    "planar": (lambda: inn.PlanarField(3, 4, 8), (3,)),
    "hamiltonian": (lambda: inn.HamiltonianField(4, 8), (4,)),
    "conv": (lambda: inn.ConvField(4), (4, 5, 5)),
    "concat_conv": (lambda: inn.ConcatConv2d(2, 2, padding=1), (2, 3, 3)),
}


def test_every_field_is_listed() -> None:
    """Whoever adds a field to `isocline.nn` adds it here."""
    fields = {getattr(inn, name) for name in dir(inn) if name.endswith("Field")}
    fields -= {inn.CDEField}  # it is asked for a matrix at a state, and sees no time
    assert fields <= {type(make()) for make, _ in TIMED.values()}


@pytest.mark.parametrize("name", TIMED)
def test_a_time_for_each_sample_is_each_at_its_time(name: str) -> None:
    make, shape = TIMED[name]
    torch.manual_seed(1)
    field = make().to(DTYPE)
    for count in {2, 4, shape[-1]}:  # as many as the last axis is long: broadcasting would hide it
        z, t = torch.randn(count, *shape, dtype=DTYPE), torch.rand(count, dtype=DTYPE)
        found = field(t, z)
        assert found.shape == z.shape
        one_by_one = torch.cat([field(t[i], z[i : i + 1]) for i in range(count)])
        torch.testing.assert_close(found, one_by_one)
        torch.testing.assert_close(field(t[0].expand(count), z), field(t[0], z))


# --- couplings -----------------------------------------------------------------------------------


def cost(z: Tensor, x: Tensor) -> float:
    return float((z - x).double().square().sum())


@given(st.integers(1, 40), st.sampled_from([(1,), (2,), (2, 2)]), st.booleans())
def test_optimal_transport_is_optimal(count: int, shape: tuple[int, ...], ties: bool) -> None:
    torch.manual_seed(count)
    z, x = torch.randn(count, *shape), 3 * torch.randn(count, *shape) + 1
    if ties:
        z, x = z.round(), x.round()
    found = coupled("optimal-transport", z, x)
    matrix = torch.cdist(x.flatten(1).double(), z.flatten(1).double()).square()
    rows, columns = linear_sum_assignment(matrix.numpy())
    assert cost(found, x) == pytest.approx(float(matrix[rows, columns].sum()), rel=1e-6, abs=1e-6)
    # A permutation: every point of the base is used, and once.
    assert sorted(found.flatten(1).tolist()) == sorted(z.flatten(1).tolist())


def test_a_thousand_points_are_coupled_without_a_warning() -> None:
    z, x = torch.randn(1000, 2), 2 * torch.randn(1000, 2)
    found = coupled("optimal-transport", z, x)
    matrix = torch.cdist(x.double(), z.double()).square()
    rows, columns = linear_sum_assignment(matrix.numpy())
    assert cost(found, x) == pytest.approx(float(matrix[rows, columns].sum()), rel=1e-6)
    assert len(found.unique(dim=0)) == 1000


def test_independent_coupling_leaves_the_order() -> None:
    z = torch.randn(5, 2)
    assert coupled("independent", z, torch.randn(5, 2)) is z


def test_optimal_transport_shortens_the_paths() -> None:
    """Which the loss of a field at rest measures: the mean square of the velocities."""
    losses = []
    for coupling in ("independent", "optimal-transport"):
        torch.manual_seed(3)
        flow = CNF(lambda t, z: 0 * z, 2)
        losses.append(float(FlowMatching(flow, coupling=coupling)(torch.randn(200, 2))))
    assert losses[0] == pytest.approx(2.0, rel=0.2)
    assert losses[1] < 0.3


def test_without_pot_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingLibraryError, match="pip install pot"):
        coupled("optimal-transport", torch.zeros(2, 1), torch.zeros(2, 1))
    assert issubclass(MissingLibraryError, ImportError)


# --- contexts ------------------------------------------------------------------------------------


def shown_contexts(share: float, training: bool, null: Tensor | None) -> Tensor:
    """The contexts that the field is shown, of 4000 that are all ones."""
    seen: list[Tensor] = []

    def field(t: Tensor, z: Tensor, context: Tensor) -> Tensor:
        seen.append(context)
        return 0 * z

    matching = FlowMatching(CNF(field, 2, null_context=null), context_dropout=share)
    matching.train(training)(torch.randn(4000, 2), torch.ones(4000, 3))
    return seen[0]


@pytest.mark.parametrize("null", [None, torch.tensor([5.0, 6.0, 7.0])])
def test_contexts_are_dropped_in_training_at_the_given_share(null: Tensor | None) -> None:
    shown = shown_contexts(0.2, True, null)
    given = (shown == 1).all(1)
    assert abs(float(given.double().mean()) - 0.8) < 5 * math.sqrt(0.16 / 4000)
    expected = torch.zeros(3) if null is None else null
    assert torch.equal(shown[~given], expected.expand(int((~given).sum()), 3))
    for share, training in ((0.2, False), (0.0, True)):
        assert torch.equal(shown_contexts(share, training, null), torch.ones(4000, 3))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_contexts_hand_their_gradient_on_to_an_encoder(share: float) -> None:
    """Also where some of them are dropped."""
    encoder = nn.Linear(4, 3)
    flow = CNF(ConcatSquashField(2, 8, context=3), 2)
    matching = FlowMatching(flow, context_dropout=share)
    matching(torch.randn(64, 2), encoder(torch.randn(64, 4))).backward()
    assert encoder.weight.grad is not None
    assert float(encoder.weight.grad.abs().min()) > 0


def test_losing_every_context_is_refused() -> None:
    flow = CNF(ConcatSquashField(2, context=3), 2)
    for name in ("sigma", "context_dropout"):
        for value in (-0.1, 1.0, math.nan, "some"):
            options: dict[str, Any] = {name: value}
            with pytest.raises(InputError, match=rf"^`{name}`"):
                FlowMatching(flow, **options)
