"""Plain `torch.nn` modules with an ODE inside.

A block is used like any other layer:

    >>> import torch
    >>> from isocline import nn
    >>> block = nn.ODEBlock(nn.MLPField(2, hidden=16), t1=1.0, rtol=1e-4)
    >>> block(torch.zeros(8, 2)).shape
    torch.Size([8, 2])
"""

from ..irregular import IrregularBatch as IrregularBatch
from .cde import CDEField as CDEField
from .cde import CubicPath as CubicPath
from .cde import NeuralCDE as NeuralCDE
from .cde import PathName as PathName
from .cde import hermite as hermite
from .cde import natural_cubic as natural_cubic
from .choice import CheaperWay as CheaperWay
from .fields import Activation as Activation
from .fields import ConcatConv2d as ConcatConv2d
from .fields import ConvField as ConvField
from .fields import MLPField as MLPField
from .fields import SemilinearField as SemilinearField
from .flows import CNF as CNF
from .flows import ClosedForm as ClosedForm
from .flows import ConcatSquash as ConcatSquash
from .flows import ConcatSquashField as ConcatSquashField
from .flows import Divergence as Divergence
from .flows import ExactDivergence as ExactDivergence
from .flows import FlowDistribution as FlowDistribution
from .flows import Flowed as Flowed
from .flows import FlowMatching as FlowMatching
from .flows import FlowTransform as FlowTransform
from .flows import HamiltonianField as HamiltonianField
from .flows import Hutchinson as Hutchinson
from .flows import HutchPlusPlus as HutchPlusPlus
from .flows import JacobianNorm as JacobianNorm
from .flows import KineticEnergy as KineticEnergy
from .flows import PlanarField as PlanarField
from .flows import PlanarFlow as PlanarFlow
from .flows import Rate as Rate
from .flows import Regularizer as Regularizer
from .flows import Sampler as Sampler
from .flows import StandardNormal as StandardNormal
from .flows import reverse_kl as reverse_kl
from .ode_block import Augment as Augment
from .ode_block import ODEBlock as ODEBlock
from .odenet import ImageClassifier as ImageClassifier
from .odenet import ModelName as ModelName
from .odenet import ResBlock as ResBlock
from .odenet import StemName as StemName
from .odenet import digits_stem as digits_stem
from .odenet import mnist_stem as mnist_stem
from .series import GRUD as GRUD
from .series import ODERNN as ODERNN
from .series import RNN as RNN
from .series import Bernoulli as Bernoulli
from .series import Elbo as Elbo
from .series import Encoder as Encoder
from .series import Gaussian as Gaussian
from .series import LatentODE as LatentODE
from .series import Likelihood as Likelihood
from .series import PoissonProcess as PoissonProcess
from .series import Prediction as Prediction
from .series import Recurrence as Recurrence
from .series import RecurrentEncoder as RecurrentEncoder
from .series import RecurrentForecaster as RecurrentForecaster
from .series import SeriesClassifier as SeriesClassifier
from .series import kl_annealing as kl_annealing
from .time import time_like as time_like
