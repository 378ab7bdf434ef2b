"""Recurrences against naive transcriptions, and the fused pass against the loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.irregular import IrregularBatch
from isocline.nn import GRUD, ODERNN, RNN, Recurrence
from isocline.nn.series import Rows

from .series_cases import (
    DTYPE,
    FEATURES,
    FLOWING,
    HIDDEN,
    RECURRENCES,
    STEPPING,
    close,
    ragged,
    recurrence,
    stirred,
)


def both_ways(batch: IrregularBatch) -> list[Rows]:
    return [Rows.forward(batch, 1.9), Rows.backward(batch, -0.3)]


@pytest.mark.parametrize("name", STEPPING)
@pytest.mark.parametrize("features", [0, FEATURES])
def test_one_call_of_the_network_is_the_loop(name: str, features: int) -> None:
    made = recurrence(name, features)
    for rows in both_ways(ragged(features=features)):
        (found, last), (expected, end) = made.trace(rows), super(RNN, made).trace(rows)
        close(found[rows.present], expected[rows.present], 1e-13)
        close(last, end, 1e-13)


@pytest.mark.parametrize("name", STEPPING)
def test_what_is_complete_needs_no_filling_in(name: str) -> None:
    """A `fill` that must not be called, and one that must."""
    made, batch = recurrence(name), ragged(observed=2.0)
    mask = batch.present.unsqueeze(-1).expand_as(batch.mask)
    full = IrregularBatch(batch.times, batch.values + mask, mask, batch.lengths)

    def never(hidden: Tensor) -> Tensor:
        raise AssertionError

    rows = Rows.forward(full)
    for found, expected in zip(made.trace(rows, never), made.trace(rows), strict=True):
        close(found, expected, 1e-13)
    with pytest.raises(AssertionError):
        made.trace(Rows.forward(ragged()), never)


def gru(x: Tensor, h: Tensor, cell: nn.GRUCell) -> Tensor:
    """Torch's GRU: the reset gate stands behind the product with the hidden state."""
    wr, wz, wn = (x @ cell.weight_ih.T + cell.bias_ih).chunk(3)
    ur, uz, un = (h @ cell.weight_hh.T + cell.bias_hh).chunk(3)
    r, z = torch.sigmoid(wr + ur), torch.sigmoid(wz + uz)
    return (1 - z) * torch.tanh(wn + r * un) + z * h


Single = tuple[list[float], list[list[float]], list[list[bool]]]


def single(batch: IrregularBatch, series: int) -> Single:
    rows = int(batch.lengths[series])
    return (
        batch.times[series, :rows].tolist(),
        batch.values[series, :rows].tolist(),
        batch.mask[series, :rows].tolist(),
    )


def gru_d_by_hand(made: GRUD, series: Single, end: float) -> Tensor:
    """Che et al. 2018, equations 2 and 10 to 18, feature by feature; silent rows left out.

    The time since an observation starts at the first row.
    """
    times, values, masks = series
    seen = [i for i, mask in enumerate(masks) if any(mask)]
    rate, offset = made.input_decay.tolist()
    mean = made.mean.tolist()
    hidden = torch.zeros(HIDDEN, dtype=DTYPE)
    last, delta = list(mean), [0.0] * FEATURES

    def decay(pre: Tensor) -> Tensor:
        return torch.exp(-torch.maximum(torch.zeros_like(pre), pre))

    def decayed() -> Tensor:
        since = torch.tensor(delta, dtype=DTYPE)
        return hidden * decay(made.hidden_decay.weight @ since + made.hidden_decay.bias)

    before = None
    for i in seen:
        if before is not None:
            delta = [
                times[i] - times[before] + (0.0 if masks[before][d] else delta[d])
                for d in range(FEATURES)
            ]
        x = []
        for d in range(FEATURES):
            share = float(decay(torch.tensor(rate[d] * delta[d] + offset[d], dtype=DTYPE)))
            filled = share * last[d] + (1 - share) * mean[d]
            x.append(values[i][d] if masks[i][d] else filled)
            last[d] = values[i][d] if masks[i][d] else last[d]
        inputs = torch.tensor([*x, *(float(m) for m in masks[i])], dtype=DTYPE)
        hidden = gru(inputs, decayed(), made.cell)
        before = i
    if before is not None:
        delta = [
            end - times[before] + (0.0 if masks[before][d] else delta[d]) for d in range(FEATURES)
        ]
    return decayed()


def ode_rnn_by_hand(made: ODERNN, series: Single, end: float) -> Tensor:
    """Rubanova et al. 2019, algorithm 1: solve from row to row, then the cell."""
    times, values, masks = series
    hidden, now = torch.zeros(HIDDEN, dtype=DTYPE), None

    def flow(hidden: Tensor, start: float, until: float) -> Tensor:
        if start == until:
            return hidden

        def field(t: Tensor, h: Tensor) -> Tensor:
            return made.field((t - start).expand(1), h)

        solution = ic.solve(
            field, hidden[None], start, until, solver="dop853", rtol=1e-12, atol=1e-12
        )
        return solution.ys[-1][0]

    for time, value, mask in zip(times, values, masks, strict=True):
        if not any(mask):
            continue
        hidden = hidden if now is None else flow(hidden, now, time)
        inputs = torch.tensor([*value, *(float(m) for m in mask)], dtype=DTYPE)
        hidden, now = gru(inputs, hidden, made.cell), time
    return hidden if now is None else flow(hidden, now, end)


