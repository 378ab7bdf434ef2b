"""Models of time series with irregular times."""

from .classifier import SeriesClassifier as SeriesClassifier
from .elbo import Elbo as Elbo
from .elbo import kl_annealing as kl_annealing
from .encoder import Encoder as Encoder
from .encoder import RecurrentEncoder as RecurrentEncoder
from .forecaster import RecurrentForecaster as RecurrentForecaster
from .gru_d import GRUD as GRUD
from .latent_ode import LatentODE as LatentODE
from .likelihoods import Bernoulli as Bernoulli
from .likelihoods import Gaussian as Gaussian
from .likelihoods import Likelihood as Likelihood
from .ode_rnn import ODERNN as ODERNN
from .poisson import PoissonProcess as PoissonProcess
from .prediction import Prediction as Prediction
from .recurrence import Recurrence as Recurrence
from .rnn import RNN as RNN
from .rows import Rows as Rows
