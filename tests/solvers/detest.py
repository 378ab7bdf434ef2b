"""DETEST: the 25 non-stiff problems of Hull, Enright, Fellen and Sedgwick (1972), and two orbits.

"Comparing numerical methods for ordinary differential equations", SIAM J. Numer. Anal. 9, 603-637;
written as in the package NSDTST of Enright and Pryce (1987, ACM Algorithm 648). A: single
equations; B: small systems; C: moderate ones; D: two bodies, of eccentricity 0.1 to 0.9; E:
equations of second order. All run from t = 0 to 20. Pleiades and Arenstorf's orbit are from Hairer,
Nørsett and Wanner (1993), sections II.10 and II.0.

A field is a function of (xp, t, y), where xp is `torch`, `numpy` or `jax.numpy`: one definition
serves every library that is compared. This module imports nothing of the tests, so that the
benchmarks, which put this folder on their path, can import it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["ARENSTORF", "DETEST", "PLEIADES", "Problem"]

Field = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Problem:
    """An initial value problem from t = 0.

    Attributes:
        name: as in the literature.
        field: (xp, t, y) -> dy/dt, y of shape (n,).
        y0: the start.
        end: the solution at t1, to 1e-15 relative to 1 + |y|.
        condition: how far an error of one tolerance (in the root mean square of error over
            1 + |y|), made where that is worst, can have carried the end away, in tolerances.
        t1: the end of the span.
    """

    name: str
    field: Field
    y0: tuple[float, ...]
    end: tuple[float, ...]
    condition: float
    t1: float = 20.0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The field in torch."""
        return self.field(torch, t, y)  # type: ignore[no-any-return]

    def start(self) -> Tensor:
        """The start in torch, float64."""
        return torch.tensor(self.y0, dtype=torch.float64)

    def error(self, y: Any) -> float:
        """How far `y` is from the end: the largest |error| / (1 + |y|) of the components.

        With rtol = atol = tol this is the error in units of what the tolerance allows, times tol.
        """
        pairs = zip(y.tolist(), self.end, strict=True)
        return max(abs(found - exact) / (1 + abs(exact)) for found, exact in pairs)


# --- A: single equations -------------------------------------------------------------------------


def a1(xp: Any, t: Any, y: Any) -> Any:
    """The negative exponential."""
    return -y


def a2(xp: Any, t: Any, y: Any) -> Any:
    """A special case of Riccati's equation."""
    return -0.5 * y * y * y


def a3(xp: Any, t: Any, y: Any) -> Any:
    """An oscillation."""
    return y * xp.cos(t)


def a4(xp: Any, t: Any, y: Any) -> Any:
    """A logistic curve."""
    return 0.25 * y * (1 - y / 20)


def a5(xp: Any, t: Any, y: Any) -> Any:
    """A spiral."""
    return (y - t) / (y + t)


# --- B: small systems ----------------------------------------------------------------------------


def b1(xp: Any, t: Any, y: Any) -> Any:
    """Two populations in conflict."""
    prey, hunters = y
    return xp.stack([2 * (prey - prey * hunters), prey * hunters - hunters])


def b2(xp: Any, t: Any, y: Any) -> Any:
    """A linear chemical reaction."""
    x, y, z = y
    return xp.stack([y - x, x - 2 * y + z, y - z])


def b3(xp: Any, t: Any, y: Any) -> Any:
    """A nonlinear chemical reaction."""
    x, y, _ = y
    return xp.stack([-x, x - y * y, y * y])


def b4(xp: Any, t: Any, y: Any) -> Any:
    """An integral surface of a torus."""
    x, y, z = y
    r = xp.sqrt(x * x + y * y)
    return xp.stack([-y - x * z / r, x - y * z / r, x / r])


def b5(xp: Any, t: Any, y: Any) -> Any:
    """Euler's rigid body without external forces."""
    x, y, z = y
    return xp.stack([y * z, -x * z, -0.51 * x * y])


# --- C: moderate systems -------------------------------------------------------------------------


def c1(xp: Any, t: Any, y: Any) -> Any:
    """A chain of radioactive decay, each link as fast as the last."""
    nothing = 0 * y[:1]
    return xp.concatenate([nothing, y[:-1]]) - xp.concatenate([y[:-1], nothing])


def c2(xp: Any, t: Any, y: Any) -> Any:
    """A chain of radioactive decay, the i-th link at rate i."""
    nothing, decay = 0 * y[:1], xp.arange(1, len(y)) * y[:-1]
    return xp.concatenate([nothing, decay]) - xp.concatenate([decay, nothing])


