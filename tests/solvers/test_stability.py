"""Methods whose names promise stability: SSPRK432, RDPK3SpFSAL35 and RKC."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import isocline as ic
from isocline.problem import PackedField
from isocline.solvers.explicit import explicit
from isocline.solvers.tableau import Row, Tableau
from isocline.solvers.tableaus import TABLEAUS
from isocline.solvers.tableaus.rkc import rkc2
from isocline.state import Packing

from ..known import fixed, knotted, unknotted
from .tables import dense

Complex = NDArray[np.complex128]


def amplification(table: Tableau, z: Any) -> Complex:
    """R(z): what a step makes of y = 1 where y' = (z / h) y."""
    z = np.asarray(z, complex)
    slopes = np.zeros((table.stages, *z.shape), complex)
    for i, row in enumerate(dense(table.a, table.stages)):
        slopes[i] = z * (1 + np.tensordot(row, slopes, 1))
    return 1 + np.tensordot(np.array(table.b, float), slopes, 1)


# --- strong stability ------------------------------------------------------------------------


def keeps_bounds(table: Tableau, weights: Row, radius: Fraction) -> bool:
    """Whether stages and result are convex combinations of steps of Euler of length h / radius.

    With the rows of a and the weights as one lower triangular matrix K: P = (I + r K)^-1 has
    r K P >= 0 and P e >= 0 (Kraaijevanger 1991, theorem 4.2). Row i of P follows from those before.
    """
    rows = [*table.a, weights]
    inverse: list[list[Fraction]] = []
    for i, row in enumerate(rows):
        sums = [
            sum((radius * x * inverse[k][j] for k, x in enumerate(row)), Fraction(0))
            for j in range(len(rows))
        ]
        if any(x < 0 for x in sums):
            return False
        inverse.append([int(i == j) - x for j, x in enumerate(sums)])
    return all(sum(row) >= 0 for row in inverse)


def interpolated(table: Tableau, theta: Fraction) -> Row:
    return tuple(sum(x * theta ** (m + 1) for m, x in enumerate(row)) for row in table.interpolant)


def test_ssprk432_keeps_bounds_at_twice_the_step_of_euler() -> None:
    table = TABLEAUS["ssprk432"]
    assert keeps_bounds(table, table.b, Fraction(2))
    assert not keeps_bounds(table, table.b, Fraction(201, 100))
    euler, rk4 = TABLEAUS["euler"], TABLEAUS["rk4"]
    assert keeps_bounds(euler, euler.b, Fraction(1))
    assert not keeps_bounds(euler, euler.b, Fraction(101, 100))
    assert not keeps_bounds(rk4, rk4.b, Fraction(1, 100))


@pytest.mark.parametrize("part", range(1, 20))
def test_ssprk432_keeps_bounds_between_steps(part: int) -> None:
    table = TABLEAUS["ssprk432"]
    assert keeps_bounds(table, interpolated(table, Fraction(part, 20)), Fraction(2))


def transport(t: Tensor, y: Tensor) -> Tensor:
    """Upwind differences of u_t + u_x = 0 on a ring: Euler keeps the variation up to h = 1."""
    return y.roll(1) - y


def variation(rows: Tensor) -> Tensor:
    return (rows - rows.roll(1, -1)).abs().sum(-1)


def test_a_jump_stays_a_jump_under_ssprk432_alone() -> None:
    y0 = torch.zeros(60, dtype=torch.float64)
    y0[10:30] = 1
    ts = torch.linspace(0, 12, 49, dtype=torch.float64)

    def worst(method: type) -> float:
        options = fixed(method, 2.0)
        sol = ic.solve(transport, y0, 0, 12, save=ic.SaveAt(ts=ts), **options)
        return float(variation(sol.ys).max() - variation(y0))

    assert worst(ic.SSPRK432) < 1e-12
    assert worst(ic.RK4) > 1e-2


# --- flow fields -----------------------------------------------------------------------------

CIRCLE = np.exp(1j * np.linspace(0.05, 2 * np.pi - 0.05, 91)) - 1  # upwind transport
REAL = np.linspace(-1, -1e-3, 91)


def reach(table: Tableau, spectrum: Any) -> float:
    """How far a spectrum can be stretched before a mode grows, for one evaluation each."""
    length = 0.0
    while np.abs(amplification(table, (length + 0.01) * spectrum)).max() < 1 + 1e-9:
        length += 0.01
    return length / table.evaluations_per_step


@pytest.mark.parametrize("spectrum", [CIRCLE, REAL], ids=["convection", "dissipation"])
def test_rdpk3sp_fsal35_steps_further_than_others_of_its_order(spectrum: Any) -> None:
    far = reach(TABLEAUS["rdpk3spfsal35"], spectrum)
    for name in ("bosh3", "heun3", "dopri5", "tsit5"):
        assert far > 1.15 * reach(TABLEAUS[name], spectrum), name


