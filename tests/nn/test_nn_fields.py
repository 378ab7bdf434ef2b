"""Fields: shapes, the equivalence of ConcatConv2d with a real concatenation, input checks."""

import pytest
import torch
import torch.nn.functional as F

from isocline.errors import InputError
from isocline.nn import ConcatConv2d, ConvField, MLPField


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1)])
def test_concat_conv_is_a_convolution_of_the_concatenation(stride: int, padding: int) -> None:
    torch.manual_seed(0)
    layer = ConcatConv2d(3, 5, 3, stride=stride, padding=padding).double()
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    t = torch.tensor(0.37, dtype=torch.float64)
    weight = torch.cat([layer.weight_time, layer.weight], dim=1)
    joined = torch.cat([t.expand(2, 1, 7, 7), x], dim=1)
    expected = F.conv2d(joined, weight, layer.bias, stride, padding)
    torch.testing.assert_close(layer(t, x), expected)


def test_concat_conv_has_the_parameters_of_the_authors_layer() -> None:
    count = sum(parameter.numel() for parameter in ConcatConv2d(64, 64).parameters())
    assert count == sum(parameter.numel() for parameter in torch.nn.Conv2d(65, 64, 3).parameters())


def test_concat_conv_starts_as_conv2d_does() -> None:
    torch.manual_seed(0)
    layer = ConcatConv2d(63, 64)
    bound = (64 * 9) ** -0.5
    for parameter in layer.parameters():
        assert float(parameter.detach().abs().max()) <= bound
        assert float(parameter.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.2)


def test_time_matters_to_the_fields() -> None:
    torch.manual_seed(0)
    field = ConvField(8)
    y = torch.randn(2, 8, 4, 4)
    assert field(torch.tensor(0.0), y).shape == y.shape
    assert not torch.equal(field(torch.tensor(0.0), y), field(torch.tensor(1.0), y))


@pytest.mark.parametrize("time", [True, False])
def test_mlp_field(time: bool) -> None:
    torch.manual_seed(0)
    field = MLPField(3, hidden=8, depth=2, activation="softplus", time=time)
    y = torch.randn(4, 5, 3)
    early, late = field(torch.tensor(0.0), y), field(torch.tensor(1.0), y)
    assert early.shape == y.shape
    assert torch.equal(early, late) is not time
    assert sum(isinstance(layer, torch.nn.Softplus) for layer in field.layers) == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [({"dim": 0}, "dim"), ({"dim": 1, "hidden": 0}, "hidden"), ({"dim": 1, "depth": -1}, "depth")],
)
def test_mlp_field_names_a_wrong_size(options: dict[str, int], named: str) -> None:
    with pytest.raises(InputError, match=rf"`{named}`.*at least 1"):
        MLPField(**options)


def test_mlp_field_lists_the_activations() -> None:
    with pytest.raises(InputError, match=r"'gelu'; expected one of .*tanh"):
        MLPField(2, activation="gelu")  # type: ignore[arg-type]
