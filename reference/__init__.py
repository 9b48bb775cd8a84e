"""The truth of minigtn in NumPy and HIPS autograd, float64: small enough for one afternoon, and never
optimized.

Read in this order: ``README.md`` (the derivation), ``fixed_point`` (numbers that can be un-multiplied),
``sgd`` (one loop forward, one loop back), ``layers`` (the networks), ``gtn`` (one whole outer step),
``train`` (a network that teaches). ``python -m reference`` runs the last one.
"""

# ruff: noqa: F401, I001
# fmt: off

from reference.fixed_point import FRACTION_BITS, LIMIT, MAX_DENOMINATOR, to_fixed, to_float
from reference.fixed_point import Exact, FixedPointOverflow, Float, InformationBuffer, rational, scale
from reference.gtn import curriculum, fixed_labels, meta_gradient, readout_steps
from reference.layers import Layout, cross_entropy, generator, learner
from reference.sgd import Gradients, NotReversed, Run, forward, reverse
