"""`Solution.explain` says what held a solve up, without changing it.

One method of each kind is tried at once, the others are slow (`one_of_each_kind`).
"""

import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.diagnosis.stiffness import real_stability

from .known import ADAPTIVE, SOLVERS, either, one_of_each_kind, swing

EVERY = pytest.mark.parametrize("method", one_of_each_kind(SOLVERS))
Method = type[ic.Solver]


def start() -> Tensor:
    return torch.tensor([1.0, 0.0], dtype=torch.float64)


def relaxation(rate: float) -> Any:
    """y1' = -rate (y1 - cos t), y2' = y1: slow, however large the rate."""
    return lambda t, y: torch.stack([-rate * (y[0] - torch.cos(t)), y[0]])


@EVERY
def test_it_takes_the_same_steps_and_counts_them(method: Method) -> None:
    sol = ic.solve(swing, start(), 0.0, 5.0, **{"dt0": 2.0, **either(method, 5.0)})
    before = sol.stats.nfe
    found = sol.explain()
    assert not found.changed
    assert (found.steps, len(found.rejections)) == (
        sol.stats.steps_accepted,
        sol.stats.steps_rejected,
    )
    assert found.evaluations == (sol.stats.nfe_forward, sol.stats.nfe_backward)
    assert sol.stats.nfe == before
    assert found.solver == method().name
    assert sum(part.share for part in found.components) == pytest.approx(float(method().adaptive))
    shortest, middle, longest = found.lengths
    assert 0 < shortest <= middle <= longest <= 5
    assert found.solver in str(found)


@pytest.mark.parametrize("weights", [(1.0, 30.0), (30.0, 1.0)], ids=["second", "first"])
def test_the_component_that_moves_most_dominates(weights: tuple[float, float]) -> None:
    weight = torch.tensor(weights, dtype=torch.float64)
    sol = ic.solve(lambda t, y: weight * torch.cos(weight * t), 0 * weight, 0.0, 3.0)
    first = sol.explain().components[0]
    assert first.leaf == "y"
    assert first.index == (int(weights[1] > weights[0]),)
    assert first.share > 0.9


def test_components_of_a_structure_are_named_by_sample_and_place() -> None:
    """The second sample of the leaf "fast", and of it the third component."""
    speed = torch.ones(4, 3, dtype=torch.float64)
    speed[1, 2] = 40.0

    def field(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"slow": torch.cos(t) + 0 * y["slow"], "fast": speed * torch.cos(speed * t)}

    y0 = {"slow": torch.zeros(4, 1, dtype=torch.float64), "fast": 0 * speed}
    found = ic.solve(field, y0, 0.0, 2.0).explain()
    assert str(found.components[0]) == "['fast'][1, 2]"
    assert found.components[0].share > 0.9


def test_rejections_stand_where_the_field_jumps() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 1.0, 0.1, 30.0) * torch.ones_like(y)

    found = ic.solve(field, torch.zeros(2, dtype=torch.float64), 0.0, 2.0, atol=1e-8).explain()
    assert found.rejections
    assert all(one.t < 1.0 <= one.t + one.h for one in found.rejections)
    assert all(one.ratio > 1 for one in found.rejections)


@pytest.mark.parametrize(
    "method",
    [ic.Tsit5, *(pytest.param(other, marks=pytest.mark.slow) for other in (ic.Dopri5, ic.Bosh3))],
    ids=lambda m: m.__name__,
)
def test_a_stiff_problem_is_called_stiff_and_a_fast_one_is_not(method: Method) -> None:
    stiff = ic.solve(relaxation(600.0), start(), 0.0, 2.0, solver=method(), rtol=1e-3, atol=1e-3)
    found = stiff.explain()
    assert found.stiffness is not None
    assert found.stiffness.stiff
    assert found.stiffness.damped
    assert found.stiffness.radius == pytest.approx(600.0, rel=0.02)
    assert "radau" in str(found)
    fast = ic.solve(lambda t, y: 50 * swing(t, y), start(), 0.0, 2.0, solver=method())
    near = fast.explain().stiffness
    assert near is not None
    assert not near.stiff
    assert not near.damped


