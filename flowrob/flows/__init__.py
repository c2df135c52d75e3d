"""Flows: densities made of bijections, as visible lists of layers (section 2.1).

================  ================================================================================
``bijections``    the laws, and the layers: ActNorm, 1x1 convolution, squeeze, logit, chain, levels
``couplings``     half of an input moves the other half: Glow's and RealNVP's
``conditioners``  the networks inside the couplings
``models``        ``Flow``, ``glow``, ``realnvp``, ``plane_flow``, and the published sizes
``mixtures``      one density made of several flows, and what bounds it
``round_trip``    how well a flow can be inverted in floating point
``foreign``       a Glow that another library trained
================  ================================================================================
"""

from flowrob.flows.bijections import (
    ActNorm,
    Bijection,
    Chain,
    InvertibleConv1x1,
    Logit,
    MultiScale,
    Squeeze,
)
from flowrob.flows.conditioners import ResidualNet, ZeroConv2d, conv_net, mlp
from flowrob.flows.couplings import AffineCoupling, MaskedCoupling, checkerboard
from flowrob.flows.foreign import import_state_dict
from flowrob.flows.mixtures import FlowMixture
from flowrob.flows.models import (
    PUBLISHED,
    Flow,
    glow,
    plane_flow,
    published,
    realnvp,
    standard_normal_log_prob,
)
from flowrob.flows.round_trip import Invertibility, invertibility

__all__ = [
    "PUBLISHED",
    "ActNorm",
    "AffineCoupling",
    "Bijection",
    "Chain",
    "Flow",
    "FlowMixture",
    "Invertibility",
    "InvertibleConv1x1",
    "Logit",
    "MaskedCoupling",
    "MultiScale",
    "ResidualNet",
    "Squeeze",
    "ZeroConv2d",
    "checkerboard",
    "conv_net",
    "glow",
    "import_state_dict",
    "invertibility",
    "mlp",
    "plane_flow",
    "published",
    "realnvp",
    "standard_normal_log_prob",
]
