"""Why a solve went as it did: it is taken again under observation."""

from .explanation import Component as Component
from .explanation import Explanation as Explanation
from .explanation import Memory as Memory
from .explanation import Rejection as Rejection
from .explanation import explain as explain
from .stiffness import Stiffness as Stiffness
