"""A bouncing ball whose gravity is learnt from the times of its bounces."""

import sys

import torch
import torch.nn as nn

from torchdiffeq import odeint, odeint_adjoint, odeint_event

torch.set_default_dtype(torch.float64)


class Ball(nn.Module):
    def __init__(self, gravity, adjoint):
        super().__init__()
        self.gravity = nn.Parameter(torch.as_tensor([gravity]))
        self.log_radius = nn.Parameter(torch.log(torch.as_tensor([0.2])))
        self.t0 = nn.Parameter(torch.tensor([0.0]))
        self.odeint = odeint_adjoint if adjoint else odeint

    def forward(self, t, state):
        _, vel, log_radius = state
        return vel, -self.gravity, torch.zeros_like(log_radius)

    def event_fn(self, t, state):
        pos, _, log_radius = state
        return pos - torch.exp(log_radius)

    def update(self, state):
        pos, vel, log_radius = state
        return pos + 1e-7, -0.8 * vel, log_radius

    def bounces(self, count):
        times = []
        t0 = self.t0
        state = (torch.tensor([10.0]), torch.tensor([0.0]), self.log_radius)
        for _ in range(count):
            event_t, solution = odeint_event(
                self, state, t0, event_fn=self.event_fn, reverse_time=False,
                atol=1e-8, rtol=1e-8, odeint_interface=self.odeint,
            )  # fmt: skip
            times.append(event_t)
            state = self.update(tuple(s[-1] for s in solution))
            t0 = event_t
        return torch.stack(times)


for adjoint in (False, True):
    target = Ball(9.8, adjoint).bounces(3).detach()
    first = (2 * (10.0 - 0.2) / 9.8) ** 0.5
    assert abs(target[0].item() - first) < 1e-6
    assert abs(target[2].item() - first * (1 + 2 * 0.8 + 2 * 0.64)) < 1e-5
    ball = Ball(9.0, adjoint)
    optimizer = torch.optim.Adam([ball.gravity], lr=0.2)
    for _ in range(15):
        optimizer.zero_grad()
        loss = (ball.bounces(3) - target).square().sum()
        loss.backward()
        optimizer.step()
    assert abs(ball.gravity.item() - 9.8) < 0.2, ball.gravity
sys.stdout.write("gravity found\n")
