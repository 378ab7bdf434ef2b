"""Penalties against quadrature along known paths, in both directions of time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from isocline.errors import InputError
from isocline.nn import (
    CNF,
    ClosedForm,
    ExactDivergence,
    Hutchinson,
    HutchPlusPlus,
    JacobianNorm,
    KineticEnergy,
    PlanarField,
    Rate,
)

from .flow_cases import DTYPE, FIELDS, REGULARIZERS, TIGHT, Affine, affine, agrees

SPANS = [(0.0, 1.0), (1.0, 0.0), (-2.0, -1.3), (3.0, 1.8)]


def along(field: Affine, x: Tensor, t0: float, t1: float, penalty: str) -> Tensor:
    """The penalty's integral from t0 to t1, on the path that ends in `x`, by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    total = torch.zeros(len(x), dtype=DTYPE)
    for node, weight in zip(nodes, weights, strict=True):
        t = t0 + (t1 - t0) * (node + 1) / 2
        P, q = field.flow(t - t1)
        with torch.no_grad():
            velocity = field(torch.tensor(t, dtype=DTYPE), x @ P.t() + q)
        square = velocity.square().sum(1)
        rate = square if penalty == "kinetic" else field.A.detach().square().sum()
        total = total + weight / 2 * abs(t1 - t0) * rate
    return total


@pytest.mark.parametrize("penalty", REGULARIZERS)
@pytest.mark.parametrize(("t0", "t1"), SPANS)
def test_the_integral_is_that_of_quadrature(t0: float, t1: float, penalty: str) -> None:
    """Positive in either direction of time, and weighted."""
    field, x = affine(3), torch.randn(5, 3, dtype=DTYPE)
    penalties = [REGULARIZERS[penalty](0.7)]
    flow = CNF(field, 3, t0=t0, t1=t1, regularizers=penalties, **TIGHT).to(DTYPE)
    log_density, found = flow.log_prob_and_penalty(x)
    assert bool((found > 0).all())
    expected = 0.7 * along(field, x, t0, t1, penalty)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_density, flow.log_prob(x), rtol=1e-9, atol=1e-9)


def test_a_jacobian_that_changes_with_time() -> None:
    """|cos(t) A|^2 integrates to |A|^2 (t1 - t0 + sin(t1) cos(t1) - sin(t0) cos(t0)) / 2."""
    field = affine(2, torch.cos)
    flow = CNF(field, 2, t0=0.4, t1=1.9, regularizers=[JacobianNorm(1.0)], **TIGHT).to(DTYPE)
    found = flow.log_prob_and_penalty(torch.randn(3, 2, dtype=DTYPE))[1]
    area = (1.5 + (np.sin(3.8) - np.sin(0.8)) / 2) / 2
    expected = field.A.detach().square().sum() * area
    torch.testing.assert_close(found.detach(), expected.expand(3), rtol=1e-9, atol=1e-9)


def test_several_are_added_up() -> None:
    case = FIELDS["mlp"]
    x, both = case.points(4), [KineticEnergy(0.3), JacobianNorm(2.0)]
    found = case.flow(regularizers=both).log_prob_and_penalty(x)[1]
    single = [case.flow(regularizers=[one]).log_prob_and_penalty(x)[1] for one in both]
    torch.testing.assert_close(found, sum(single), rtol=1e-7, atol=1e-7)
    assert float((single[0] - single[1]).detach().abs().min()) > 1e-3


@pytest.mark.parametrize("penalty", REGULARIZERS)
def test_weight_zero_is_none(penalty: str) -> None:
    case = FIELDS["mlp"]
    x, none = case.points(4), REGULARIZERS[penalty](0.0)
    log_density, found = case.flow(regularizers=[none]).log_prob_and_penalty(x)
    assert torch.equal(found, torch.zeros(4, dtype=DTYPE))
    torch.testing.assert_close(log_density, case.flow().log_prob(x), rtol=1e-9, atol=1e-9)
    bare = case.flow().log_prob_and_penalty(x)[1]
    assert torch.equal(bare, torch.zeros(4, dtype=DTYPE))