def c3(xp: Any, t: Any, y: Any) -> Any:
    """The heat equation on a grid; C4 is the same on 51 points."""
    nothing = 0 * y[:1]
    return xp.concatenate([y[1:], nothing]) - 2 * y + xp.concatenate([nothing, y[:-1]])


GRAVITY = 2.95912208286
SUN = 1.00000597682  # and the inner planets
OUTER = (
    0.000954786104043,
    0.000285583733151,
    0.0000437273164546,
    0.0000517759138449,
    0.00000277777777778,
)


def c5(xp: Any, t: Any, y: Any) -> Any:
    """The five outer planets around the sun, in coordinates that move with it."""
    q, velocity = y[:15].reshape(5, 3), y[15:]
    masses = xp.asarray(OUTER, dtype=y.dtype)[:, None]
    central = q / ((q * q).sum(-1) ** 1.5)[:, None]
    between = q - q[:, None]  # [j, k] = q_k - q_j
    # A body is at distance 1 from itself here, where the numerator is 0.
    cubes = ((between * between).sum(-1) + xp.eye(5)) ** 1.5
    pulls = (masses * between / cubes[:, :, None]).sum(1)
    # Equation j has -m_k central_k for k != j and -m_j central_j: together the same for all j.
    acceleration = GRAVITY * (pulls - SUN * central - (masses * central).sum(0))
    return xp.concatenate([velocity, acceleration.reshape(15)])


# --- D: orbits -----------------------------------------------------------------------------------


def d(xp: Any, t: Any, y: Any) -> Any:
    """Two bodies: an ellipse."""
    x, y, vx, vy = y
    cube = (x * x + y * y) ** 1.5
    return xp.stack([vx, vy, -x / cube, -y / cube])


# --- E: equations of second order ----------------------------------------------------------------


def e1(xp: Any, t: Any, y: Any) -> Any:
    """Bessel's equation of order 1/2, its origin shifted by one."""
    x, v = y
    return xp.stack([v, -(v / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * x)])


def e2(xp: Any, t: Any, y: Any) -> Any:
    """Van der Pol's equation."""
    x, v = y
    return xp.stack([v, (1 - x * x) * v - x])


def e3(xp: Any, t: Any, y: Any) -> Any:
    """Duffing's equation."""
    x, v = y
    return xp.stack([v, x * x * x / 6 - x + 2 * xp.sin(2.78535 * t)])


def e4(xp: Any, t: Any, y: Any) -> Any:
    """A falling body."""
    _, v = y
    return xp.stack([v, 0.032 - 0.4 * v * v])


def e5(xp: Any, t: Any, y: Any) -> Any:
    """Linear pursuit."""
    _, v = y
    return xp.stack([v, xp.sqrt(1 + v * v) / (25 - t)])


# --- two orbits that are not of DETEST -----------------------------------------------------------

MOON = 0.012277471


def arenstorf(xp: Any, t: Any, y: Any) -> Any:
    """A satellite of earth and moon, in coordinates that turn with them."""
    x, y, vx, vy = y
    earth = ((x + MOON) ** 2 + y * y) ** 1.5
    moon = ((x - (1 - MOON)) ** 2 + y * y) ** 1.5
    ax = x + 2 * vy - (1 - MOON) * (x + MOON) / earth - MOON * (x - (1 - MOON)) / moon
    ay = y - 2 * vx - (1 - MOON) * y / earth - MOON * y / moon
    return xp.stack([vx, vy, ax, ay])


def pleiades(xp: Any, t: Any, y: Any) -> Any:
    """Seven stars in a plane, of masses 1 to 7; y = (x, y, x', y')."""
    places, velocities = y[:14].reshape(2, 7), y[14:]
    masses = xp.arange(1, 8)
    between = places[:, None, :] - places[:, :, None]  # [axis, j, k] = place of k - place of j
    cubes = ((between * between).sum(0) + xp.eye(7)) ** 1.5
    return xp.concatenate([velocities, (masses * between / cubes).sum(-1).reshape(14)])


# --- starts and ends -----------------------------------------------------------------------------
#
# The ends of A, B2, B4, B5, C1 to C4, D, E1, E4 and E5 come from closed forms (Kepler's equation,
# Jacobi's functions, matrix exponentials and the like) in 40 digits, and were met to 1e-17 by Gauss
# collocation of order 24 in 64-bit arithmetic. Those of the others are that collocation's; an
# extrapolated midpoint rule of order 18 in the same arithmetic agrees to 1e-16 (Pleiades: 1e-14;
# Arenstorf, which amplifies rounding a million times: 6e-13, and two collocations 2e-13). All of
# DETEST agree with the table of ACM Algorithm 648 to its 1e-12. They are the ends of the equations
# with their constants rounded to double precision, as every solver here sees them: with exact
# constants Arenstorf's orbit closes to 5e-14, and with rounded ones it misses its start by 5e-11.


