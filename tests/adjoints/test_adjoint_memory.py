"""What is kept alive, and how much: measured allocations, weak references, no cycles."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile

import isocline as ic

from .adjoint_cases import ADJOINTS, FEW, RECOMPUTING

SIZE = 20_000
STATE = 8 * SIZE  # bytes


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free anything."""
    gc.collect()
    gc.freeze()  # what is left is there to stay: the next collection need not look at it
    gc.disable()
    yield
    gc.enable()


def peak_states_of(function: Callable[[], Any], *, grad: bool = True) -> float:
    """Most bytes allocated at once during a call, in states."""
    with profile(profile_memory=True) as profiler, torch.set_grad_enabled(grad):
        function()
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak / STATE


def peak_states(
    adjoint: Any, steps: int, *, solver: Any = "rk4", backward: bool = True, grad: bool = True
) -> float:
    """That during a solve and its backward pass."""
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(SIZE, dtype=torch.float64)

    def solved() -> None:
        loss = ic.solve(
            lambda t, y: (rate * y).cos(), y0, 0.0, 1.0, solver=solver, dt0=1 / steps,
            adjoint=adjoint,
        ).ys.sum()  # fmt: skip
        if backward and grad:
            loss.backward()

    return peak_states_of(solved, grad=grad)


@pytest.mark.usefixtures("no_collector")
def test_memory_of_direct_grows_with_the_steps() -> None:
    """Guards the measurement itself."""
    assert peak_states(FEW["direct"], 40) > peak_states(FEW["direct"], 10) + 60


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("name", ["slots1", "slots3", "backsolve", "seminorm"])
def test_memory_does_not_grow_with_the_steps(name: str) -> None:
    few, many = (peak_states(ADJOINTS[name], steps) for steps in (8, 24))
    assert many <= few + 1.5


@pytest.mark.usefixtures("no_collector")
def test_memory_of_a_solve_without_gradients_does_not_grow_with_the_steps() -> None:
    few, many = (peak_states(FEW["checkpointed"], steps, grad=False) for steps in (8, 24))
    assert many <= few + 1.5


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("slots", [2, 4, 8])
def test_each_slot_costs_one_state_and_no_more(slots: int) -> None:
    """Those that the forward pass kept count too, once new ones take their place."""
    one = peak_states(ic.Checkpointed(slots=1), 24)
    assert peak_states(ic.Checkpointed(slots=slots), 24) <= one + (slots - 1) + 1.5


@pytest.mark.usefixtures("no_collector")
def test_without_graphs_one_state_a_step_is_kept() -> None:
    few, many = (peak_states(FEW["no_graphs"], steps) for steps in (8, 24))
    assert many <= few + 16 + 1.5


@pytest.mark.usefixtures("no_collector")
def test_the_graph_budget_is_kept() -> None:
    budget = 40 * STATE
    within = peak_states(ic.Checkpointed(graph_budget=budget), 24)
    assert within <= peak_states(FEW["no_graphs"], 24) + 40 + 5


class Forcing:
    """A field whose life can be watched."""

    def __init__(self, rate: Tensor) -> None:
        self.rate = rate

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(self.rate * y)


SAVES = {
    "t1": ic.SaveAt(),
    "ts": ic.SaveAt(ts=[0.2, 0.7]),
    "steps": ic.SaveAt(t0=True, steps=True),
    "dense": ic.SaveAt(dense=True, t1=True),
}


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("name", FEW)
def test_no_reference_cycle_keeps_a_solve_alive(name: str, save: str, backward: bool) -> None:
    if save == "dense" and isinstance(FEW[name], ic.Backsolve):
        save = "t1"  # it has no dense output
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(3, dtype=torch.float64, requires_grad=True)
    field = Forcing(rate)
    alive = weakref.ref(field)
    solution = ic.solve(field, y0 * 1.0, 0.0, 1.0, save=SAVES[save], adjoint=FEW[name])
    if backward:
        solution.ys.sum().backward()
    del field, solution
    assert alive() is None


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("name", FEW)
def test_a_solve_without_gradients_leaves_nothing_behind(name: str) -> None:
    field = Forcing(torch.tensor(0.3, requires_grad=True))
    alive = weakref.ref(field)
    with torch.no_grad():
        ys = ic.solve(field, torch.ones(3), 0.0, 1.0, adjoint=FEW[name]).ys
    del field
    assert alive() is None  # only the `Solution` holds it, to explain itself
    assert not ys.requires_grad


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("name", FEW)
def test_where_nothing_requires_grad_no_field_is_held(name: str) -> None:
    field = Forcing(torch.tensor(0.3))
    alive = weakref.ref(field)
    ys = ic.solve(field, torch.ones(3), 0.0, 1.0, adjoint=FEW[name]).ys
    del field
    assert alive() is None
    assert not ys.requires_grad


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("name", RECOMPUTING)
def test_backward_frees_what_was_kept_although_the_answer_lives_on(name: str) -> None:
    """A list of losses must not hold the steps of every solve."""
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    saved: list[weakref.ref[Tensor]] = []

    def remember(tensor: Tensor) -> Tensor:
        saved.append(weakref.ref(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        y0 = torch.ones(4, dtype=torch.float64)
        ys = ic.solve(lambda t, y: (rate * y).cos(), y0, 0.0, 1.0, adjoint=RECOMPUTING[name]).ys
    ys.sum().backward()
    alive = [ref for ref in saved if (kept := ref()) is not None and kept.shape == (4,)]
    assert len(alive) <= 1  # the initial state


@pytest.mark.parametrize("name", FEW)
def test_a_module_that_was_solved_can_be_copied_and_pickled(name: str) -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
    ys = ic.solve(lambda t, y: net(y), torch.ones(1, 2), 0.0, 1.0, adjoint=FEW[name]).ys
    ys.sum().backward()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(list(twin.parameters()), list(net.parameters()))


@pytest.mark.parametrize("name", FEW)
def test_an_adjoint_can_be_copied_pickled_and_compared(name: str) -> None:
    for twin in (copy.deepcopy(FEW[name]), pickle.loads(pickle.dumps(FEW[name]))):
        assert twin == FEW[name]
        assert hash(twin) == hash(FEW[name])
