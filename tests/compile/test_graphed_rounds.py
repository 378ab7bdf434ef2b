"""What graphs of a device are made of: fixed numbers of rounds, and of pull-backs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import isocline as ic
from isocline.compile import tracing
from isocline.compile.driving import Counts, Wiring
from isocline.compile.formulas import Layout
from isocline.compile.graphs.formula import NUMBERS, RoundFormula, RoundRequest
from isocline.compile.graphs.pulls import PULLS, Pulls
from isocline.compile.graphs.rounds import ROUNDS, Place, Rounds
from isocline.compile.lane_formulas import LaneFormula, LaneRequest
from isocline.compile.passes import Passes
from isocline.state import Packing

from .taped import Taped

# --- rounds that count ------------------------------------------------------------------------


def counting(stop: int, mark: int) -> Any:
    """A round that adds 1 to t and 2 to y; at `stop` the mark with that number is loud."""

    def run(inputs: list[Tensor]) -> list[Tensor]:
        t, y = inputs
        loud = (t == stop).sum().double()
        marks = [torch.zeros_like(loud), loud * 0, loud * 0, torch.ones_like(loud), loud * 0]
        marks[mark] = {0: torch.where(loud > 0, torch.inf, 0.0), 3: 1.0 - loud}.get(mark, 5 * loud)
        return [torch.stack([*marks]), t + 1, y + 2, t * 10]

    return run


WIRING = Wiring.of(2, 4, {0: 1, 1: 2}, 0, 1)


@given(
    st.integers(0, 3 * ROUNDS + 2),
    st.integers(1, 3 * ROUNDS + 2),
    st.sampled_from([0, 1, 2, 3, 4]),
    st.booleans(),
)
@example(ROUNDS, 3 * ROUNDS, 0, True)
@example(3 * ROUNDS, ROUNDS, 0, True)
@settings(max_examples=60)
def test_rounds_follow_until_one_is_loud(stop: int, most: int, mark: int, record: bool) -> None:
    """Whatever the place of that round in a graph, and however many are allowed."""
    tape = Taped()
    start = [torch.zeros(2), torch.tensor([1.0, 3.0])]
    rounds = Rounds(counting(stop, mark), start, WIRING, [Place(False, 0), Place(True, 3)], tape)
    for _ in range(2):  # what is left of one solve is no part of the next
        taken = rounds.take(start, Counts(2, 0, 0, 0.5), most, record=record)
        number = min(stop, most)
        assert taken.number == number
        assert torch.equal(taken.inputs[0], torch.full((2,), float(number)))
        assert torch.equal(taken.inputs[1], start[1] + 2 * number)
        assert bool(taken.last) == (stop < most)
        if taken.last:
            assert torch.equal(taken.last[3], torch.full((2,), 10.0 * stop))
        expected = range(number) if record else ()
        assert [float(t[0]) for t, _ in taken.records] == [*expected]
        assert [float(out[0]) for _, out in taken.records] == [10.0 * i for i in expected]


def test_what_was_handed_over_stays() -> None:
    """Whoever remembers it may take further rounds, which use the same places."""
    start = [torch.zeros(2), torch.zeros(2)]
    rounds = Rounds(counting(3, mark=0), start, WIRING, [Place(False, 0), Place(True, 3)], Taped())
    first = rounds.take(start, Counts(2, 0, 0, 0.5), 11, record=True)
    handed = [*first.inputs, *first.last, *(x for record in first.records for x in record)]
    before = [x.clone() for x in handed]
    rounds.take([x - 2 for x in start], Counts(2, 0, 0, 0.5), 11, record=True)
    assert all(map(torch.equal, handed, before))


def test_output_times_may_pass_where_slopes_are_kept() -> None:
    start = [torch.zeros(2), torch.zeros(2)]
    wiring = WIRING._replace(slopes=3)
    recorded = [Place(False, 0), Place(False, 1), Place(True, 3)]
    rounds = Rounds(counting(3, mark=4), start, wiring, recorded, Taped())
    assert rounds.take(start, Counts(2, 0, 0, 0.5), 11, record=True).number == 11


@given(st.integers(1, 3 * PULLS + 1), st.integers(0, 2))
def test_pull_backs_of_any_number_of_rounds(count: int, seed: int) -> None:
    """Of y + h a y, beside autograd: what fills the last graph adds nothing."""
    draw = torch.Generator().manual_seed(seed)
    lengths, states = (torch.randn(count, 3, generator=draw) for _ in range(2))
    factor = torch.randn(3, generator=draw)

    def pull(own: Sequence[Tensor], end: Tensor, after: Sequence[Tensor]) -> Tensor:
        (h, y), (a, total) = own, after
        total.add_(h * y * end)
        return end + h * a * end

    total, cotangent = torch.ones(3), torch.ones(3)
    rounds = [[h, y] for h, y in zip(lengths, states, strict=True)]
    pulls = Pulls(pull, rounds[0], cotangent, [factor, total], 1, Taped())
    for _ in range(2):
        total.fill_(1.0)
        start = pulls.walk(rounds, lambda own: [own[0] * 0, own[1]], cotangent, [factor, total])
        end, expected = cotangent, torch.ones(3)
        for h, y in rounds:
            expected = expected + h * y * end
            end = end + h * factor * end
        torch.testing.assert_close(start, end)
        torch.testing.assert_close(total, expected)


# --- as far as one can come without a GPU -------------------------------------------------------

DEVICE = torch.device("meta")
"""Its tensors have no values: whoever looks at one fails, as under a capture."""


class _OnDevice(TorchDispatchMode):
    """Fails where an operation waits for the device, or has a tensor of the host beside its own.

    Numbers of the host, as tensors without axes, are constants of a capture.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal"), name
        found = func(*args, **(kwargs or {}))
        tensors = [x for x in torch.utils._pytree.tree_leaves(args) if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors if x.ndim}
        assert len(devices) <= 1, f"{name} over {devices}"
        if name in ("_to_copy", "copy_"):
            assert len({x.device for x in [*tensors, found]}) == 1, f"{name} between devices"
        return found