def chain(n: int) -> tuple[float, ...]:
    """All in the first of n links."""
    return (1.0,) + (0.0,) * (n - 1)


def orbit(eccentricity: float) -> tuple[float, ...]:
    """The point nearest to the centre, of an orbit with half-axis 1."""
    return (1 - eccentricity, 0.0, 0.0, math.sqrt((1 + eccentricity) / (1 - eccentricity)))


PLANETS = (
    3.42947415189, 3.35386959711, 1.35494901715, 6.6414554255, 5.97156957878, 2.18231499728,
    11.2630437207, 14.6952576794, 6.27960525067, -30.1552268759, 1.65699966404, 1.43785752721,
    -21.123835338, 28.4465098142, 15.3882659679, -0.557160570446, 0.505696783289,
    0.230578543901, -0.415570776342, 0.365682722812, 0.169143213293, -0.325325669158,
    0.189706021964, 0.087726532278, -0.024047625417, -0.287659532608, -0.117219543175,
    -0.176860753121, -0.216393453025, -0.014864789309,
)  # fmt: skip

STARS = (
    3, 3, -1, -3, 2, -2, 2, 3, -3, 2, 0, 0, -4, 4,
    0, 0, 0, 0, 0, 1.75, -1.5, 0, 0, 0, -1.25, 1, 0, 0,
)  # fmt: skip

ENDS = {
    "A1": (2.061153622438558e-09,),
    "A2": (0.2182178902359924,),
    "A3": (2.4916502718504145,),
    "A4": (17.73016648131484,),
    "A5": (-0.7887826688964015,),
    "B1": (0.6761876008576606, 0.18608160996400297),
    "B2": (1.0000000010305767, 1.0, 0.9999999989694232),
    "B3": (2.061153622438558e-09, 0.05257228022048512, 0.9474277177183612),
    "B4": (0.982695092800653, 2.1984470816949298, 0.9129452507276277),
    "B5": (-0.9396570798729204, -0.342117775400075, 0.7414126596199954),
    "C1": (
        2.061153622438558e-09, 4.122307244877116e-08, 4.122307244877116e-07,
        2.7482048299180773e-06, 1.3741024149590386e-05, 5.496409659836154e-05,
        0.0001832136553278718, 0.0005234675866510623, 0.0013086689666276558, 0.997912740950865,
    ),
    "C2": (
        2.061153622438558e-09, 2.0611536181902037e-09, 2.061153613941849e-09,
        2.061153609693495e-09, 2.061153605445141e-09, 2.061153601196787e-09,
        2.0611535969484323e-09, 2.061153592700078e-09, 2.061153588451724e-09, 0.9999999814496175,
    ),
    "C3": (
        0.0029481192110226992, 0.005635380154845296, 0.007829072515927038, 0.009348257908595597,
        0.010079436103019805, 0.009982674171429489, 0.009088693332765333, 0.007489115195185085,
        0.005322964130952675, 0.0027624343790295146,
    ),
    "C4": (
        0.003124111453722103, 0.006015416842151323, 0.00847002183484361, 0.010336829317333924,
        0.011532495728739203, 0.012045495257379123, 0.011929570680152192, 0.011288832071111289,
        0.01025804501390988, 0.00898201758193417, 0.007597500902492728, 0.006219920556825367,
        0.004935916341009462, 0.003801432544256305, 0.00284421367758792, 0.0020691233942225834,
        0.0014646872828437804, 0.001009545263941004, 0.0006779354330226245,
        0.00044378152691182426, 0.00028332645429390634, 0.00017650057987970974,
        0.000107334259269755, 6.374497601779555e-05, 3.6986453097054486e-05,
        2.097466832644101e-05, 1.1629567104123481e-05, 6.306710405778984e-06,
        3.3462864308642114e-06, 1.737760074181166e-06, 8.83536690425763e-07, 4.39952041112023e-07,
        2.1461818971516788e-07, 1.0259812116573905e-07, 4.8078640688165e-08,
        2.2091751525026646e-08, 9.956251263332034e-09, 4.402193653863075e-09,
        1.910149382259889e-09, 8.13589292167481e-10, 3.402477118567461e-10,
        1.3974856174900842e-10, 5.638575302337239e-11, 2.235459707341519e-11,
        8.710498031903506e-12, 3.3365542723879094e-12, 1.2566795659787626e-12,
        4.654359042757128e-13, 1.6935591399749388e-13, 5.996593788386712e-14,
        1.8913306910279898e-14,
    ),
    "C5": (
        -4.792730224323636, -2.4205507254490213, -0.9212509306015115, -4.217310404035214,
        7.356202947498969, 3.223785985421211, 4.0355594432622715, 17.19865528670555,
        7.478910794233703, -29.987593263248442, -4.107310937550929, -0.9277008321754407,
        -24.42125302518483, 23.814590457465542, 14.920963069513588, 0.3499208963063996,
        -0.5748487687912803, -0.25516940208791444, -0.5237040978903326, -0.2493000463579663,
        -0.0804534164204447, -0.38752892373341097, 0.05648603288767891, 0.030236064721433416,
        0.04133856546712447, -0.2862393029841379, -0.11830324051362069, -0.15119864573592057,
        -0.24600688943187654, -0.03189687411323877,
    ),
    "D1": (0.21988353520084955, 0.9427076846341782, -0.9787659841058151, 0.3287977990962143),
    "D2": (-0.17770273571403278, 0.9467784719905884, -1.0302941631929712, 0.12110748900540413),
    "D3": (-0.5780432953035456, 0.8633840009194184, -0.9595083730380676, -0.06504915126712882),
    "D4": (-0.9538990293416171, 0.690740902421948, -0.8212674270877596, -0.15395742591257025),
    "D5": (-1.2952662509875885, 0.4003938963792291, -0.6775390924707452, -0.1270838154278723),
    "E1": (0.1456723600728247, -0.0988350019557458),
    "E2": (2.0081497621749484, -0.04250887527320214),
    "E3": (-0.10041788586472507, 0.2411400132095934),
    "E4": (33.95091444646556, 0.2767822659672868),
    "E5": (14.117973905426254, 2.4),
    "Pleiades": (
        0.37061391439705127, 3.237284092057233, -3.2225590324183235, 0.6597091455775308,
        0.342558170715658, 1.5621721014006311, -0.7003092922212496, -3.943437585517392,
        -3.27138097397255, 5.225081843456544, -2.5906124349774693, 1.1982136933922747,
        -0.24296823449358235, 1.0914492404289797, 3.4170038063143147, 1.3545845016255011,
        -2.5900655978107756, 2.025053734714241, -1.155815100160449, -0.8072988170223022,
        0.5952396354208718, -3.7412449612340084, 0.3773459685750629, 0.9386858869551078,
        0.36679222272005696, -0.3474046353808494, 2.344915448180937, -1.947020434263292,
    ),
    "Arenstorf": (
        0.993999999999909, -3.028962444335314e-13, -4.9253122657829176e-11, -2.001585106393261,
    ),
}  # fmt: skip

