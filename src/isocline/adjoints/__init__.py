"""Adjoints: the ways to differentiate a solve, one file each."""

from .backsolve import Backsolve as Backsolve
from .base import Adjoint as Adjoint
from .checkpointed import Checkpointed as Checkpointed
from .direct import Direct as Direct
from .forward import Forward as Forward
from .interpolated import Interpolated as Interpolated
from .stepback import StepBack as StepBack
