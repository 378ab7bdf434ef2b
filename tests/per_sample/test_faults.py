"""A sample that fails stops alone, keeps its status, and changes no bit of the others' answers."""

from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic

COUNT = 1000
BAD = {100: "nan", 317: "blow_up", 640: "stiff", 999: "late_nan"}
GOOD = [sample for sample in range(COUNT) if sample not in BAD]
STATUS = {
    "nan": ic.Status.NON_FINITE,
    "blow_up": ic.Status.STEP_UNDERFLOW,
    "stiff": ic.Status.MAX_STEPS,
    "late_nan": ic.Status.NON_FINITE,
}


def batch() -> tuple[Tensor, Tensor]:
    """Starts and rates; the faulty samples have a code in the place of their third number."""
    generator = torch.Generator().manual_seed(0)
    y0 = torch.rand(COUNT, 2, generator=generator, dtype=torch.float64) + 0.5
    fault = torch.zeros(COUNT, dtype=torch.float64)
    for sample, kind in BAD.items():
        fault[sample] = 1.0 + list(STATUS).index(kind)
    return y0, fault


def field(t: Tensor, y: Tensor, fault: Tensor) -> Tensor:
    fault, t = fault.unsqueeze(1), t.unsqueeze(1)
    slope = torch.cos(3 * t) * y * (1 - y)
    slope = torch.where(fault == 1, torch.nan, slope)
    slope = torch.where(fault == 2, y * y, slope)  # 1 / (1 / y0 - t)
    slope = torch.where(fault == 3, -1e7 * (y - torch.cos(t)), slope)
    return torch.where((fault == 4) & (t > 0.7), torch.nan, slope)


def solved(samples: list[int], **options: Any) -> ic.Solution:
    y0, fault = batch()
    return ic.solve(
        field,
        y0[samples],
        0.0,
        3.0,
        args=(ic.PerSample(fault[samples]),),
        stepping="per_sample",
        max_steps=400,
        **options,
    )


@pytest.mark.parametrize("grad", [False, True], ids=["plain", "recorded"])
def test_the_others_keep_every_bit(grad: bool) -> None:
    save = ic.SaveAt(ts=[0.5, 2.0], t1=True)
    with torch.set_grad_enabled(grad):
        among = solved(list(range(COUNT)), throw=False, save=save)
        without = solved(GOOD, save=save)
    assert torch.equal(among.ys[:, GOOD], without.ys)
    for sample, kind in BAD.items():
        assert among.statuses[sample] is STATUS[kind], kind
    assert all(among.statuses[sample] is ic.Status.SUCCESS for sample in GOOD)
    assert among.failed_samples == tuple(BAD)
    assert among.status is ic.Status.NON_FINITE
    assert among.lengths is not None
    assert among.t_ends is not None
    assert among.lengths[list(BAD)].tolist() == [0, 1, 0, 1]
    assert among.t_ends[100] == 0.0
    y0 = batch()[0]
    assert float(among.t_ends[317]) == pytest.approx(1 / float(y0[317].max()), rel=1e-5)
    assert 0.6 < float(among.t_ends[999]) <= 0.7
    assert bool((among.ys[1:, list(BAD)] == 0).all())


@pytest.mark.parametrize(
    "adjoint",
    [ic.Direct(), ic.Checkpointed(), ic.Checkpointed(slots=4), ic.Backsolve(checkpoints=2)],
    ids=["direct", "checkpointed", "slots", "backsolve"],
)
def test_gradients_of_the_others_are_sound(adjoint: Any) -> None:
    samples = [98, 100, 317, 318, 640, 999]
    y0, fault = batch()

    def gradient(rows: list[int]) -> Tensor:
        start = y0[rows].requires_grad_()
        solution = ic.solve(
            field,
            start,
            0.0,
            3.0,
            args=(ic.PerSample(fault[rows]),),
            stepping="per_sample",
            adjoint=adjoint,
            throw=False,
            max_steps=200,
        )
        return torch.autograd.grad(solution.ys.sum(), start)[0]

    found, expected = gradient(samples), gradient([98, 318])
    assert torch.allclose(found[[0, 3]], expected, rtol=1e-13, atol=0)
    assert bool((found[[1, 2, 4, 5]] == 0).all())


def test_an_error_names_the_samples_and_hands_over_the_rest() -> None:
    with pytest.raises(
        ic.NonFiniteError, match=r"4 of 1000 samples .*100, 317, 640, 999"
    ) as caught:
        solved(list(range(COUNT)))
    error = caught.value
    assert error.samples == tuple(BAD)
    assert error.time == 0.0
    assert error.solution is not None
    assert bool((error.solution.ys[0, GOOD] != 0).all())
    with pytest.raises(ic.StepUnderflowError, match="Sample 1 stopped"):
        solved([0, 317])
    with pytest.raises(ic.MaxStepsError):
        solved([640, 0])


def test_a_shortest_step_and_constant_steps_stop_their_own_sample() -> None:
    pid = ic.PID(min_step=1e-3)
    found = solved([0, 317, 1], throw=False, controller=pid)
    assert found.statuses[1] is ic.Status.STEP_UNDERFLOW
    constant = solved([0, 640, 1], throw=False, controller=ic.Constant(), dt0=0.01)
    assert constant.statuses[0] is constant.statuses[2] is ic.Status.SUCCESS
    assert constant.statuses[1] is ic.Status.NON_FINITE
