"""Why a solve went as it did, and how right its gradient is: it is taken again, and watched."""

from .explanation import Component as Component
from .explanation import Explanation as Explanation
from .explanation import Memory as Memory
from .explanation import Rejection as Rejection
from .explanation import explain as explain
from .gradient_report import GradientReport as GradientReport
from .gradient_report import GradientRow as GradientRow
from .stiffness import Stiffness as Stiffness
