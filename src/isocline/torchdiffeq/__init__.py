"""The drop-in for torchdiffeq: its functions, options and names, on isocline's solvers.

Three ways to use it:

    from isocline.torchdiffeq import odeint             # in code of your own
    isocline.torchdiffeq.install()                      # before code that imports torchdiffeq
    python -m isocline.torchdiffeq script.py [args]     # for a script that is not to be touched

It behaves as torchdiffeq's master branch is documented to. Where that is wrong it is right:
`docs/coming-from-torchdiffeq.md` lists every difference.
"""

from .adjoint import odeint_adjoint as odeint_adjoint
from .installing import VERSION
from .installing import install as install
from .installing import uninstall as uninstall
from .interface import odeint as odeint
from .interface import odeint_dense as odeint_dense
from .interface import odeint_event as odeint_event
from .methods import SOLVERS as SOLVERS

__version__ = VERSION
