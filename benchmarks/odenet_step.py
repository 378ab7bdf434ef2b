"""Time of a training step of the three MNIST networks, interleaved, one thread, batch 128.

The ODE-Net by each adjoint, and the same network with its solve by torchdiffeq: dopri5, the same
tolerance and averaged norm on both sides.

    python benchmarks/odenet_step.py [--rounds 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import interleaved
from torch import Tensor, nn

import isocline as ic
import torchdiffeq
from isocline.nn import ImageClassifier

TOLERANCE = 1e-3
ITERATIONS = 429  # of an epoch: 55,000 images


class TheirBlock(nn.Module):
    """The ODE block by torchdiffeq."""

    def __init__(self, field: nn.Module, odeint: Callable[..., Tensor]) -> None:
        super().__init__()
        self.field = field
        self.odeint = odeint

    def forward(self, x: Tensor) -> Tensor:
        """The state at t = 1."""
        t = torch.tensor([0.0, 1.0])
        found = self.odeint(self.field, x, t, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")
        return found[-1]


def networks() -> dict[str, nn.Module]:
    """All candidates, with the same initial weights where their architecture is the same."""

    def build(model: str, **block: object) -> ImageClassifier:
        torch.manual_seed(0)
        return ImageClassifier(model, "mnist", **block)  # type: ignore[arg-type]

    tol = {"rtol": TOLERANCE, "atol": TOLERANCE}
    found: dict[str, nn.Module] = {
        "ResNet": build("resnet"),
        "RK-Net, Direct": build("rknet", solver="rk4", dt0=0.25, adjoint=ic.Direct()),
    }
    adjoints = {
        "Direct": ic.Direct(),
        "Checkpointed": ic.Checkpointed(),
        "Checkpointed(slots=1)": ic.Checkpointed(slots=1),
        "Backsolve": ic.Backsolve(),
    }
    for name, adjoint in adjoints.items():
        found[f"ODE-Net, Tsit5, {name}"] = build("odenet", adjoint=adjoint, **tol)
    found["ODE-Net, Dopri5, Direct"] = build("odenet", solver="dopri5", adjoint=ic.Direct(), **tol)
    for name in ("odeint", "odeint_adjoint"):
        theirs = build("odenet", **tol)
        assert theirs.ode is not None
        theirs.body = TheirBlock(theirs.ode.field, getattr(torchdiffeq, name))
        found[f"ODE-Net, torchdiffeq {name}, dopri5"] = theirs
    return found


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    images, labels = torch.randn(128, 1, 28, 28), torch.randint(10, (128,))

    def step(network: nn.Module) -> Callable[[], None]:
        def run() -> None:
            network.zero_grad()
            F.cross_entropy(network(images), labels).backward()

        return run

    built = networks()
    steps = {name: step(network) for name, network in built.items()}
    timings = interleaved(steps, options.rounds, warm_up=1)
    print("| | s an iteration, median | min an epoch | F | B |\n| --- | --- | --- | --- | --- |")
    for name, timing in timings.items():
        network = built[name]
        ode = network.ode if isinstance(network, ImageClassifier) else None
        counts = f"{ode.nfe_forward} | {ode.nfe_backward}" if ode is not None else " | "
        seconds = timing.median / 1e3
        print(f"| {name} | {seconds:.2f} | {seconds * ITERATIONS / 60:.1f} | {counts} |")


if __name__ == "__main__":
    main()
