"""Fit a small network to a spiral from pieces of its trajectory."""

import argparse
import sys

import torch
import torch.nn as nn
import torch.optim as optim

parser = argparse.ArgumentParser()
parser.add_argument("--method", choices=["dopri5", "rk4", "implicit_adams"], default="dopri5")
parser.add_argument("--iterations", type=int, default=16)
parser.add_argument("--adjoint", action="store_true")
args = parser.parse_args()

if args.adjoint:
    from torchdiffeq import odeint_adjoint as odeint
else:
    from torchdiffeq import odeint

torch.manual_seed(0)
true_y0 = torch.tensor([[2.0, 0.0]])
t = torch.linspace(0.0, 5.0, 101)
matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])


class Spiral(nn.Module):
    def forward(self, t, y):
        return torch.mm(y**3, matrix)


with torch.no_grad():
    true_y = odeint(Spiral(), true_y0, t, method="dopri5")


class Func(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 2))
        self.nfe = 0
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, mean=0, std=0.1)
                nn.init.constant_(layer.bias, val=0)

    def forward(self, t, y):
        self.nfe += 1
        return self.net(y**3)


def batch(size=40, length=6):
    start = torch.randperm(len(t) - length)[:size]
    return true_y[start], t[:length], torch.stack([true_y[start + i] for i in range(length)])


if __name__ == "__main__":
    func = Func()
    optimizer = optim.Adam(func.parameters(), lr=2e-2)
    losses = []
    for _ in range(args.iterations):
        optimizer.zero_grad()
        y0, times, target = batch()
        loss = torch.mean(torch.abs(odeint(func, y0, times, method=args.method) - target))
        forward, func.nfe = func.nfe, 0
        loss.backward()
        backward, func.nfe = func.nfe, 0
        optimizer.step()
        losses.append(loss.item())
    assert forward > 0
    assert backward > 0 or not args.adjoint
    assert min(losses[-4:]) < 0.8 * losses[0], losses
    sys.stdout.write(f"trained with {args.method}: {__file__}\n")
