"""Step controllers, error norms and the choice of the first step."""

from .base import Controller as Controller
from .base import Decision as Decision
from .base import StepBounds as StepBounds
from .constant import Constant as Constant
from .pid import PI as PI
from .pid import PID as PID
from .pid import I as I
