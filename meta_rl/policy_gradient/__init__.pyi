from .agent import FastWeights as FastWeights
from .agent import PolicyGradientAgent as PolicyGradientAgent
