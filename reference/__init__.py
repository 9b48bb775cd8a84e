"""The truth of minigtn in NumPy and HIPS autograd, float64: small enough for one afternoon, and never optimised.

Read in this order: ``README.md`` (the derivation), ``fixed_point`` (numbers that can be un-multiplied), ``sgd`` (one
loop forward, one loop back), ``layers`` (the networks) and ``gtn`` (one whole outer step).
"""

from reference.fixed_point import (
    FRACTION_BITS,
    LIMIT,
    MAX_DENOMINATOR,
    Exact,
    FixedPointOverflow,
    Float,
    InformationBuffer,
    rational,
    scale,
    to_fixed,
    to_float,
)
from reference.gtn import curriculum, fixed_labels, outer_gradient, readout_steps
from reference.layers import Layout, cross_entropy, generator, learner
from reference.sgd import Gradients, NotReversed, Run, forward, reverse

__all__ = [
    "FRACTION_BITS",
    "LIMIT",
    "MAX_DENOMINATOR",
    "Exact",
    "FixedPointOverflow",
    "Float",
    "Gradients",
    "InformationBuffer",
    "Layout",
    "NotReversed",
    "Run",
    "cross_entropy",
    "curriculum",
    "fixed_labels",
    "forward",
    "generator",
    "learner",
    "outer_gradient",
    "rational",
    "readout_steps",
    "reverse",
    "scale",
    "to_fixed",
    "to_float",
]
