"""The linear flow: one density whose attacks and whose training have closed forms (section 3).

==========================  ======================================================================
``gaussian``                the density, its exact worst, best and universal perturbation (3.1, 3.3)
``linf``                    the same question for the l_inf ball: a search and a certified bound
``sphere``                  adversarial training where K = sigma^2 I, in closed form (3.2)
``adversarial_training``    any covariance, and training against universal perturbations (3.2, 3.3)
``frontier``                the exchange of likelihood for robustness, and the best models in it
==========================  ======================================================================
"""

from flowrob.linear.adversarial_training import retrain, universal_drop, universal_training
from flowrob.linear.frontier import (
    ParetoPoint,
    TradeOff,
    certificate,
    pareto_frontier,
    trade_off,
    water_filling,
)
from flowrob.linear.gaussian import GaussianFlow, Perturbation, best_case, universal, worst_case
from flowrob.linear.linf import LinfPerturbation, linf_bound, worst_case_linf
from flowrob.linear.sphere import (
    PROCEDURES,
    chi_mean,
    failure_probability,
    natural_drop,
    rounds_for,
    sensitivity,
    spherical_growth,
    stability_limit,
    variance_growth,
)

__all__ = [
    "PROCEDURES",
    "GaussianFlow",
    "LinfPerturbation",
    "ParetoPoint",
    "Perturbation",
    "TradeOff",
    "best_case",
    "certificate",
    "chi_mean",
    "failure_probability",
    "linf_bound",
    "natural_drop",
    "pareto_frontier",
    "retrain",
    "rounds_for",
    "sensitivity",
    "spherical_growth",
    "stability_limit",
    "trade_off",
    "universal",
    "universal_drop",
    "universal_training",
    "variance_growth",
    "water_filling",
    "worst_case",
    "worst_case_linf",
]
