"""What ``verify`` checks over positions: circular convolutions on a ring of 16 and on an 8 x 8 torus.

Every normalizer whose pools have a theory over positions, with 3-tap and 3 x 3 kernels; data only.
"""

from __future__ import annotations

import dataclasses

from theory.specs.inputs import Inputs, exchangeable
from theory.specs.networks import Layer
from theory.specs.normalizers import (
    filter_response_norm,
    group_norm,
    instance_norm,
)
from theory.zoo import zoo

__all__ = ["ACCUMULATED", "BATCH", "ESSENTIAL", "LAYERS", "SETTLED", "SHAPES", "inputs_of"]

# What finding (ii) and (iii) say about group size: these are part of every run that can pay for them.
ESSENTIAL = ("GN(2)", "GN(8)", "IN")
SHAPES: dict[str, tuple[int, ...]] = {"ring": (16,), "torus": (8, 8)}
BATCH = 4
# Last layer whose E[x^2] is compared: a normalizer sets it afresh in every layer, and where samples
# and positions collapse (LN, RMSNorm) each later layer only has more noise.  Where it accumulates,
# its growth is compared after this layer alone: noise grows as the root of depth, and the margin
# as depth.
SETTLED, ACCUMULATED = 2, 12
_KERNEL = 3

_IN = Layer(norm=instance_norm())
_GN2, _GN4, _GN8 = (Layer(norm=group_norm(size)) for size in (2, 4, 8))


def _convolutional(layer: Layer) -> Layer:
    return dataclasses.replace(layer, kernel=_KERNEL)


# Name, statement, layer, wrong theories (name, statement, layer).
_Wrong = tuple[str, str, Layer]
LAYERS: tuple[tuple[str, str, Layer, tuple[_Wrong, ...]], ...] = tuple(
    (
        name,
        statement,
        _convolutional(layer),
        tuple((n, s, _convolutional(wrong)) for n, s, wrong in controls),
    )
    for name, statement, layer, controls in (
        (
            "plain",
            "Circular convolutions leave exchangeable covariances as they are: as fully connected.",
            zoo["plain"],
            (("BN for plain", "takes the layers to be normalized", zoo["BN"]),),
        ),
        (
            "BN",
            "Over B samples and S positions BN is BN over B·S samples, once all gaps are equal.",
            zoo["BN"],
            (("IN for BN", "pools the positions of one sample only", _IN),),
        ),
        (
            "VN",
            "Without centering samples and positions collapse.",
            zoo["VN"],
            (("BN for VN", "takes VN to separate samples as BN does", zoo["BN"]),),
        ),
        (
            "MC",
            "Centering alone separates samples and positions as BN does.",
            zoo["MC"],
            (("plain for MC", "ignores the centering", zoo["plain"]),),
        ),
        (
            "LN",
            "Over positions and all channels R² = q: as without positions.",
            zoo["LN"],
            (("GN(8) for LN", "takes the pool to be finite", _GN8),),
        ),
        (
            "RMSNorm",
            "As LN: with infinitely many channels the mean is zero.",
            zoo["RMSNorm"],
            (("GN(8) for RMSNorm", "takes the pool to be finite", _GN8),),
        ),
        (
            "GN(2)",
            "Pools of 2 channels and S positions: the two-sample Laplace integral.",
            _GN2,
            (("IN for GN(2)", "forgets the second channel", _IN),),
        ),
        (
            "GN(8)",
            "Larger groups make samples alike and gradients stable.",
            _GN8,
            (("GN(4) for GN(8)", "halves the group", _GN4),),
        ),
        (
            "IN",
            "Over S positions gradients explode as through BN over S samples.",
            _IN,
            (("GN(2) for IN", "pools a second channel", _GN2),),
        ),
        (
            "FRN",
            "Dividing by the rms over positions without centering.",
            Layer(norm=filter_response_norm()),
            (("IN for FRN", "subtracts the mean", _IN),),
        ),
        (
            "WN",
            "Unit rows over channels and offsets, scaled relu.",
            zoo["WN"],
            (("plain for WN", "Gaussian rows with relu", zoo["plain"]),),
        ),
        (
            "SWS",
            "Rows centered over channels and offsets: as fully connected.",
            zoo["SWS"],
            (("plain for SWS", "forgets to center the rows", zoo["plain"]),),
        ),
        (
            "WC",
            "Centered Gaussian rows of SWS's variance: the same theory.",
            zoo["WC"],
            (("plain for WC", "forgets to center the rows", zoo["plain"]),),
        ),
    )
)


def inputs_of(kind: str) -> Inputs:
    """Four samples: correlations 0.3 of samples, 0.5 of positions, and their product where both differ."""
    return exchangeable(
        batch=BATCH, correlation=0.3, positions=SHAPES[kind], position_correlation=0.5
    )
