"""A sample's answer and gradient do not depend on its batch: alone, in any order, among any."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import isocline as ic

from .lane_cases import (
    ADJOINTS,
    BATCH,
    CONTINUOUS,
    EXPLICIT,
    Net,
    chosen,
    gradients,
    inputs,
    off,
    oscillator,
    solved,
)

SOLVERS = pytest.mark.parametrize("method", EXPLICIT, ids=lambda method: method.__name__)
WEIGHTS = torch.cos(torch.arange(2.0 * BATCH, dtype=torch.float64)).view(BATCH, 2)
COMPANIES = [[0], [4], [5, 0], [3, 1, 2], [5, 4, 3, 2, 1, 0], [2, 2, 0, 2]]


def tolerances(method: Any) -> dict[str, float]:
    """Such that methods of low order need a hundred steps or so."""
    tol = max(1e-8, 40.0 ** -float(method().error_order))
    return {"rtol": tol, "atol": tol}


@SOLVERS
def test_answers_are_the_same_bits_in_every_company(method: Any) -> None:
    every = inputs()
    options = {"solver": method(), **tolerances(method), "save": ic.SaveAt(steps=True)}
    with torch.no_grad():
        among = solved(oscillator, every, **options)
        for company in COMPANIES:
            found = solved(oscillator, chosen(every, company), **options)
            for place, sample in enumerate(company):
                count = int(among.lengths[sample])
                assert int(found.lengths[place]) == count
                assert torch.equal(found.ys[:count, place], among.ys[:count, sample])
                assert torch.equal(found.ts[:count, place], among.ts[:count, sample])
                counts, expected = found.stats.samples, among.stats.samples
                if method.tableau.fsal:  # others look anew at the start when anyone goes on
                    assert counts.nfe[place] == expected.nfe[sample]
                assert counts.steps_rejected[place] == expected.steps_rejected[sample]


@SOLVERS
@pytest.mark.parametrize("adjoint", [*ADJOINTS, *CONTINUOUS])
def test_gradients_are_the_same_in_every_company(method: Any, adjoint: str) -> None:
    torch.manual_seed(1)
    field, every = Net(), inputs()
    tol = max(1e-6, 8.0 ** -float(method().error_order))
    options = {
        "solver": method(),
        "rtol": tol,
        "atol": tol,
        "adjoint": (ADJOINTS | CONTINUOUS)[adjoint],
    }
    end, among = gradients(field, every, WEIGHTS, **options)
    totals = {name: torch.zeros_like(p) for name, p in field.named_parameters()}
    for company in ([0], [5, 4, 1, 3, 2]):
        own = WEIGHTS[company]
        part, found = gradients(field, chosen(every, company), own, **options)
        assert off(part, end[company]) < 1e-13
        for name in every:
            assert off(found[name], among[name][company]) < 1e-13, name
        for name in totals:
            totals[name] += found[name]
    for name, total in totals.items():  # what the samples are worth to a parameter adds up
        assert off(total, among[name]) < 1e-13, name


@settings(max_examples=10)
@given(order=st.permutations(range(BATCH)), length=st.integers(1, BATCH))
def test_any_part_of_a_batch_in_any_order(order: list[int], length: int) -> None:
    every, company = inputs(), order[:length]
    with torch.no_grad():
        among = solved(oscillator, every).ys[-1]
        assert torch.equal(solved(oscillator, chosen(every, company)).ys[-1], among[company])


@pytest.mark.parametrize("controller", [ic.PI(), ic.PID(derivative=0.1), ic.PID(max_step=0.05)])
def test_controllers_with_a_history_keep_it_for_each_lane(controller: ic.PID) -> None:
    every = inputs()
    with torch.no_grad():
        among = solved(oscillator, every, controller=controller).ys[-1]
        for sample in range(BATCH):
            alone = solved(oscillator, chosen(every, [sample]), controller=controller).ys[-1]
            assert torch.equal(alone[0], among[sample])


@SOLVERS
def test_a_sample_alone_goes_as_joint_stepping_takes_it(method: Any) -> None:
    every = inputs()
    options = {"solver": method(), **tolerances(method), "save": ic.SaveAt(steps=True)}
    with torch.no_grad():
        for sample in range(BATCH):
            given = chosen(every, [sample])
            own = solved(oscillator, given, **options)
            t0, t1 = given["t0"][0], given["t1"][0]
            joint = ic.solve(oscillator, given["y0"], t0, t1, args=(given["mu"],), **options)
            counts = own.stats.samples
            # Where a first step's error is next to rounding, so is the choice of the second.
            assert abs(joint.stats.steps_accepted - int(counts.steps_accepted[0])) <= 1
            assert abs(joint.stats.steps_rejected - int(counts.steps_rejected[0])) <= 1
            assert off(own.ys[-1], joint.ys[-1]) < 10 * options["rtol"]


def test_float32_and_structured_states_too() -> None:
    def field(t: Tensor, state: dict[str, Tensor], mu: Tensor) -> dict[str, Tensor]:
        slope = oscillator(t, state["xv"], mu)
        return {"xv": slope, "work": (slope[:, 1] * state["xv"][:, 1]).abs()}

    every = inputs()
    y0 = {"xv": every["y0"].detach().float(), "work": torch.zeros(BATCH)}
    mu = every["mu"].detach().float()

    def run(rows: list[int]) -> ic.Solution:
        start = {name: leaf[rows] for name, leaf in y0.items()}
        return ic.solve(
            field, start, 0.0, 2.0, args=(ic.PerSample(mu[rows]),), stepping="per_sample"
        )

    among = run(list(range(BATCH)))
    assert among.ys["xv"].shape == (1, BATCH, 2)
    assert among.ys["work"].shape == (1, BATCH)
    assert among.ys["xv"].dtype == torch.float32
    for company in COMPANIES:
        found = run(company)
        assert torch.equal(found.ys["xv"][0], among.ys["xv"][0, company])
        assert torch.equal(found.ys["work"][0], among.ys["work"][0, company])
