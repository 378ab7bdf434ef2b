"""Times of each sample's own: where it starts and ends, and where its states are kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import isocline as ic

from ..known import swing, swung
from .lane_cases import EXPLICIT


def times_of(lengths: list[int], backward: bool = False) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Spans of all lengths, and as many times within each as `lengths` says."""
    generator = torch.Generator().manual_seed(len(lengths))
    count = len(lengths)
    t0 = torch.randn(count, generator=generator, dtype=torch.float64)
    t1 = t0 + 0.2 + 4 * torch.rand(count, generator=generator, dtype=torch.float64)
    if backward:
        t1 = torch.where(torch.arange(count) % 2 == 0, 2 * t0 - t1, t1)
    rows = []
    for start, end, length in zip(t0, t1, lengths, strict=True):
        parts = torch.rand(length, generator=generator, dtype=torch.float64).sort().values
        rows.append(start + (end - start) * parts)
    return t0, t1, rows


def lanes_swing(t: Tensor, y: Tensor) -> Tensor:
    return swing(t.unsqueeze(-1) if t.ndim else t, y)


@settings(max_examples=10)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), backward=st.booleans()
)
def test_each_sample_is_as_if_it_were_solved_alone(lengths: list[int], backward: bool) -> None:
    t0, t1, rows = times_of(lengths, backward)
    y0 = torch.randn(len(lengths), 2, dtype=torch.float64)
    among = ic.solve(lanes_swing, y0, t0, t1, stepping="per_sample", save=ic.SaveAt(ts=rows))
    assert among.lengths is not None
    assert among.lengths.tolist() == lengths
    assert among.ys.shape == (max(lengths), len(lengths), 2)
    for sample, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        assert torch.equal(among.ts[:length, sample], row)
        assert bool((among.ys[length:, sample] == 0).all())
        if not length:
            continue
        assert bool((among.ts[length:, sample] == row[-1]).all())
        joint = ic.solve(
            swing, y0[sample : sample + 1], t0[sample], t1[sample], save=ic.SaveAt(ts=row)
        )
        assert torch.allclose(among.ys[:length, sample], joint.ys[:, 0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", EXPLICIT, ids=lambda method: method.__name__)
def test_output_comes_from_the_methods_own_interpolant(method: type[ic.Solver]) -> None:
    """Output times change no step, and the states there are as exact as those at steps' ends."""
    t0, t1, rows = times_of([40, 3, 17])
    y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(3, 2)
    tol = max(1e-8, 30.0 ** -float(method().error_order))
    options = {"stepping": "per_sample", "solver": method(), "rtol": tol, "atol": tol}
    with torch.no_grad():
        dense = ic.solve(lanes_swing, y0, t0, t1, save=ic.SaveAt(ts=rows, t1=True), **options)
        plain = ic.solve(lanes_swing, y0, t0, t1, **options)
    for sample, row in enumerate(rows):
        last = len(row)
        assert torch.equal(dense.ys[last, sample], plain.ys[0, sample])
        exact = swung(row, (1.0, 0.0), float(t0[sample]))
        error = (dense.ys[:last, sample] - exact).abs().max()
        at_end = (
            (plain.ys[0, sample] - swung(t1[sample], (1.0, 0.0), float(t0[sample]))).abs().max()
        )
        assert error < 30 * max(float(at_end), 10 * tol)


def test_a_matrix_with_lengths_and_a_list_are_one_request() -> None:
    t0, t1, rows = times_of([4, 0, 2])
    y0 = torch.randn(3, 2, dtype=torch.float64)
    matrix = torch.zeros(3, 6, dtype=torch.float64)
    for sample, row in enumerate(rows):
        matrix[sample, : len(row)] = row
    asked = [ic.SaveAt(ts=rows), ic.SaveAt(ts=matrix, lengths=[4, 0, 2])]
    one, other = (
        ic.solve(lanes_swing, y0, t0, t1, stepping="per_sample", save=save) for save in asked
    )
    assert torch.equal(one.ys, other.ys)
    assert torch.equal(one.ts, other.ts)


def test_steps_starts_and_shared_times() -> None:
    t0, t1, _ = times_of([1, 1, 1])
    y0 = torch.randn(3, 2, dtype=torch.float64)
    save = ic.SaveAt(t0=True, steps=True)
    found = ic.solve(lanes_swing, y0, t0, t1, stepping="per_sample", save=save)
    assert found.lengths is not None
    assert found.stats.samples is not None
    assert torch.equal(found.lengths, found.stats.samples.steps_accepted + 1)
    assert torch.equal(found.ts[0], t0)
    last = found.lengths - 1
    assert torch.equal(found.ts.gather(0, last.unsqueeze(0))[0], t1)
    shared = ic.solve(
        lanes_swing, y0, 0.0, 1.0, stepping="per_sample", save=ic.SaveAt(ts=[0.0, 0.5, 1.0])
    )
    assert torch.equal(shared.ys[0], y0)
    assert torch.equal(shared.ts, torch.tensor([0.0, 0.5, 1.0]).double().unsqueeze(1).expand(3, 3))


def test_a_span_of_no_length_answers_with_the_start() -> None:
    y0 = torch.randn(3, 2, dtype=torch.float64)
    t1 = torch.tensor([0.0, 1.0, 0.0])
    found = ic.solve(
        lanes_swing, y0, 0.0, t1, stepping="per_sample", save=ic.SaveAt(t0=True, t1=True)
    )
    assert torch.equal(found.ys[1, [0, 2]], y0[[0, 2]])
    assert found.ts[1].tolist() == [0.0, 1.0, 0.0]


def test_the_field_is_asked_within_each_samples_span_alone() -> None:
    t0, t1, rows = times_of([3, 5, 2], backward=True)
    low, high = torch.minimum(t0, t1), torch.maximum(t0, t1)

    def watched(t: Tensor, y: Tensor, low: Tensor, high: Tensor) -> Tensor:
        assert t.shape == y.shape[:1]
        assert bool(((t >= low) & (t <= high)).all())
        return lanes_swing(t, y)

    y0 = torch.randn(3, 2, dtype=torch.float64)
    args = (ic.PerSample(low), ic.PerSample(high))
    for solver in ("tsit5", "dop853", "bs5"):
        ic.solve(
            watched, y0, t0, t1, args=args, solver=solver, stepping="per_sample",
            save=ic.SaveAt(ts=rows),
        )  # fmt: skip


def test_steps_end_at_the_controllers_stops() -> None:
    pid = ic.PID(stops=(0.3, 0.7))
    y0, t1 = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0.5, 1.0, -1.0])
    found = ic.solve(
        lanes_swing, y0, 0.0, t1, stepping="per_sample", controller=pid, save=ic.SaveAt(steps=True)
    )
    ends = [set(found.ts[:, sample].tolist()) for sample in range(3)]
    assert 0.3 in ends[0]
    assert {0.3, 0.7} <= ends[1]
    assert not {0.3, 0.7} & ends[2]