# --- diffusion -------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [2, 3, 4, 5, 7, 10, 14])
def test_rkc_is_stable_on_an_interval_that_grows_with_the_square(stages: int) -> None:
    table = rkc2(stages)
    length = 0.65 * (stages**2 - 1)
    z = -np.linspace(0, length, 4001)
    grown = np.abs(amplification(table, z))
    assert grown.max() <= 1 + 1e-10
    # Damped inside, by about epsilon / 3.
    assert grown[z < -1].max() < 1 - 0.8 * (2 / 13) / 3
    assert np.abs(amplification(table, -0.8 * (stages**2 - 1))) > 1.05


@pytest.mark.parametrize("stages", [2, 3, 6, 10])
def test_rkc_steps_as_its_table_says(stages: int) -> None:
    packing = Packing.of(unknotted(0.3))
    field, y = PackedField(knotted, packing), unknotted(0.3).reshape(-1)
    methods: list[Any] = [ic.RKC(stages), explicit(rkc2(stages))()]
    steppers = [method.bind(field, packing) for method in methods]
    times = torch.linspace(0.3, 0.5, 9, dtype=torch.float64)
    ours, table = (stepper.step(0.3, 0.5, y, None) for stepper in steppers)
    torch.testing.assert_close(ours.y1, table.y1, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.errors[0], table.errors[0], rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(ours.dense().at(times), table.dense().at(times), rtol=0, atol=1e-12)


def test_the_recurrence_of_rkc_keeps_digits_that_its_table_loses() -> None:
    # The table's rows cancel in stiff components: at 20 stages that costs four digits.
    stages = 20
    z = -torch.linspace(0, 0.64 * (stages**2 - 1), 200, dtype=torch.float64)
    y = torch.ones_like(z)

    def stepped(method: Any, dtype: torch.dtype) -> Tensor:
        stepper = method.bind(lambda t, y: z.to(y) * y, Packing.of(y.to(dtype)))
        return stepper.step(0.0, 1.0, y.to(dtype), None).y1.double()

    recurrence, table = ic.RKC(stages), explicit(rkc2(stages))()
    exact = stepped(recurrence, torch.float64)
    torch.testing.assert_close(exact, stepped(table, torch.float64), rtol=0, atol=1e-10)
    lost = [(stepped(m, torch.float32) - exact).abs().max().item() for m in (recurrence, table)]
    assert lost[0] < 5e-5 < 5e-4 < lost[1]


def heat(t: Tensor, y: Tensor) -> Tensor:
    """Second differences on (0, 1) with zero ends."""
    padded = torch.cat([y.new_zeros(1), y, y.new_zeros(1)])
    return (padded[2:] - 2 * y + padded[:-2]) * (len(y) + 1) ** 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_rkc_solves_a_diffusion_in_fewer_evaluations(dtype: torch.dtype) -> None:
    points = 60
    x = torch.arange(1, points + 1, dtype=torch.float64) / (points + 1)
    modes = {k: (2 * (points + 1) * math.sin(k * math.pi / 2 / (points + 1))) ** 2 for k in (1, 3)}
    y0 = torch.stack([torch.sin(k * torch.pi * x) for k in modes]).sum(0)
    y1 = torch.stack(
        [torch.sin(k * torch.pi * x) * math.exp(-rate * 0.1) for k, rate in modes.items()]
    ).sum(0)
    evaluations = {}
    for solver in (ic.RKC(stages=14), ic.Tsit5(), ic.Bosh3()):
        with torch.no_grad():
            sol = ic.solve(heat, y0.to(dtype), 0.0, 0.1, solver=solver, rtol=1e-4, atol=1e-5)
        assert (sol.ys[-1] - y1).abs().max() < 1e-4
        evaluations[solver.name] = sol.stats.nfe_forward
    assert 2.5 * evaluations["RKC"] < min(evaluations["Tsit5"], evaluations["Bosh3"])


@pytest.mark.parametrize("stages", [1, 0, -3, 2.0, True, "ten"])
def test_rkc_takes_two_stages_or_more(stages: Any) -> None:
    with pytest.raises(ic.InputError, match=r"`stages`: given .*; expected a whole"):
        ic.RKC(stages)


def test_rkc_says_what_a_step_costs() -> None:
    assert [ic.RKC(s).evaluations_per_step for s in (2, 17)] == [2, 17]
    assert ic.RKC(17).tableau is rkc2(17)
    assert ic.RKC() == ic.RKC(10) != ic.RKC(11)
