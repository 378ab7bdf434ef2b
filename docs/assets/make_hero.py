"""Draw `hero.png`: a neural field learns the phase portrait of a damped pendulum from noisy data.

Run it from the root of the repository: `python docs/assets/make_hero.py`.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import nn

import isocline as ic

HERE = Path(__file__).parent
SPAN, POINTS, TRAJECTORIES, NOISE = 10.0, 51, 24, 0.04
ITERATIONS, BATCH, WINDOW = 1500, 64, 8
ANGLE, SPEED = 3.3, 3.4  # half the width and height of the pictures


def pendulum(t, y):
    """Damped pendulum; y = (angle, speed), angle in radians."""
    angle, speed = y[..., 0], y[..., 1]
    return torch.stack([speed, -2.0 * torch.sin(angle) - 0.2 * speed], dim=-1)


class Field(nn.Module):
    """An autonomous field: two hidden layers."""

    def __init__(self, width=64):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
        )

    def forward(self, t, y):
        return self.net(y)


def observe():
    """Noisy observations [POINTS, TRAJECTORIES, 2] at equal distances in time."""
    y0 = (2 * torch.rand(50 * TRAJECTORIES, 2) - 1) * torch.tensor([ANGLE, SPEED])
    # Swings: too little energy to go over the top.
    y0 = y0[y0[:, 1] ** 2 / 2 + 2 * (1 - torch.cos(y0[:, 0])) < 3.6][:TRAJECTORIES]
    times = torch.linspace(0.0, SPAN, POINTS)
    sol = ic.solve(pendulum, y0, 0.0, SPAN, save=ic.SaveAt(ts=times), rtol=1e-7, atol=1e-7)
    return times, sol.ys + NOISE * torch.randn_like(sol.ys)


def train(field, times, seen):
    """Multiple shooting: from random observations, predict the next WINDOW of them."""
    optimizer = torch.optim.Adam(field.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)
    ts = times[: WINDOW + 1]
    steps = torch.arange(WINDOW + 1)
    for iteration in range(ITERATIONS):
        start = torch.randint(POINTS - WINDOW, (BATCH,))
        which = torch.randint(TRAJECTORIES, (BATCH,))
        target = seen[start + steps[:, None], which]
        sol = ic.solve(
            field, target[0], 0.0, ts[-1].item(), save=ic.SaveAt(ts=ts), rtol=1e-4, atol=1e-4
        )
        loss = (sol.ys - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if iteration % 100 == 0:
            print(f"{iteration:5d}  loss {loss.item():.5f}  NFE {sol.stats.nfe_forward}")


@torch.no_grad()
def draw(axes, field, title, times, seen, shown):
    x, y = np.meshgrid(np.linspace(-ANGLE, ANGLE, 45), np.linspace(-SPEED, SPEED, 45))
    points = torch.tensor(np.stack([x, y], axis=-1), dtype=torch.float32)
    flow = field(0.0, points).numpy()
    speed = np.linalg.norm(flow, axis=-1)
    axes.streamplot(
        x, y, flow[..., 0], flow[..., 1],
        color=speed, cmap="Blues", norm=mpl.colors.Normalize(-1.5, 7.0),
        density=1.5, linewidth=0.9, arrowsize=0.8, zorder=1,
    )  # fmt: skip
    for number, color in zip(shown, ("#d1495b", "#e09f3e", "#2a9d6f"), strict=True):
        sol = ic.solve(field, seen[0, number], 0.0, SPAN, save=ic.SaveAt(dense=True))
        fine = torch.linspace(0.0, SPAN, 400)
        axes.plot(*sol(fine).T, color=color, lw=2.2, zorder=2)
        axes.plot(*seen[:, number].T, "o", color=color, ms=4, mec="white", mew=0.5, zorder=3)
    axes.set(xlim=(-ANGLE, ANGLE), ylim=(-SPEED, SPEED), title=title, xlabel="angle")
    axes.spines[["top", "right"]].set_visible(False)


def main():
    torch.manual_seed(4)
    torch.set_num_threads(1)
    times, seen = observe()
    # A wide, a middling and a small swing.
    widest_first = seen.abs().amax(dim=0)[:, 0].argsort(descending=True)
    shown = widest_first[[0, 2 * TRAJECTORIES // 5, 4 * TRAJECTORIES // 5]].tolist()
    field = Field()

    mpl.rcParams.update({"font.size": 11, "axes.titlesize": 13})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.9), sharey=True, layout="constrained")
    draw(left, field, "before training", times, seen, shown)
    train(field, times, seen)
    draw(right, field, "after training", times, seen, shown)
    left.set_ylabel("angular speed")
    path = HERE / "hero.png"
    figure.savefig(path, dpi=110, facecolor="white")

    from PIL import Image

    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
    print(f"wrote {path.name}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
