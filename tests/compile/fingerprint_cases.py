"""Digests of fields, and a field with everything that a trace may depend on, to be changed.

`FIELD` is the source of a module with a function `make()`, which gives a field and a state, and
`HELPER` that of another, from which it imports. A test writes both to files, one thing changed.
"""

from __future__ import annotations

from typing import Any

import isocline as ic
from isocline.compile.cache import Cache
from isocline.compile.index import Index
from isocline.compile.kinds import tensors_of
from isocline.compile.passes import Passes
from isocline.compile.subjects import Request, Subject
from isocline.compile.traces import Traces
from isocline.compile.walk import dissect
from isocline.state import Packing

REQUEST = Request(ic.Tsit5().tableau, False, True, False, False, Passes())


def digest(
    field: Any, y0: Any, args: tuple[Any, ...] = (), request: Request = REQUEST
) -> str | None:
    """That of a solve; None where the field has to be traced."""
    anatomy, of_args = dissect(field), dissect(args, "args") if args else None
    fixed = anatomy.parameters | (of_args.parameters if of_args else set())
    tensors = tensors_of(anatomy, of_args)
    subject = Subject(field, args, Packing.of(y0), tensors, fixed, anatomy, of_args)
    traces, index = Traces(request), Index(Cache(), "Program", request)
    traces._lay_out(subject, next(traces._layouts(subject)))
    return index.shelf(subject, traces._layout, traces._batched(subject)).digest


HELPER = """
import torch

FACTOR = 0.5
TABLE = {"shift": 0.25, "names": ["a", "b"]}

def squeezed(x, sharpness=1.5):
    return torch.tanh(sharpness * x) * 0.75

class Scale:
    power = 1

    @property
    def weight(self):
        return 0.5

    @staticmethod
    def twice(x):
        return 2 * x

    def __call__(self, x):
        return self.twice(x) * self.weight ** self.power
"""

FIELD = """
import enum
import functools
import math
import torch
import torch.nn.functional as F
from torch import nn
import helper_at_hand as helper
from helper_at_hand import Scale

RATE = 0.3
limit = 3.0

class Mode(enum.Enum):
    SLOW = 0.5
    FAST = 2.0

class Base(nn.Module):
    gain = 1.25

    def gate(self, y):
        return y * self.gain

class Field(Base):
    def __init__(self, closed):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
        self.numbers = [1.0, 2.0]
        self.mode = Mode.SLOW
        self.act = F.softplus
        self.part = functools.partial(helper.squeezed, sharpness=1.0)
        self.scale = Scale()
        self.closed = closed

    def forward(self, t, y, extra=0.1):
        z = self.net(self.gate(y)) + extra
        z = self.part(z) * self.mode.value * math.pi + self.act(z)
        z = helper.squeezed(z) * helper.FACTOR + helper.TABLE["shift"] * RATE
        return self.closed(self.scale(z)) * torch.cos(t) + self.numbers[1]

def make():
    torch.manual_seed(0)
    limit = 4.0
    def closed(x):
        return torch.clamp(x, -limit, limit)
    field = Field(closed)
    y0 = torch.linspace(-1, 1, 6).reshape(3, 2)
    return field, y0
"""


def _then(*lines: str) -> tuple[str, str]:
    """A change that makes the field as ever, and then does something to it."""
    end = "    return field, y0"
    return end, "\n".join([*(f"    {line}" for line in lines), end])


CHANGES = {
    "a constant in a function that is called": ("* 0.75", "* 0.76"),
    "an operation in a function that is called": ("torch.tanh(sharpness", "torch.sin(sharpness"),
    "a default of a function that is called": ("sharpness=1.5", "sharpness=1.6"),
    "a number of another module": ("FACTOR = 0.5", "FACTOR = 0.6"),
    "an entry of a dict of another module": ('"shift": 0.25', '"shift": 0.26'),
    "an attribute of a class": ("gain = 1.25", "gain = 1.26"),
    "an attribute of a class of a part": ("power = 1", "power = 2"),
    "a property of a part": ("return 0.5", "return 0.6"),
    "a static method of a part": ("return 2 * x", "return 3 * x"),
    "what a call of a part does": ("self.twice(x) *", "self.twice(x) +"),
    "a global": ("RATE = 0.3", "RATE = 0.4"),
    "a member of an enumeration": ("SLOW = 0.5", "SLOW = 0.6"),
    "which member": ("Mode.SLOW", "Mode.FAST"),
    "an inherited method": ("y * self.gain", "y + self.gain"),
    "an activation": ("nn.Tanh()", "nn.Sigmoid()"),
    "a function of torch": ("self.act = F.softplus", "self.act = torch.exp"),
    "one written in Python": ("self.act = F.softplus", "self.act = F.mish"),
    "an argument of a partial": ("sharpness=1.0", "sharpness=1.1"),
    "an element of a list": ("[1.0, 2.0]", "[1.0, 2.5]"),
    "a default of the field": ("extra=0.1", "extra=0.2"),
    "a value in a closure": ("limit = 4.0", "limit = 0.5"),
    "what a closure does": ("torch.clamp(x, -limit, limit)", "torch.clamp(x, -limit, 2 * limit)"),
    "the width of a layer": (
        "nn.Linear(2, 4), nn.Tanh(), nn.Linear(4",
        "nn.Linear(2, 5), nn.Tanh(), nn.Linear(5",
    ),
    "a layer without a bias": ("nn.Linear(4, 2)", "nn.Linear(4, 2, bias=False)"),
    "dtypes": ("return field, y0", "return field.double(), y0.double()"),
    "the shape of the state": (
        "linspace(-1, 1, 6).reshape(3, 2)",
        "linspace(-1, 1, 12).reshape(3, 2, 2)",
    ),
    "one sample": ("linspace(-1, 1, 6).reshape(3, 2)", "linspace(-1, 1, 2).reshape(1, 2)"),
    "no samples": ("linspace(-1, 1, 6).reshape(3, 2)", "linspace(-1, 1, 2)"),
    "two parts that are one": ("nn.Linear(4, 2)", "*[nn.Linear(4, 4)] * 2, nn.Linear(4, 2)"),
    "a weight that stays as it is": _then("field.net[0].weight.requires_grad_(False)"),
    "a weight laid out otherwise": _then(
        "weight = field.net[0].weight.data",
        "field.net[0].weight.data = weight.t().contiguous().t()",
    ),
    "a method of an object": _then("field.gate = lambda y: 2 * y"),
    "a method of a class that was replaced": _then("Base.gate = lambda self, y: 2 * y"),
    "a function of another module that was replaced": _then("helper.squeezed = torch.sin"),
    "a buffer": _then("field.register_buffer('more', torch.ones(2))"),
}
"""What to change of the two texts, and to what; each change is seen by a trace."""
