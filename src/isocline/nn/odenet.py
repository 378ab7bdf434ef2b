"""The paper's image classifiers: ODE-Net, ResNet and RK-Net (Chen et al. 2018, section 3)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .fields import ConvField, group_norm
from .ode_block import ODEBlock

__all__ = ["ImageClassifier", "ModelName", "ResBlock", "StemName", "digits_stem", "mnist_stem"]

ModelName = Literal["odenet", "resnet", "rknet"]
StemName = Literal["mnist", "digits"]

# The residual network's depth in the authors' example; the ODE takes the place of these blocks.
RESIDUAL_BLOCKS = 6


class ResBlock(nn.Module):
    """Pre-activation residual block, GN-ReLU-conv-GN-ReLU-conv plus shortcut (He et al. 2016).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution; above 1, the shortcut is a 1x1 convolution.

    Shape:
        ``(batch, in_channels, height, width) -> (batch, out_channels, height', width')``.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block. The shortcut convolution sees the normalised input."""
        z = F.relu(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(z)
        answer: Tensor = skip + self.conv2(F.relu(self.norm2(self.conv1(z))))
        return answer


def mnist_stem(in_channels: int = 1, channels: int = 64) -> nn.Sequential:
    """The authors' two residual downsamplings: ``(N, 1, 28, 28) -> (N, channels, 7, 7)``."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3),
        ResBlock(channels, channels, stride=2),
        ResBlock(channels, channels, stride=2),
    )


def digits_stem(in_channels: int = 1, channels: int = 64) -> nn.Sequential:
    """One residual downsampling for 8x8 images: ``(N, 1, 8, 8) -> (N, channels, 4, 4)``."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1),
        ResBlock(channels, channels, stride=2),
    )


_STEMS = {"mnist": mnist_stem, "digits": digits_stem}


class ImageClassifier(nn.Module):
    """Stem, body and head; the three models differ in the body alone.

    - ``odenet``: one `ODEBlock` with an adaptive solver;
    - ``rknet``: one `ODEBlock` with a few equal steps of a fixed-step solver, such as ``rk4``;
    - ``resnet``: six residual blocks.

    On MNIST (one channel, ten classes, 64 channels) they have 232,970, 232,970 and 601,482
    parameters.

    Args:
        model: Which of the three.
        stem: Downsampling for images of the size of ``mnist`` or of ``digits``.
        channels: Width of the network, at most 32 or a multiple of 32.
        in_channels: Channels of the images.
        classes: Number of classes.
        **block: Options of the `ODEBlock`, such as ``solver``, ``rtol`` or ``adjoint``; none
            of them for a ``resnet``.

    Shape:
        ``(batch, in_channels, height, width) -> (batch, classes)``, the logits.

    Raises:
        InputError: If the model or the stem is unknown.
    """

    def __init__(
        self,
        model: ModelName = "odenet",
        stem: StemName = "mnist",
        *,
        channels: int = 64,
        in_channels: int = 1,
        classes: int = 10,
        **block: Any,
    ) -> None:
        super().__init__()
        if model not in get_args(ModelName):
            raise InputError("model", repr(model), f"one of {', '.join(get_args(ModelName))}")
        if stem not in _STEMS:
            raise InputError("stem", repr(stem), f"one of {', '.join(_STEMS)}")
        self.stem = _STEMS[stem](in_channels, channels)
        self.body: nn.Module
        if model == "resnet":
            if block:
                names = ", ".join(sorted(block))
                raise InputError("model", f"'resnet' with {names}", "a resnet without options")
            self.body = nn.Sequential(
                *(ResBlock(channels, channels) for _ in range(RESIDUAL_BLOCKS))
            )
        else:
            self.body = ODEBlock(ConvField(channels), **block)
        self.norm = group_norm(channels)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        z = self.body(self.stem(x))
        z = F.relu(self.norm(z)).mean(dim=(2, 3))
        answer: Tensor = self.linear(z)
        return answer

    @property
    def ode(self) -> ODEBlock | None:
        """The ODE block, ``None`` in a residual network."""
        return self.body if isinstance(self.body, ODEBlock) else None
