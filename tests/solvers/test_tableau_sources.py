"""Coefficients are those of their sources, as far as order conditions do not say so."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from isocline.solvers.tableau import Number, Row, difference, matrix, rationals
from isocline.solvers.tableaus import TABLEAUS
from isocline.solvers.tableaus.dop853 import DOP853
from isocline.solvers.tableaus.rdpk3sp_fsal35 import RDPK3SP_FSAL35
from isocline.solvers.tableaus.tsit5 import TSIT5

from .rooted_trees import density, float_phi, size, symmetry, trees_up_to
from .tables import dense


def companion(name: str, times: int = 1) -> Row:
    """b_hat, the weights that the solution is compared with, if the table has so many times it."""
    table = TABLEAUS[name]
    return difference(table.b, tuple(Fraction(x, times) for x in table.error[0]))


# --- SciPy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scipy_name"), [("bosh3", "RK23"), ("dopri5", "RK45"), ("dop853", "DOP853")]
)
def test_coefficients_are_those_of_scipy(name: str, scipy_name: str) -> None:
    table = TABLEAUS[name]
    peer: Any = getattr(pytest.importorskip("scipy.integrate._ivp.rk"), scipy_name)
    s = peer.n_stages  # SciPy leaves the last stage, f(t1, y1), out of A, B and C
    assert (table.order, table.error_order) == (peer.order, peer.error_estimator_order)
    np.testing.assert_array_equal(dense(table.a[:s], s)[:, : peer.A.shape[1]], peer.A)
    np.testing.assert_array_equal(np.array(table.b[:s], float), peer.B)
    np.testing.assert_array_equal(np.array(table.c[:s], float), peer.C)
    errors = dense(table.error, s + 1)
    if name == "dop853":
        np.testing.assert_array_equal(dense(table.extra_a[1:], 16), peer.A_EXTRA)
        np.testing.assert_array_equal(np.array(table.extra_c[1:], float), peer.C_EXTRA)
        np.testing.assert_allclose(errors, [peer.E5, peer.E3], rtol=0, atol=1e-15)
    else:
        np.testing.assert_allclose(errors, [-peer.E], rtol=0, atol=1e-17)  # its E is b_hat - b
        np.testing.assert_allclose(dense(table.interpolant), peer.P, rtol=1e-15)


def test_dop853_interpolates_as_scipy_does() -> None:
    rk = pytest.importorskip("scipy.integrate._ivp.rk")
    k = np.linspace(-1.0, 2.0, 16) ** 3
    h, y = 0.25, 1.5
    weights = dense(DOP853.interpolant)
    ours = [y + h * weights.T @ k @ theta ** np.arange(1, 8) for theta in (0.0, 0.3, 0.9, 1.0)]
    delta = h * np.array(DOP853.b, float) @ k[:12]
    lower = [delta, h * k[0] - delta, 2 * delta - h * (k[12] + k[0])]
    nested = np.array([*lower, *(h * rk.DOP853.D @ k)])[:, None]
    output = rk.Dop853DenseOutput(0.0, h, np.array([y]), nested)
    theirs = [output(theta * h)[0] for theta in (0.0, 0.3, 0.9, 1.0)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_tsit5_is_the_published_one() -> None:
    # Order conditions leave a family open; these are the members that the paper names, and its
    # interpolant as OrdinaryDiffEq.jl prints it.
    assert TSIT5.c[1:4] == rationals("0.161", "0.327", "0.9")
    assert TSIT5.b[1] == Fraction("0.01")
    assert TSIT5.error[0][6] == Fraction("-1/66")
    published = [
        [1, -2.763706197274826, 2.9132554618219126, -1.0530884977290216],
        [0, 0.1317, -0.2234, 0.1017],
        [0, 3.9302962368947516, -5.941033872131505, 2.490627285651253],
        [0, -12.411077166933676, 30.33818863028232, -16.548102889244902],
        [0, 37.50931341651104, -88.1789048947664, 47.37952196281928],
        [0, -27.896526289197286, 65.09189467479366, -34.87065786149661],
        [0, 1.5, -4, 2.5],
    ]
    np.testing.assert_allclose(dense(TSIT5.interpolant), published, rtol=1e-15)


# --- what papers print -----------------------------------------------------------------------


def test_companions_are_the_published_ones() -> None:
    assert companion("heuneuler") == (1, 0)
    assert companion("fehlberg2", times=50) == rationals("1/256", "255/256", 0)
    assert companion("ssprk432", times=4) == (Fraction(1, 4),) * 4
    shampine = ("1951/21600", 0, "22642/50085", "451/720", "-12231/42400", "649/6300", "1/60")
    assert companion("dopri5shampine") == rationals(*shampine)
    bs5 = ("2479/34992", 0, "123/416", "612941/3411720", "43/1440", "2272/6561", "79937/1113912")
    # Its last weight is what b_hat lacks to 1.
    assert companion("bs5")[:7] == rationals(*bs5)
    vern6 = rationals(
        "124310637869885675646798613/2890072468789466426596827670",
        "265863151737164990361330921875/1113197271463372303940319369579",
        "3075493557174030806536302953125/6843749922042323876546949699876",
        "67798000008733879813263055/29532792147666737550036372",
        "-1099436585155390846238326375/15055706496446408859196167",
        "26171252653086373181571802/368794478890732346033505",
        "1/30",
    )
    assert companion("vern6") == (vern6[0], 0, 0, *vern6[1:])
    assert companion("vern7")[0] == pytest.approx(117807213929927 / 2640907728177740, rel=1e-15)
    assert companion("vern9")[15] == pytest.approx(
        1839190071060649887127895100784 / 38045139523510634351420875415397, rel=1e-15
    )


def test_dopri5_shampine_is_dopri5_but_for_the_companion() -> None:
    ours, classic = TABLEAUS["dopri5shampine"], TABLEAUS["dopri5"]
    assert (ours.a, ours.b, ours.c) == (classic.a, classic.b, classic.c)
    assert ours.interpolant == classic.interpolant
    # torchdiffeq's value in the middle of a step, twice over.
    middle = rationals(
        "6025192743/30085553152",
        0,
        "51252292925/65400821598",
        "-2691868925/45128329728",
        "187940372067/1594534317056",
        "-1776094331/19743644256",
        "11237099/235043384",
    )
    half = [
        2 * sum(x * Fraction(1, 2) ** (m + 1) for m, x in enumerate(row))
        for row in ours.interpolant
    ]
    np.testing.assert_allclose(np.array(half, float), np.array(middle, float), rtol=0, atol=1e-12)


NODES = {
    "bs5": "0 1/6 2/9 3/7 2/3 3/4 1 1 1/2 5/6 1/9;",
    "vern6": "0 3/50 1439/15000 1439/10000 4973/10000 389/400 1999/2000 1 1 1/2 207/250 7/25;",
    "vern7": "0 1/200 49/450 49/300 911/2000 3480084980/5709648941 221/250 37/40 1 1 1 29/100 1/8 "
    "1/4 53/100 79/100;",
    "vern8": "0 1/20 341/3200 1023/6400 39/100 93/200 31/200 943/1000 7067558016280/7837150160667 "
    "909/1000 47/50 1 1 1;",
    "dopri8": "0 1/18 1/12 1/8 5/16 3/8 59/400 93/200 5490023248/9719169821 13/20 "
    "1201146811/1299019798 1 1 1;",
}


@pytest.mark.parametrize("name", NODES)
def test_nodes_are_the_published_ones(name: str) -> None:
    (published,) = matrix(NODES[name])
    table = TABLEAUS[name]
    nodes = (*table.c, *table.extra_c)[: len(published)]
    assert max(abs(x - y) for x, y in zip(nodes, published, strict=True)) < Fraction(1, 10**17)


def test_nodes_of_vern9_have_the_root_of_six() -> None:
    table = TABLEAUS["vern9"]
    c = table.c
    plain = rationals("1731/50000", "561/1000", "129/200", "387/800", "6757/100000", "1/4")
    assert (c[1], c[4], c[7], c[8], c[9], c[10]) == plain
    for node, middle, factor in (
        (c[2], "7630049/53810000", "-983539/53810000"),
        (c[5], "387/1000", "-129/2000"),
        (c[6], "387/1000", "129/2000"),
    ):
        root = (node - Fraction(middle)) / Fraction(factor)
        assert abs(root**2 - 6) < Fraction(1, 10**36)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        # In the names of his files, such as RKV76.IIa.Efficient.00001675585.
        ("vern6", 1.44617e-6),
        ("vern7", 1.675585e-5),
        ("vern8", 2.82866e-7),
        ("vern9", 3.49e-7),
        # Dormand and Prince (1980), table 2.
        ("dopri5", 3.99e-4),
    ],
)
def test_principal_error_is_the_published_one(name: str, norm: float) -> None:
    table = TABLEAUS[name]
    nodes = table.order + 1
    phi = float_phi(dense(table.a, table.stages), nodes)
    misses = [
        (row @ np.array(table.b, float) - 1 / density(tree)) / symmetry(tree)
        for tree, row in zip(trees_up_to(nodes), phi, strict=True)
        if size(tree) == nodes
    ]
    assert np.linalg.norm(misses) == pytest.approx(norm, rel=5e-4)


def test_vern7_leaves_verners_other_rows_as_they_are() -> None:
    # Row 12 and the interpolant are repaired: as published, that row begins as below.
    table = TABLEAUS["vern7"]
    first = rationals(
        "0.5232227691599689815470932256735029887614e-1",
        "0.5305334125785908638834747243817578898946e-1",
        "0.3887903257436303686399931060834951327899e-1",
        "0.5723681204690012909606837582140921695189e-1",
        "0.5137203880275681426595607279552927584506e-1",
    )
    differences = [row[0] - x for row, x in zip(table.extra_a[1:], first, strict=True)]
    assert [abs(x) < Fraction(1, 10**40) for x in differences] == [True, False, True, True, True]
    assert abs(differences[1]) < Fraction(1, 10**5)


# Rows 1 to 12 of a, b and b_hat of Prince and Dormand's RK8(7)13M.
DOPRI8 = """
1/18;
1/48 1/16;
1/32 0 3/32;
5/16 0 -75/64 75/64;
3/80 0 0 3/16 3/20;
29443841/614563906 0 0 77736538/692538347 -28693883/1125000000 23124283/1800000000;
16016141/946692911 0 0 61564180/158732637 22789713/633445777 545815736/2771057229
-180193667/1043307555;
39632708/573591083 0 0 -433636366/683701615 -421739975/2616292301 100302831/723423059
790204164/839813087 800635310/3783071287;
246121993/1340847787 0 0 -37695042795/15268766246 -309121744/1061227803 -12992083/490766935
6005943493/2108947869 393006217/1396673457 123872331/1001029789;
-1028468189/846180014 0 0 8478235783/508512852 1311729495/1432422823 -10304129995/1701304382
-48777925059/3047939560 15336726248/1032824649 -45442868181/3398467696 3065993473/597172653;
185892177/718116043 0 0 -3185094517/667107341 -477755414/1098053517 -703635378/230739211
5731566787/1027545527 5232866602/850066563 -4093664535/808688257 3962137247/1805957418
65686358/487910083;
403863854/491063109 0 0 -5068492393/434740067 -411421997/543043805 652783627/914296604
11173962825/925320556 -13158990841/6184727034 3936647629/1978049680 -160528059/685178525
248638103/1413531060 0;
14005451/335480064 0 0 0 0 -59238493/1068277825 181606767/758867731 561292985/797845732
-1041891430/1371343529 760417239/1151165299 118820643/751138087 -528747749/2220607170 1/4;
13451932/455176623 0 0 0 0 -808719846/976000145 1757004468/5645159321 656045339/265891186
-3867574721/1518517206 465885868/322736535 53011238/667516719 2/45 0;
"""


def test_dopri8_is_the_published_one_to_the_digits_that_this_has() -> None:
    table = TABLEAUS["dopri8"]
    *a, b, b_hat = matrix(DOPRI8)
    ours: list[tuple[Number, ...]] = [*table.a[1:], table.b, companion("dopri8")]
    for row, published in zip(ours, [*a, b, b_hat], strict=True):
        for x, y in zip(row, published, strict=True):
            assert (x == 0) is (y == 0)
            assert abs(x - y) < Fraction(8, 10**18)
            assert float(x) == pytest.approx(float(y), rel=2.3e-16)


def test_rdpk3sp_fsal35_has_the_published_weights() -> None:
    # The source prints b as well as the registers that it follows from.
    published = rationals(
        "1.147935971023541171733601324486904546e-01",
        "8.933442853113315592708384523126474636e-02",
        "4.355871025008616992483722693795608738e-01",
        "2.473576188201451146729725866810402672e-01",
        "1.129272530455059129782111662594436580e-01",
        0,
    )
    misses = difference(RDPK3SP_FSAL35.b, published)
    assert max(map(abs, misses)) < Fraction(1, 10**36)


def test_a_step_in_registers_is_the_step_of_the_table() -> None:
    # S2 += delta S1; S1 = gamma_1 S1 + gamma_2 S2 + gamma_3 S3 + beta h k, on y' = y.
    from isocline.solvers.tableaus.rdpk3sp_fsal35 import _REGISTERS

    h, y = Fraction(1, 8), Fraction(1)
    first, second, weight_1, weight_2 = y, Fraction(0), Fraction(1), Fraction(0)
    for gamma1, gamma2, beta, delta in _REGISTERS:
        second, weight_2 = second + delta * first, weight_2 + delta * weight_1
        gamma3 = 1 - gamma1 * weight_1 - gamma2 * weight_2
        first = gamma1 * first + gamma2 * second + gamma3 * y + beta * h * first
        weight_1 = Fraction(1)
    table = RDPK3SP_FSAL35
    slopes: list[Fraction] = []
    for row in table.a:
        slopes.append(y + h * sum(x * k for x, k in zip(row, slopes, strict=True)))
    assert first == y + h * sum(x * k for x, k in zip(table.b, slopes, strict=True))
