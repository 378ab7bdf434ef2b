"""Fields that change themselves as they are evaluated: right, or refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import isocline as ic

ADJOINTS: dict[str, Any] = {
    "checkpointed": ic.Checkpointed(),
    "no_graphs": ic.Checkpointed(graph_budget=0),
    "slots2": ic.Checkpointed(slots=2),
    "backsolve": ic.Backsolve(),
}
EVERY = {"direct": ic.Direct(), **ADJOINTS}
STEPS: dict[str, Any] = {"solver": "rk4", "dt0": 0.25}


class Normalised(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), norm, nn.Tanh(), nn.Linear(4, 3)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


def start() -> Tensor:
    return torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def evaluations(solution: ic.Solution, name: str) -> int:
    """Forward, without the one that an adjoint makes to see whether the answer is the same."""
    return int(solution.stats.nfe_forward) - (name != "direct")


NORMS = {
    "batch": lambda: nn.BatchNorm1d(4),
    "cumulative": lambda: nn.BatchNorm1d(4, momentum=None),
    "without_statistics": lambda: nn.BatchNorm1d(4, track_running_stats=False),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", EVERY)
def test_running_statistics_see_the_forward_pass_alone(name: str, norm: str) -> None:
    """A replayed evaluation is the same one again, and must not count twice."""
    field = Normalised(NORMS[norm]())
    fresh = [buffer.clone() for buffer in field.buffers()]
    solution = ic.solve(field, start(), 0.0, 1.0, adjoint=EVERY[name], **STEPS)
    before = [buffer.clone() for buffer in field.buffers()]
    solution.ys.square().sum().backward()
    for first, then, now in zip(fresh, before, field.buffers(), strict=True):
        assert not torch.equal(first, then)
        assert torch.equal(then, now)
    if norm != "without_statistics":
        assert int(field.net[1].num_batches_tracked) == evaluations(solution, name)


@pytest.mark.parametrize(
    "adjoint", [ic.Forward(), ic.Interpolated()], ids=lambda adjoint: type(adjoint).__name__
)
def test_steps_taken_again_for_derivatives_leave_no_trace(adjoint: Any) -> None:
    """Also where that is done in the forward pass."""
    counts = []
    for chosen in (ic.Direct(), adjoint):
        field = Normalised(nn.BatchNorm1d(4))
        ic.solve(field, start(), 0.0, 1.0, adjoint=chosen, **STEPS).ys.sum().backward()
        counts.append(int(field.net[1].num_batches_tracked))
    assert counts[0] == counts[1]


def test_many_layers_in_sight_that_are_not_used_are_no_hindrance() -> None:
    """Instance normalisation keeps statistics without counting batches."""
    spare = nn.ModuleList([nn.InstanceNorm1d(4, track_running_stats=True), nn.BatchNorm1d(4)])
    used = nn.InstanceNorm1d(8, track_running_stats=True).double()
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    model = nn.ModuleDict({"spare": spare, "used": used})
    field = lambda t, y: weight * model["used"](y[None])[0]  # noqa: E731
    solution = ic.solve(field, start(), 0.0, 1.0, **STEPS)
    before = used.running_mean.clone()
    assert before.abs().max() > 0
    solution.ys.sum().backward()
    assert torch.equal(used.running_mean, before)


def test_a_scratch_that_the_gradient_needs_is_no_fault_of_the_forward_pass() -> None:
    """What a second look at the field writes over belonged to the graph of the first."""
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    scratch = torch.empty(8, 3, dtype=torch.float64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        scratch.copy_(y.detach())
        return -weight * scratch

    steps = {"solver": "euler", "dt0": 0.25, "adjoint": ic.Checkpointed(slots=4)}
    ic.solve(field, start(), 0.0, 1.0, **steps).ys.sum().backward()
    want = -4 * 0.25 * (1 - 0.25 * weight.detach()) ** 3 * start().sum()
    frozen = sum(  # y is detached: each step's gradient goes by its own slope alone
        -0.25 * (1 - 0.25 * weight.detach()) ** n * start().sum() for n in range(4)
    )
    assert want != frozen
    torch.testing.assert_close(weight.grad, frozen)


def test_a_diverged_model_with_batch_normalisation_is_called_that() -> None:
    field = Normalised(nn.BatchNorm1d(4))
    with torch.no_grad():
        field.net[0].weight[0, 0] = torch.nan
    with pytest.raises(ic.NonFiniteError):
        ic.solve(field, start(), 0.0, 1.0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ADJOINTS)
def test_gradients_through_batch_normalisation(name: str, training: bool) -> None:
    found = []
    for adjoint in (ic.Direct(), ADJOINTS[name]):
        torch.manual_seed(0)
        field = Normalised(nn.BatchNorm1d(4)).train(training)
        tight = {"solver": "dopri5", "rtol": 1e-8, "atol": 1e-8, "adjoint": adjoint}
        ic.solve(field, start(), 0.0, 1.0, **tight).ys.square().sum().backward()
        found.append([parameter.grad for parameter in field.parameters()])
    rtol, atol = (1e-4, 1e-6) if name == "backsolve" else (1e-10, 1e-12)
    torch.testing.assert_close(found[1], found[0], rtol=rtol, atol=atol)


class Remembering(nn.Module):
    """Its answer depends on how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.register_buffer("asked", torch.zeros((), dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.asked += 1.0
        return -self.weight * y * (1.0 + 0.1 * float(self.asked))


@pytest.mark.parametrize("name", ADJOINTS)
def test_a_field_that_reads_what_it_wrote_is_refused(name: str) -> None:
    with pytest.raises(ic.GradientError, match=r"changes tensors of its own .*`\.eval\(\)`"):
        ic.solve(Remembering(), start(), 0.0, 1.0, adjoint=ADJOINTS[name], **STEPS)


def test_direct_takes_such_a_field() -> None:
    field = Remembering()
    ic.solve(field, start(), 0.0, 1.0, adjoint=ic.Direct(), **STEPS).ys.sum().backward()
    assert field.weight.grad is not None


def spectral() -> nn.Module:
    """Its power iteration, one to an evaluation, has far to go."""
    layer = parametrizations.spectral_norm(nn.Linear(16, 16)).double()
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(torch.randn(16, 16))
    return layer


@pytest.mark.parametrize("name", ADJOINTS)
def test_spectral_normalisation_in_training(name: str) -> None:
    """Refused while each evaluation has another weight; cached, a solve has but one."""
    y0 = torch.randn(2, 16, dtype=torch.float64)
    layer = spectral()
    state = copy.deepcopy(layer.state_dict())
    field = lambda t, y: layer(y).tanh()  # noqa: E731
    with pytest.raises(ic.GradientError, match="is not a function of"):
        ic.solve(field, y0, 0.0, 1.0, adjoint=ADJOINTS[name], **STEPS)
    found = []
    for adjoint in (ic.Direct(), ADJOINTS[name]):
        layer.load_state_dict(state)
        tight = {"solver": "dopri5", "rtol": 1e-8, "atol": 1e-8, "adjoint": adjoint}
        with parametrize.cached():
            loss = ic.solve(field, y0, 0.0, 1.0, **tight).ys.square().sum()
            found.append(torch.autograd.grad(loss, list(layer.parameters())))
    rtol = 1e-4 if name == "backsolve" else 1e-10
    torch.testing.assert_close(found[1], found[0], rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_scratch_and_counters_are_no_memory(name: str) -> None:
    """Written at each evaluation, and never read by another."""
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    scratch, count = torch.empty(8, 3, dtype=torch.float64), torch.zeros(())

    def field(t: Tensor, y: Tensor) -> Tensor:
        torch.cos(y.detach(), out=scratch)
        count.add_(1)
        return -weight * y

    solution = ic.solve(field, start(), 0.0, 1.0, adjoint=EVERY[name], **STEPS)
    solution.ys.sum().backward()
    assert int(count) == evaluations(solution, name)
    torch.testing.assert_close(
        weight.grad, -(start() * torch.exp(-weight.detach())).sum(), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("name", ADJOINTS)
def test_dropout_is_refused_in_training_and_no_hindrance_in_evaluation(name: str) -> None:
    """A replay would draw another mask."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    field = lambda t, y: net(y)  # noqa: E731
    with pytest.raises(ic.GradientError, match="draws random numbers"):
        ic.solve(field, start(), 0.0, 1.0, adjoint=ADJOINTS[name], **STEPS)
    net.eval()
    ic.solve(field, start(), 0.0, 1.0, adjoint=ADJOINTS[name], **STEPS).ys.sum().backward()
    assert net[0].weight.grad is not None


@pytest.mark.parametrize("name", ADJOINTS)
def test_a_mask_drawn_before_the_solve_is_right(name: str) -> None:
    """What the error advises: one mask for the whole solve."""
    first, last = nn.Linear(3, 4).double(), nn.Linear(4, 3).double()
    mask = nn.functional.dropout(torch.ones(8, 4, dtype=torch.float64))
    field = lambda t, y: last(first(y).tanh() * mask)  # noqa: E731
    found = []
    for adjoint in (ic.Direct(), ADJOINTS[name]):
        tight = {"solver": "dopri5", "rtol": 1e-8, "atol": 1e-8, "adjoint": adjoint}
        loss = ic.solve(field, start(), 0.0, 1.0, **tight).ys.square().sum()
        found.append(torch.autograd.grad(loss, [first.weight, last.weight]))
    rtol = 1e-4 if name == "backsolve" else 1e-10
    torch.testing.assert_close(found[1], found[0], rtol=rtol, atol=1e-6)
