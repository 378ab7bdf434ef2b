"""Training by flow matching and by density matching: precision, steps, and input that is wrong."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

import isocline as ic
from isocline.errors import InputError
from isocline.nn import CNF, ConcatSquashField, FlowMatching, PlanarFlow, StandardNormal, reverse_kl

from .flow_cases import DTYPE, STEADY, TIGHT, affine, agrees, directional


def flow_of(**options: Any) -> CNF:
    torch.manual_seed(0)
    return CNF(ConcatSquashField(2, 16), 2, **options)


class Precision:
    """The dtypes that a layer computes in."""

    def __init__(self, layer: nn.Module) -> None:
        self.seen: set[torch.dtype] = set()
        layer.register_forward_hook(lambda module, given, answer: self.seen.add(answer.dtype))


# --- flow matching -------------------------------------------------------------------------------


def test_a_bfloat16_network_under_float32_paths() -> None:
    flow, x = flow_of(), torch.randn(512, 2)
    precision = Precision(flow.field.layers[0].linear)
    exact, low = FlowMatching(flow), FlowMatching(flow, dtype=torch.bfloat16)
    losses = []
    for matching in (exact, low):
        torch.manual_seed(1)
        losses.append(matching(x))
    assert precision.seen == {torch.float32, torch.bfloat16}
    assert losses[1].dtype == torch.float32
    assert not torch.equal(*losses)
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)
    losses[1].backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in flow.field.parameters())


def test_an_autocast_around_it_is_respected() -> None:
    """With no dtype of its own it computes as the training loop around it says."""
    flow, x = flow_of(), torch.randn(16, 2)
    precision = Precision(flow.field.layers[0].linear)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = FlowMatching(flow)(x)
    assert precision.seen == {torch.bfloat16}
    assert loss.dtype == torch.float32


def test_step_trains() -> None:
    flow = flow_of()
    matching = FlowMatching(flow)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    x = 0.3 * torch.randn(256, 2) + torch.tensor([2.0, -1.0])
    before = copy.deepcopy(flow)
    losses = [matching.step(optimizer, x) for _ in range(100)]
    assert all(isinstance(loss, float) for loss in losses)
    # At first E|x - z|^2 / 2; the least loss is near 0.3, which the two spreads decide.
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10])
    with torch.no_grad():
        gain = flow.eval().log_prob(x).mean() - before.eval().log_prob(x).mean()
    assert float(gain) > 1.0
    assert float((flow.sample(500).mean(0) - x.mean(0)).abs().max()) < 0.3


def test_step_is_one_step_of_the_optimizer_from_a_gradient_of_its_own() -> None:
    one, other = flow_of(), flow_of()
    x = torch.randn(8, 2)
    for parameter in one.parameters():
        parameter.grad = torch.full_like(parameter, 9.0)  # left over from something else
    torch.manual_seed(2)
    found = FlowMatching(one).step(torch.optim.SGD(one.parameters(), 0.1), x)
    torch.manual_seed(2)
    loss = FlowMatching(other)(x)
    loss.backward()
    assert found == pytest.approx(loss.item())
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its - 0.1 * its.grad)


def test_no_solve_takes_place_in_training() -> None:
    flow = flow_of()
    FlowMatching(flow)(torch.randn(8, 2)).backward()
    assert flow.stats is None


def test_the_gradient_of_the_loss() -> None:
    flow = flow_of().to(DTYPE)
    matching, x = FlowMatching(flow, sigma=0.1), torch.randn(8, 2, dtype=DTYPE)
    weight = flow.field.layers[0].linear.weight

    def loss() -> Tensor:
        torch.manual_seed(4)
        return matching(x)

    (found,) = torch.autograd.grad(loss(), weight)
    way = torch.randn_like(weight)
    expected = float(directional(loss, [weight], [way]))
    assert float((found * way).sum()) == pytest.approx(expected, rel=1e-9)


def test_it_is_a_module_around_the_flow() -> None:
    flow = flow_of()
    matching = FlowMatching(flow)
    assert set(matching.state_dict()) == {f"flow.{key}" for key in flow.state_dict()}
    assert list(matching.parameters()) == list(flow.parameters())
    matching.eval()
    assert not flow.training


@pytest.mark.parametrize("shape", [(2,), (5, 1), (5, 3), (2, 2, 2), (5,), ()], ids=str)
def test_data_of_a_wrong_shape_is_named(shape: tuple[int, ...]) -> None:
    """Broadcasting would let some of these through as nonsense."""
    with pytest.raises(InputError, match=r"^`x`"):
        FlowMatching(flow_of())(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "named"),
    [({"coupling": "sinkhorn"}, "coupling"), ({"dtype": torch.float64}, "dtype")],
)
def test_wrong_settings_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=rf"^`{named}`"):
        FlowMatching(flow_of(), **options)


def test_an_unknown_reduction_is_named() -> None:
    with pytest.raises(InputError, match=r"^`reduction`"):
        FlowMatching(flow_of()).loss(torch.zeros(3, 2), reduction="sum")  # type: ignore[arg-type]


def test_a_context_for_other_rows_is_named() -> None:
    flow = CNF(ConcatSquashField(2, 4, context=3), 2)
    with pytest.raises(InputError, match=r"^`context`"):
        FlowMatching(flow)(torch.zeros(4, 2), torch.zeros(5, 3))


# --- density matching ----------------------------------------------------------------------------


def gaussian(flow: CNF) -> MultivariateNormal:
    still = torch.zeros(2, dtype=DTYPE), torch.eye(2, dtype=DTYPE)
    known: MultivariateNormal = flow.field.carried(1.0, *still)
    return known


def test_reverse_kl_of_a_known_gaussian() -> None:
    """KL(q || p) in closed form, and a normaliser that was left out."""
    flow = CNF(affine(2), 2, **TIGHT).to(DTYPE)
    q, log_normaliser = gaussian(flow), 1.3
    p = MultivariateNormal(torch.tensor([0.5, -0.2], dtype=DTYPE), 2 * torch.eye(2, dtype=DTYPE))
    values: list[Tensor] = []

    def log_target(x: Tensor) -> Tensor:
        values.append(q.log_prob(x) - p.log_prob(x))
        return p.log_prob(x) + log_normaliser

    with torch.no_grad():
        found = reverse_kl(flow, log_target, 4000)
    (each,) = values
    assert agrees(each, kl_divergence(q, p))
    # On the same samples it is the same number: no more than a mean of log q - log p.
    torch.testing.assert_close(found, each.mean() - log_normaliser, rtol=1e-8, atol=1e-8)


def test_reverse_kl_is_least_where_the_flow_is_its_target() -> None:
    """There the integrand is constant, whatever the samples: minus the log-normaliser."""
    flow = CNF(affine(2), 2, **TIGHT).to(DTYPE)
    q = gaussian(flow)
    found = reverse_kl(flow, lambda x: q.log_prob(x) + 0.7, 5)
    assert float(found.detach()) == pytest.approx(-0.7, abs=1e-9)


@pytest.mark.parametrize("adjoint", [None, ic.Direct()], ids=["default", "direct"])
def test_the_gradient_of_reverse_kl(adjoint: object) -> None:
    """Through samples and densities, against differences with the same draws."""
    flow = CNF(affine(2), 2, adjoint=adjoint, **STEADY).to(DTYPE)

    def loss() -> Tensor:
        torch.manual_seed(5)
        return reverse_kl(flow, lambda x: -x.square().sum(-1).cosh().log(), 6)

    (found,) = torch.autograd.grad(loss(), flow.field.A)
    way = torch.randn_like(found)
    expected = float(directional(loss, [flow.field.A], [way]))
    assert float((found * way).sum()) == pytest.approx(expected, rel=1e-9)


def test_reverse_kl_fits_a_planar_flow() -> None:
    """A shifted normal: the flow moves its samples there."""
    torch.manual_seed(0)
    flow = PlanarFlow(2, 8, direction="base-to-data")
    target = MultivariateNormal(torch.tensor([1.5, 0.0]), torch.eye(2))
    optimizer = torch.optim.Adam(flow.parameters(), 2e-2)
    losses = []
    for _ in range(150):
        loss = reverse_kl(flow, target.log_prob, 128)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.0
    assert sum(losses[-20:]) / 20 < 0.35


def test_the_base_of_another_scale() -> None:
    flow = CNF(lambda t, z: 0 * z, 3, base=StandardNormal(torch.Size([3]), 2.5)).to(DTYPE)
    x = torch.randn(4, 3, dtype=DTYPE)
    expected = torch.distributions.Normal(0.0, 2.5).log_prob(x).sum(-1)
    torch.testing.assert_close(flow.log_prob(x), expected)
    spread = float(flow.sample(20_000).std())
    assert spread == pytest.approx(2.5, rel=5 / math.sqrt(2 * 60_000))
