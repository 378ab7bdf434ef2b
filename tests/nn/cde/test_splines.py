"""Paths against SciPy's splines, channel by channel; ties, gaps, empty series, gradients."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import CubicHermiteSpline, CubicSpline
from torch import Tensor

from isocline.irregular import IrregularBatch
from isocline.nn.cde import CubicPath, hermite, linear, natural_cubic
from isocline.nn.cde.tridiagonal import solve_tridiagonal

from .cde_cases import ragged

PATHS = [hermite, natural_cubic, linear]
Array = np.ndarray


def by_scipy(make: Callable[..., CubicPath], times: Array, values: Array) -> Callable[..., Array]:
    if make is natural_cubic and len(times) > 2:
        return CubicSpline(times, values, bc_type="natural")
    slope = np.diff(values) / np.diff(times)
    if make is hermite:
        return CubicHermiteSpline(times, values, np.concatenate([slope[:1], slope]))
    return lambda t, nu=0: (
        np.interp(t, times, values)
        if nu == 0
        else slope[np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(slope) - 1)]
    )


@pytest.mark.parametrize("make", PATHS)
@given(seed=st.integers(0, 1000), observed=st.sampled_from([0.2, 0.6, 1.0]))
def test_each_channel_is_the_spline_through_its_own_observations(
    make: Callable[..., CubicPath], seed: int, observed: float
) -> None:
    batch = ragged((9, 2, 14, 5), observed=observed, seed=seed)
    path = make(batch)
    ts = torch.linspace(0.02, 0.98, 13, dtype=torch.float64)
    found = torch.stack([path.at(t) for t in ts]), torch.stack([path.derivative(t) for t in ts])
    for series, feature in itertools.product(range(len(batch)), range(batch.features)):
        seen = batch.mask[series, :, feature]
        times = batch.times[series, seen].numpy()
        if len(times) < 2:
            continue
        values = batch.values[series, seen, feature].numpy()
        expected = by_scipy(make, times, values)
        inside = (ts.numpy() > times[0]) & (ts.numpy() < times[-1])
        # Where two observations nearly meet, splines are steep: rounding goes with the slope.
        scale = 1 + np.abs(np.diff(values) / np.diff(times)).max()
        for order, part in enumerate(found):
            given = part[:, series, 1 + feature].numpy()[inside]
            wanted = expected(ts.numpy()[inside], order)
            np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-8 * scale)


@pytest.mark.parametrize("make", PATHS)
def test_paths_meet_every_observation_and_hold_their_ends(
    make: Callable[..., CubicPath],
) -> None:
    batch = ragged(observed=0.5)
    path = make(batch)
    for row in range(batch.rows):
        x = path.at(batch.times[:, row])
        seen = batch.mask[:, row]
        torch.testing.assert_close(x[:, 1:][seen], batch.values[:, row][seen])
        torch.testing.assert_close(x[:, 0], batch.times[:, row])
    for series, feature in [(0, 0), (0, 1), (2, 0), (2, 1)]:
        seen = batch.mask[series, :, feature]
        ends = batch.times[series, seen][[0, -1]]
        for t, end in ((ends[0] - 1e-6, 0), (ends[1] + 1e-6, -1)):
            held = batch.values[series, seen, feature][end]
            torch.testing.assert_close(path.at(t)[series, 1 + feature], held)
            assert path.derivative(t)[series, 1 + feature] == 0


@pytest.mark.parametrize("make", PATHS)
def test_nothing_moves_outside_a_series_span(make: Callable[..., CubicPath]) -> None:
    batch = ragged()
    path = make(batch)
    for t, edge in ((-0.5, path.start), (1.5, path.end)):
        at = torch.tensor(t, dtype=torch.float64)
        assert torch.equal(path.derivative(at), torch.zeros(4, 3, dtype=torch.float64))
        torch.testing.assert_close(path.at(at), path.at(edge))


@pytest.mark.parametrize("make", PATHS)
def test_the_derivative_is_that_of_the_values(make: Callable[..., CubicPath]) -> None:
    path = make(ragged())
    t = torch.tensor([0.31, 0.32, 0.33, 0.34], dtype=torch.float64, requires_grad=True)
    for channel in range(path.channels):
        (slope,) = torch.autograd.grad(path.at(t)[:, channel].sum(), t)
        within = (t >= path.start) & (t <= path.end)
        torch.testing.assert_close(
            slope.where(within, 0.0), path.derivative(t)[:, channel].detach()
        )


def test_at_its_ends_the_derivative_is_one_sided() -> None:
    times, values = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([[0.0], [1.0], [5.0]])
    path = linear(IrregularBatch.collate([times], [values]))
    slopes = [float(path.derivative(torch.tensor(t))[0, 1]) for t in (0.0, 0.5, 1.0, 2.0)]
    assert slopes == [1.0, 1.0, 4.0, 4.0]


def test_a_channel_never_observed_is_zero_and_a_single_observation_constant() -> None:
    values = torch.tensor([[float("nan"), float("nan")], [float("nan"), 3.0], [float("nan")] * 2])
    path = natural_cubic(IrregularBatch.collate([torch.tensor([0.0, 0.5, 1.0])], [values]))
    for t in (0.0, 0.4, 0.5, 0.9, 1.0):
        assert path.at(torch.tensor(t)).tolist() == [[pytest.approx(t), 0.0, 3.0]]
        assert path.derivative(torch.tensor(t)).tolist() == [[pytest.approx(1.0), 0.0, 0.0]]


@pytest.mark.parametrize("make", PATHS)
def test_rows_at_equal_times_count_as_one_with_their_mean(make: Callable[..., CubicPath]) -> None:
    nan = float("nan")
    twice = IrregularBatch.collate(
        [torch.tensor([0.0, 0.0, 0.4, 0.7, 0.7, 0.7])],
        [torch.tensor([[1.0, nan], [2.0, 5.0], [0.5, 6.0], [1.0, nan], [3.0, nan], [nan, 2.0]])],
    )
    once = IrregularBatch.collate(
        [torch.tensor([0.0, 0.4, 0.7])], [torch.tensor([[1.5, 5.0], [0.5, 6.0], [2.0, 2.0]])]
    )
    merged, plain = make(twice), make(once)
    for t in torch.linspace(-0.1, 0.8, 19):
        torch.testing.assert_close(merged.at(t), plain.at(t))
        torch.testing.assert_close(merged.derivative(t), plain.derivative(t))


def test_intensities_are_running_counts_and_ties_count_each() -> None:
    nan = float("nan")
    batch = IrregularBatch.collate(
        [torch.tensor([0.0, 0.5, 0.5, 1.0])],
        [torch.tensor([[1.0, nan], [2.0, nan], [4.0, 1.0], [nan, nan]])],
    )
    path = linear(batch, intensity=True)
    counts = [path.at(torch.tensor(t))[0, 3:].tolist() for t in (0.0, 0.5, 1.0)]
    assert counts == [[1.0, 0.0], [3.0, 1.0], [3.0, 1.0]]
    assert linear(batch, time=False).channels == 2


@pytest.mark.parametrize("make", PATHS)
def test_paths_without_rows_stand_at_zero(make: Callable[..., CubicPath]) -> None:
    for lengths in ((0, 0), (0, 4)):
        path = make(ragged(lengths))
        for t in (-1.0, 0.0, 0.5):
            at = torch.tensor(t, dtype=torch.float64)
            assert not bool(path.at(at)[0].any())
            assert not bool(path.derivative(at)[0].any())


@pytest.mark.parametrize("make", PATHS)
def test_what_stands_in_the_padding_does_not_matter(make: Callable[..., CubicPath]) -> None:
    batch = ragged()
    padding = ~batch.present
    other = IrregularBatch(
        batch.times.masked_fill(padding, -7.0),
        batch.values.masked_fill(~batch.mask, float("nan")),
        batch.mask,
        batch.lengths,
    )
    one, two = make(batch), make(other)
    assert torch.equal(one.coefficients, two.coefficients)
    assert torch.equal(one.knots, two.knots)


@pytest.mark.parametrize("make", PATHS)
def test_pacing_keeps_the_curve(make: Callable[..., CubicPath]) -> None:
    path = make(ragged())
    paced = path.paced()
    assert torch.equal(paced.start, torch.zeros(4, dtype=torch.float64))
    assert paced.end.tolist() == [1.0, 0.0, 1.0, 1.0]
    span = path.end - path.start
    for s in torch.linspace(0, 1, 9, dtype=torch.float64):
        t = path.start + s * span
        torch.testing.assert_close(paced.at(s), path.at(t))
        torch.testing.assert_close(
            paced.derivative(s)[[0, 2, 3]], (path.derivative(t) * span.unsqueeze(1))[[0, 2, 3]]
        )
    times = torch.tensor([-1.0, 0.3, 9.0], dtype=torch.float64)
    assert path.pace(times)[:, [0, 2]].tolist() == [[0, 1]] * 4


@pytest.mark.parametrize("make", PATHS)
def test_more_knots_leave_the_curve_as_it_was(make: Callable[..., CubicPath]) -> None:
    for lengths in ((7, 1, 12, 3), (0, 0, 0, 0), (2, 0, 1, 1)):
        path = make(ragged(lengths))
        times = torch.rand(4, 5, dtype=torch.float64) * 1.4 - 0.2
        times[:, 4] = path.end
        fine, place = path.refined(times)
        inside = torch.minimum(torch.maximum(times, path.start[:, None]), path.end[:, None])
        assert torch.equal(fine.knots.gather(1, place), inside)
        for t in torch.linspace(-0.1, 1.1, 13, dtype=torch.float64):
            torch.testing.assert_close(fine.at(t), path.at(t))
            torch.testing.assert_close(fine.derivative(t), path.derivative(t))


@pytest.mark.parametrize("make", PATHS)
def test_gradients_flow_to_values_and_times(make: Callable[..., CubicPath]) -> None:
    batch = ragged((5, 3), observed=0.8)

    def points(times: Tensor, values: Tensor) -> Tensor:
        path = make(IrregularBatch(times, values, batch.mask, batch.lengths))
        at = torch.tensor([0.41, 0.55], dtype=torch.float64)
        return torch.cat([path.at(at), path.derivative(at)])

    given = (batch.times.clone().requires_grad_(), batch.values.clone().requires_grad_())
    assert torch.autograd.gradcheck(points, given)


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 33])
def test_tridiagonal_systems_agree_with_dense_ones(rows: int) -> None:
    lower, upper, right = (torch.rand(2, rows, 3, dtype=torch.float64) - 0.5 for _ in range(3))
    lower[:, 0] = upper[:, -1] = 0
    diagonal = lower.abs() + upper.abs() + 0.5
    x = solve_tridiagonal(lower, diagonal, upper, right)
    for series in range(2):
        for system in range(3):
            matrix = torch.diag(diagonal[series, :, system])
            matrix += torch.diag(lower[series, 1:, system], -1)
            matrix += torch.diag(upper[series, :-1, system], 1)
            torch.testing.assert_close(
                matrix @ x[series, :, system], right[series, :, system], rtol=1e-12, atol=1e-12
            )
