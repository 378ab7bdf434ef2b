"""A continuous normalizing flow: a tuple state, backward in time, with a trace by autograd."""

import sys

import torch
import torch.nn as nn

from torchdiffeq import odeint, odeint_adjoint


class Flow(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, t, states):
        z = states[0]
        batchsize = z.shape[0]
        with torch.set_grad_enabled(True):
            z.requires_grad_(True)
            dz_dt = self.net(torch.cat([z, t.expand(batchsize, 1)], 1))
            trace = 0.0
            for i in range(z.shape[1]):
                trace = (
                    trace
                    + torch.autograd.grad(dz_dt[:, i].sum(), z, create_graph=True)[0]
                    .contiguous()[:, i]
                    .contiguous()
                )
        return dz_dt, -trace.view(batchsize, 1)


def log_prob(flow, x, solve):
    zeros = torch.zeros(x.shape[0], 1)
    t = torch.tensor([1.0, 0.0])
    z_t, delta = solve(flow, (x, zeros), t, atol=1e-5, rtol=1e-5, method="dopri5")
    base = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    return base.log_prob(z_t[-1]) - delta[-1].view(-1)


def train(solve):
    torch.manual_seed(1)
    flow = Flow()
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        x = torch.randn(64, 2) * 0.5 + torch.tensor([1.0, -1.0])
        loss = -log_prob(flow, x, solve).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3, losses
    return flow, losses


flow, plain = train(odeint)
_, adjoint = train(odeint_adjoint)
assert max(abs(a - b) for a, b in zip(plain, adjoint, strict=True)) < 1e-2, (plain, adjoint)
with torch.no_grad():  # a density sums to one
    side = torch.linspace(-4, 4, 60)
    grid = torch.cartesian_prod(side, side)
    mass = log_prob(flow, grid, odeint).exp().sum() * (side[1] - side[0]) ** 2
assert abs(mass.item() - 1) < 2e-2, mass
sys.stdout.write("a density\n")
