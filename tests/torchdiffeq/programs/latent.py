"""A latent ODE: an encoder, a solve from what it finds, a decoder; with callbacks and a counter."""

import sys

import torch
import torch.nn as nn

from torchdiffeq import odeint_adjoint as odeint


class LatentField(nn.Module):
    def __init__(self):
        super().__init__()
        self.elu = nn.ELU(inplace=True)
        self.fc1 = nn.Linear(3, 12)
        self.fc2 = nn.Linear(12, 3)
        self.nfe = 0
        self.steps = 0

    def forward(self, t, x):
        self.nfe += 1
        out = self.fc1(x)
        out = self.elu(out)
        return self.fc2(out)

    def callback_accept_step(self, t0, y0, dt):
        self.steps += 1


torch.manual_seed(0)
t = torch.linspace(0.0, 3.0, 20)
phase = torch.rand(32, 1) * 6
data = torch.stack([torch.sin(t + phase), torch.cos(t + phase)], -1)

field = LatentField()
encoder = nn.GRU(2, 16, batch_first=True)
heads = nn.Linear(16, 6)
decoder = nn.Sequential(nn.Linear(3, 16), nn.ReLU(inplace=True), nn.Linear(16, 2))
modules = nn.ModuleList([field, encoder, heads, decoder])
optimizer = torch.optim.Adam(modules.parameters(), lr=1e-2)
losses = []
for _ in range(25):
    optimizer.zero_grad()
    _, hidden = encoder(data.flip(1))
    mean, logvar = heads(hidden[0]).chunk(2, -1)
    z0 = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
    path = odeint(field, z0, t, rtol=1e-4, atol=1e-4, adjoint_options={"norm": "seminorm"})
    x = decoder(path.permute(1, 0, 2))
    likelihood = -0.5 * ((x - data) / 0.3).square().sum((1, 2))
    kl = 0.5 * (mean.square() + logvar.exp() - logvar - 1).sum(-1)
    loss = (kl - likelihood).mean()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert field.steps > 0
assert field.nfe > field.steps
assert losses[-1] < 0.8 * losses[0], losses
sys.stdout.write("latent\n")