def test_a_tight_tolerance_makes_a_stiff_problem_a_plain_one() -> None:
    """Where accuracy asks for shorter steps than stability, stability holds nothing back."""
    sol = ic.solve(relaxation(20.0), start(), 0.0, 2.0, rtol=1e-10, atol=1e-10)
    near = sol.explain().stiffness
    assert near is not None
    assert not near.stiff


@pytest.mark.parametrize(
    ("name", "limit"), [("Euler", 2.0), ("Heun", 2.0), ("Bosh3", 2.5127), ("RK4", 2.7853)]
)
def test_stability_limits_are_the_known_ones(name: str, limit: float) -> None:
    """Hairer and Wanner (1996), Solving Ordinary Differential Equations II, section IV.2."""
    assert real_stability(ic.solvers.by_name(name)) == pytest.approx(limit, abs=2e-3)


def test_memory_grows_as_the_adjoint_says() -> None:
    layer = nn.Linear(2, 2, dtype=torch.float64)

    def kept(adjoint: Any, **options: Any) -> tuple[int, int]:
        sol = ic.solve(lambda t, y: layer(y), start(), 0.0, 2.0, adjoint=adjoint, **options)
        memory = sol.explain().memory
        assert memory is not None
        assert memory.state == 16
        return memory.forward, sol.stats.steps_accepted

    few, many = {"rtol": 1e-3}, {"rtol": 1e-9, "atol": 1e-9}
    direct, steps = kept(ic.Direct(), **few)
    assert kept(ic.Direct(), **many)[0] == pytest.approx(direct / steps * kept(None, **many)[1])
    states, count = kept(ic.Checkpointed(graph_budget=0), **many)
    assert states == 16 * count
    assert kept(ic.Checkpointed(slots=3), **many)[0] == 48
    assert kept(ic.Backsolve(), **few)[0] == kept(ic.Backsolve(), **many)[0]
    with torch.no_grad():
        assert ic.solve(swing, start(), 0.0, 1.0).explain().memory is None


def test_backward_evaluations_are_told_once_they_are_made() -> None:
    y0 = start().requires_grad_()
    sol = ic.solve(swing, y0, 0.0, 1.0, adjoint=ic.Checkpointed(graph_budget=0))
    sol.ys.sum().backward()
    forward, backward = sol.explain().evaluations
    assert backward > 0
    assert (forward, backward) == (sol.stats.nfe_forward, sol.stats.nfe_backward)
    assert f"{backward} backward" in str(sol.explain())


def test_a_field_that_has_changed_since_is_said_to_have() -> None:
    layer = nn.Linear(2, 2, dtype=torch.float64)
    sol = ic.solve(lambda t, y: layer(y), start(), 0.0, 2.0)
    with torch.no_grad():
        layer.weight.mul_(40.0)
    found = sol.explain()
    assert found.changed
    assert "changed" in str(found)


def test_failed_and_eventful_solves_are_explained_too() -> None:
    blown = ic.solve(lambda t, y: y**2, 0 * start() + 1.0, 0.0, 3.0, throw=False)
    assert blown.explain().status is blown.status is not ic.Status.SUCCESS
    ball = ic.Event(lambda t, y: y[0], handler=lambda t, y: torch.stack([y[0], -0.8 * y[1]]))
    sol = ic.solve(lambda t, y: torch.stack([y[1], 0 * y[1] - 9.81]), start(), 0, 2.0, event=ball)
    assert len(sol.events) > 1
    assert not sol.explain().changed
    assert ic.solve(swing, start(), 1.0, 1.0).explain().steps == 0


def test_a_pickled_solution_has_forgotten_its_field() -> None:
    sol = pickle.loads(pickle.dumps(ic.solve(swing, start(), 0.0, 1.0)))
    with pytest.raises(ic.InputError, match="pickled"):
        sol.explain()


def test_explaining_does_not_touch_the_random_numbers_of_the_user() -> None:
    sol = ic.solve(swing, start(), 0.0, 1.0)
    before = torch.get_rng_state()
    sol.explain()
    assert torch.equal(torch.get_rng_state(), before)


def test_every_adaptive_method_has_a_stability_limit() -> None:
    limits = {method.__name__: real_stability(method()) for method in ADAPTIVE}
    assert all(limit > 0 for limit in limits.values()), limits
    assert math.isfinite(limits["Tsit5"])
