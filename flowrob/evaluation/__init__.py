"""Evaluation: what an attack does to a likelihood, and what helps (section 5).

================  =================================================================================
``bits``          bits/dim of a set of images; floors and ceilings that hold for every density
``robustness``    the table of one attack
``convergence``   attacks that go on until longer ones find no more, or say ``>=``
``strongest``     the table of the worst of many attacks, shared by models, and of converged ones
``detection``     AUROC of telling data from the rest by their likelihood
``scores``        other detectors: typicality, and likelihood corrected for complexity
``certificates``  bounds on a smoothed likelihood that hold for every attack
``defences``      mixtures, other bases, a uniform floor: rivals that need no robust training
``layers``        anatomy: through which layers of a flow an attack grows
``table``         how rows are shown
================  =================================================================================
"""

from flowrob.evaluation.bits import (
    bootstrap_interval,
    gibbs_floor,
    paired_difference,
    uniform_ceiling,
)
from flowrob.evaluation.certificates import Certificate, certify_median, order_statistic
from flowrob.evaluation.convergence import Budget
from flowrob.evaluation.defences import choose_base, mixture, mixture_bound, rebased, uniform
from flowrob.evaluation.detection import detection_table
from flowrob.evaluation.layers import Anatomy, activations, anatomy, top_singular_values
from flowrob.evaluation.robustness import robustness_table
from flowrob.evaluation.scores import codec_bits, complexity_corrected, typicality
from flowrob.evaluation.strongest import ATTACKS, converged_table, schedules, strongest_table
from flowrob.evaluation.table import Table, pipe_table
from flowrob.units import bits_per_dim

__all__ = [
    "ATTACKS",
    "Anatomy",
    "Budget",
    "Certificate",
    "Table",
    "activations",
    "anatomy",
    "bits_per_dim",
    "bootstrap_interval",
    "certify_median",
    "choose_base",
    "codec_bits",
    "complexity_corrected",
    "converged_table",
    "detection_table",
    "gibbs_floor",
    "mixture",
    "mixture_bound",
    "order_statistic",
    "paired_difference",
    "pipe_table",
    "rebased",
    "robustness_table",
    "schedules",
    "strongest_table",
    "top_singular_values",
    "typicality",
    "uniform",
    "uniform_ceiling",
]
