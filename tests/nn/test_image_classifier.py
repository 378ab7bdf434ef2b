"""The paper's classifiers: sizes and shapes."""

import pytest
import torch

from isocline.errors import InputError
from isocline.nn import ImageClassifier, ResBlock, mnist_stem


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("model", "parameters"), [("odenet", 232_970), ("rknet", 232_970), ("resnet", 601_482)]
)
def test_parameters_on_mnist_are_the_authors(model: str, parameters: int) -> None:
    assert _count(ImageClassifier(model, "mnist")) == parameters  # type: ignore[arg-type]


def test_stem_downsamples_mnist_to_seven() -> None:
    assert mnist_stem()(torch.zeros(1, 1, 28, 28)).shape == (1, 64, 7, 7)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("odenet", {"rtol": 1e-2, "atol": 1e-2}),
        ("rknet", {"solver": "rk4", "dt0": 0.5}),
        ("resnet", {}),
    ],
)
@pytest.mark.parametrize(("stem", "side"), [("mnist", 28), ("digits", 8)])
def test_every_parameter_gets_a_gradient(
    model: str, options: dict[str, object], stem: str, side: int
) -> None:
    torch.manual_seed(0)
    network = ImageClassifier(model, stem, channels=8, classes=5, **options)  # type: ignore[arg-type]
    logits = network(torch.randn(2, 1, side, side))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name
    assert (network.ode is None) is (model == "resnet")


def test_residual_block_keeps_or_halves_the_size() -> None:
    x = torch.randn(1, 8, 6, 6)
    assert ResBlock(8, 8)(x).shape == x.shape
    assert ResBlock(8, 16, stride=2)(x).shape == (1, 16, 3, 3)


def test_wrong_names_are_refused() -> None:
    with pytest.raises(InputError, match="odenet, resnet, rknet"):
        ImageClassifier("vgg")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="mnist, digits"):
        ImageClassifier("odenet", "cifar")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="without options"):
        ImageClassifier("resnet", rtol=1e-3)