STARTS = {
    "A1": (a1, (1.0,), 1),
    "A2": (a2, (1.0,), 1),
    "A3": (a3, (1.0,), 2.7),
    "A4": (a4, (1.0,), 1),
    "A5": (a5, (4.0,), 17),
    "B1": (b1, (1.0, 3.0), 34),
    "B2": (b2, (2.0, 0.0, 1.0), 1.7),
    "B3": (b3, (1.0, 0.0, 0.0), 2.2),
    "B4": (b4, (3.0, 0.0, 0.0), 18),
    "B5": (b5, (0.0, 1.0, 1.0), 55),
    "C1": (c1, chain(10), 5.7),
    "C2": (c2, chain(10), 5.7),
    "C3": (c3, chain(10), 3.2),
    "C4": (c3, chain(51), 7.1),
    "C5": (c5, PLANETS, 91),
    "D1": (d, orbit(0.1), 310),
    "D2": (d, orbit(0.3), 530),
    "D3": (d, orbit(0.5), 650),
    "D4": (d, orbit(0.7), 780),
    "D5": (d, orbit(0.9), 4100),
    "E1": (e1, (0.6713967071418031, 0.09540051444747452), 1.4),
    "E2": (e2, (2.0, 0.0), 11),
    "E3": (e3, (0.0, 0.0), 14),
    "E4": (e4, (30.0, 0.0), 1.4),
    "E5": (e5, (0.0, 0.0), 2.4),
}

DETEST = {
    name: Problem(name, field, y0, ENDS[name], condition)
    for name, (field, y0, condition) in STARTS.items()
}

PLEIADES = Problem("Pleiades", pleiades, STARS, ENDS["Pleiades"], 32000, t1=3.0)
SATELLITE = (0.994, 0.0, 0.0, -2.0015851063790824)
ARENSTORF = Problem(
    "Arenstorf", arenstorf, SATELLITE, ENDS["Arenstorf"], 9e06, t1=17.065216560157964
)