def rnn_by_hand(made: RNN, series: Single, end: float) -> Tensor:
    """Chen et al. 2018, section 5.1: each step reads a row, and the time to the next."""
    times, values, masks = series
    network = made.network
    w, u, b, c = network.all_weights[0]
    hidden = torch.zeros(HIDDEN, dtype=DTYPE)
    row = [0.0] * 2 * FEATURES
    now = None
    for time, following in zip(
        [*times, end if times else 0.0], [*zip(values, masks, strict=True), None], strict=True
    ):
        gap = 0.0 if now is None else time - now
        seen = row if made.mask else row[:FEATURES]
        inputs = torch.tensor([*seen, gap / made.unit] if made.time else seen, dtype=DTYPE)
        if isinstance(network, nn.GRU):
            cell = nn.GRUCell(len(inputs), HIDDEN, dtype=DTYPE)
            cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh = w, u, b, c
            hidden = gru(inputs, hidden, cell)
        else:
            hidden = torch.tanh(w @ inputs + b + u @ hidden + c)
        if following is not None:
            value, mask = following
            row, now = [*value, *(float(m) for m in mask)], time
    return hidden


BY_HAND: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(STEPPING, rnn_by_hand),
    "gru_d": gru_d_by_hand,
    "ode_rnn": ode_rnn_by_hand,
}


@pytest.mark.parametrize("name", RECURRENCES)
def test_against_a_transcription(name: str) -> None:
    made, batch = recurrence(name), ragged((12, 1, 0, 9), observed=0.5, seed=2)
    if isinstance(made, ODERNN):
        made.solver, made.rtol, made.atol, made.dt0 = "dop853", 1e-12, 1e-12, None
    with torch.no_grad():
        _, last = made.trace(Rows.forward(batch, 1.9))
        for series in range(len(batch)):
            close(last[series], BY_HAND[name](made, single(batch, series), 1.9))


@pytest.mark.parametrize("name", RECURRENCES)
def test_a_state_before_a_row_has_not_seen_it(name: str) -> None:
    """Those before each row are those after the rows before, at its time."""
    made, batch = recurrence(name), ragged((5, 3), observed=2.0)
    with torch.no_grad():
        before, _ = made.trace(Rows.forward(batch))
        for row in range(3):
            shorter = batch.select(torch.arange(batch.rows).expand(2, -1) < row)
            _, last = made.trace(Rows.forward(shorter, batch.times[:, row]))
            close(before[:, row], last)


@pytest.mark.parametrize("name", FLOWING)
def test_two_spans_of_time_are_their_sum(name: str) -> None:
    """Also for a field that sees the time since the row: it began anew with each span."""
    made = recurrence(name)
    if isinstance(made, ODERNN):
        made.solver, made.rtol, made.atol, made.dt0 = "dop853", 1e-12, 1e-12, None
    batch = ragged((4, 4, 4), observed=0.5)
    a, b = torch.tensor([0.3, 0.0, 1.2], dtype=DTYPE), torch.tensor([0.4, 0.5, 0.0], dtype=DTYPE)
    with torch.no_grad():
        memory = made.observe(made.start(3, batch.values), batch.values[:, 0], batch.mask[:, 0])
        twice = made.hidden_state(made.advance(made.advance(memory, a), b))
        close(twice, made.hidden_state(made.advance(memory, a + b)))
        still = made.hidden_state(made.advance(memory, torch.zeros_like(a)))
        close(still, made.hidden_state(memory))


@pytest.mark.parametrize("name", FLOWING)
def test_rows_that_observe_nothing_are_no_rows(name: str) -> None:
    """Nor does time pass where nothing was ever observed: such a series is an empty one."""
    made, batch = recurrence(name), ragged((4, 0))
    silent = batch.hidden(torch.zeros_like(batch.mask))
    for rows in both_ways(silent):
        before, last = made.trace(rows)
        close(last[0], last[1], 0.0)
        close(before[0], last[:1].expand(4, -1), 0.0)


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_an_rnn_without_times_does_not_see_them(cell: str) -> None:
    batch = ragged()
    later = IrregularBatch(2 * batch.times, batch.values, batch.mask, batch.lengths)
    for time in (False, True):
        made = stirred(RNN(FEATURES, HIDDEN, cell, time=time))
        apart = made.trace(Rows.forward(later))[1] - made.trace(Rows.forward(batch))[1]
        assert bool(apart.any()) == time


def test_every_parameter_of_a_new_recurrence_learns() -> None:
    """GRU-D's rates of decay began at 0, where a ramp has no slope, and stayed there."""
    batch = ragged((6, 5, 7), observed=0.6)
    for name, make in RECURRENCES.items():
        torch.manual_seed(0)
        made: Recurrence = make(FEATURES).to(DTYPE)
        _, last = made.trace(Rows.forward(batch, 1.9))
        last.square().sum().backward()
        for key, parameter in made.named_parameters():
            assert parameter.grad is not None, (name, key)
            assert bool(parameter.grad.any()), (name, key)


@torch.no_grad()
def test_evaluations_of_all_gaps_are_counted() -> None:
    made = recurrence("ode_rnn")
    made.trace(Rows.forward(ragged(observed=2.0), 1.9))
    first = made.nfe_forward
    assert first == 8 * 2 * 2, "7 gaps and one after them, two steps of two stages in each"
    made.trace(Rows.forward(ragged(observed=2.0), 1.9))
    assert made.nfe_forward == first