def field(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    return rate * torch.sin(y) + torch.cos(t).reshape(-1, 1)


CONTROLLERS: list[Any] = [
    ic.PID(),
    ic.PID(derivative=0.02, max_step=0.3, min_step=1e-6),
    ic.Constant(),
]


@pytest.fixture(autouse=True)
def _without_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formulas are called as they are, not traced."""
    monkeypatch.setattr(tracing, "_is_real", lambda tensor: False)


class Silent:
    """A capture of which nothing is asked but to record."""

    def record(self, body: Any) -> Any:
        body()
        return body

    def letter(self, number: Tensor) -> Any:
        raise AssertionError


def _packing(width: int) -> Packing:
    return dataclasses.replace(Packing.of(torch.zeros(4, width)), device=DEVICE)


@pytest.mark.parametrize("controller", CONTROLLERS, ids=repr)
@pytest.mark.parametrize("solver", [ic.Tsit5(), ic.SSPRK432()], ids=repr)
def test_rounds_of_a_batch_stay_on_a_device(controller: Any, solver: Any) -> None:
    """What is to be captured may not wait."""
    request = RoundRequest(solver.tableau, controller, 5, False, False, True, Passes())
    rate = torch.ones(3)
    layout = Layout(dynamic=False, vectors=False, tensors=1)
    formula = RoundFormula(
        solver.tableau, _packing(3), lambda t, y: field(t, y, rate), (), [rate], layout,
        average=False, adaptive=controller.adaptive, stages=True, request=request,
    )  # fmt: skip
    fsal = solver.tableau.fsal
    with _OnDevice():
        y, held = torch.empty(12, device=DEVICE), torch.empty(3, device=DEVICE)
        numbers = NUMBERS + request.memories
        clock = torch.empty(numbers, dtype=torch.float64, device=DEVICE)
        inputs = [clock, y, *([y] if fsal else []), held]
        outputs = 5 + fsal
        follows = {0: 1, 1: 2} | ({2: 3} if fsal else {})
        wiring = Wiring.of(len(inputs), outputs, follows, 0, 1, outputs - 1)
        recorded = [Place(False, 0), Place(False, 1), Place(True, outputs - 1)]
        Rounds(lambda given: list(formula.step(*given)), inputs, wiring, recorded, Silent())
        slopes = torch.empty(12 * solver.tableau.stages, device=DEVICE)
        (start,) = formula.pull(clock, y, y, slopes, held)
        assert start.device == DEVICE


@pytest.mark.parametrize("controller", CONTROLLERS, ids=repr)
@pytest.mark.parametrize("width", [3, 5])
def test_rounds_of_samples_stay_on_a_device(controller: Any, width: int) -> None:
    solver = ic.Tsit5()
    request = LaneRequest(solver.tableau, controller, 5, False, True, False, True, False, Passes())
    rate = torch.ones(width)
    packing = _packing(width)
    formula = LaneFormula(request, packing, lambda t, y: field(t, y, rate), (), [rate])
    with _OnDevice():
        clock = torch.empty(2, dtype=torch.float64, device=DEVICE)
        t = torch.empty(4, dtype=torch.float64, device=DEVICE)
        y = torch.empty(4, width, device=DEVICE)
        y = y.t().reshape(-1) if formula.narrow else y
        held = torch.empty(width, device=DEVICE)
        memory = [t] * formula.memories
        inputs = [clock, t, t, t, y, t.long(), t.long(), *memory, y, t, held]
        found = formula.step(*inputs)
        assert {x.device for x in found} == {DEVICE}
        slopes = torch.empty(7 * 4 * width, device=DEVICE)
        (start,) = formula.pull(clock, t, t, y, y, slopes, held)
        assert start.device == DEVICE