@pytest.mark.parametrize("name", ["conditional", "images"])
def test_shapes(name: str) -> None:
    case = FIELDS[name]
    options: dict[str, Any] = {"divergence": Hutchinson(), "rtol": 1e-6, "atol": 1e-6}
    flow = case.flow(regularizers=[KineticEnergy(1.0), JacobianNorm(1.0)], **options)
    log_density, penalty = flow.log_prob_and_penalty(case.points(2, 3), *case.contexts(2, 3))
    assert log_density.shape == penalty.shape == (2, 3)
    alone = flow.log_prob_and_penalty(case.points(), *case.contexts())[1]
    assert alone.shape == ()


def test_the_speed_of_images_is_summed_over_all_of_them() -> None:
    flow = CNF(lambda t, z: torch.ones_like(z), (3, 4, 4), regularizers=[KineticEnergy(1.0)])
    found = flow.log_prob_and_penalty(torch.randn(2, 3, 4, 4))[1]
    torch.testing.assert_close(found, torch.full((2,), 48.0))


@pytest.mark.parametrize(
    "divergence", [Hutchinson(), Hutchinson("gaussian", 4), HutchPlusPlus(3)], ids=str
)
def test_an_estimated_norm_is_right_on_average(divergence: object) -> None:
    field, count = affine(3), 2000
    settings = {"divergence": divergence, "regularizers": [JacobianNorm(1.0)]}
    flow = CNF(field, 3, **settings).to(DTYPE)
    with torch.no_grad():
        draws = flow.log_prob_and_penalty(torch.zeros(count, 3, dtype=DTYPE))[1]
    assert agrees(draws, float(field.A.detach().square().sum()))


def test_energy_does_not_depend_on_the_divergence() -> None:
    case = FIELDS["planar"]
    x, energies = case.points(4), []
    for divergence in (ClosedForm(), ExactDivergence(), Hutchinson()):
        flow = case.flow(divergence=divergence, regularizers=[KineticEnergy(1.0)], rtol=1e-9)
        energies.append(flow.log_prob_and_penalty(x)[1])
    torch.testing.assert_close(energies[0], energies[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(energies[0], energies[2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("penalty", REGULARIZERS)
@pytest.mark.parametrize("name", ["planar", "mlp"])
def test_in_evaluation_the_density_is_exact_with_penalties_too(name: str, penalty: str) -> None:
    """`exact_in_eval`: whatever `divergence` is."""
    case = FIELDS[name]
    x, penalties = case.points(5), [REGULARIZERS[penalty](1.0)]
    settings = {"divergence": Hutchinson(), "regularizers": penalties, "rtol": 1e-7, "atol": 1e-7}
    flow = case.flow(**settings).eval()
    found = flow.log_prob_and_penalty(x)[0]
    torch.testing.assert_close(found, flow.log_prob(x), rtol=1e-5, atol=1e-5)
    flow.train()
    assert not torch.equal(flow.log_prob(x), flow.log_prob(x))


def test_a_regulariser_of_the_users_own() -> None:
    """Anything with a weight that maps a rate to numbers: here the volume's absolute change."""

    class Volume:
        weight, needs_norm = 2.0, False

        def __call__(self, rate: Rate) -> Tensor:
            return rate.divergence.abs()

    field = affine(2)
    flow = CNF(field, 2, regularizers=[Volume()], **TIGHT).to(DTYPE)
    found = flow.log_prob_and_penalty(torch.randn(3, 2, dtype=DTYPE))[1].detach()
    expected = 2 * field.A.detach().trace().abs()
    torch.testing.assert_close(found, expected.expand(3), rtol=1e-9, atol=1e-9)


def test_a_closed_form_does_not_know_the_norm() -> None:
    with pytest.raises(InputError, match=r"`regularizers`.*Hutchinson"):
        CNF(PlanarField(2), 2, regularizers=[JacobianNorm(1.0)])
    CNF(PlanarField(2), 2, regularizers=[JacobianNorm(1.0)], divergence=Hutchinson())
    CNF(PlanarField(2), 2, regularizers=[KineticEnergy(1.0)])


def test_nor_when_it_is_set_later() -> None:
    flow = CNF(PlanarField(2), 2)
    flow.regularizers = (JacobianNorm(1.0),)
    with pytest.raises(InputError, match=r"`regularizers`"):
        flow.log_prob_and_penalty(torch.zeros(3, 2))


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan"), "much", None])
@pytest.mark.parametrize("penalty", REGULARIZERS)
def test_a_wrong_weight_is_named(penalty: str, weight: Any) -> None:
    with pytest.raises(InputError, match=r"`weight`"):
        REGULARIZERS[penalty](weight)
