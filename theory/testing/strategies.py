"""Hypothesis strategies for everything that is specified; they shrink towards a plain relu network.

No strategy filters: what does not fit together is never drawn.  First choices are the simplest ones,
because Hypothesis shrinks towards them, and numbers shrink towards 1 or 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from theory.specs import activations as act
from theory.specs import normalizers as nm
from theory.specs._check import flag, instance, integer
from theory.specs.activations import ACTIVATION_NAMES, Activation
from theory.specs.inputs import Inputs, exchangeable, from_covariance, from_data
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import Denominator, Normalizer, Pool
from theory.specs.residual import ORDERS, Residual
from theory.specs.weights import Weights, centered_weights, gaussian
from theory.specs.weights import scaled_weight_standardization as sws
from theory.specs.weights import weight_norm as wn

__all__ = [
    "GROUPS",
    "HOMOGENEOUS",
    "activations",
    "around_one",
    "batches",
    "covariances",
    "epsilons",
    "extreme_inputs",
    "extreme_networks",
    "gaps",
    "layers",
    "nearly_equal",
    "networks",
    "normalizers",
    "over_positions",
    "ratios",
    "residual_networks",
    "seeds",
    "weights",
    "widths",
]

HOMOGENEOUS = ("relu", "leaky_relu", "identity", "abs")
GROUPS = (2, 3, 4, 5, 8)


def around_one(low: float, high: float) -> SearchStrategy[float]:
    """1 first, then [low, high]."""
    return st.just(1.0) | st.floats(low, high)


def activations(
    *, names: Sequence[str] = ACTIVATION_NAMES, affine: bool = True
) -> SearchStrategy[Activation]:
    """phi = scale base + shift; relu first.

    Parameters
    ----------
    names
        Base functions to choose from.
    affine
        Whether scale and shift differ from 1 and 0 in some of them.
    """
    instance("names", names, Sequence, "a list of names", 'pass ["relu"], say')

    def build(name: str, slope: float, scale: float, shift: float) -> Activation:
        base = act.leaky_relu(slope) if name == "leaky_relu" else Activation(name=name)
        return base.affine(scale=scale, shift=shift)

    plain = st.builds(
        build, st.sampled_from(list(names)), st.floats(-1.0, 1.0), st.just(1.0), st.just(0.0)
    )
    if not flag("affine", affine):
        return plain
    scales = around_one(0.25, 4.0) | st.floats(-4.0, -0.25)
    return plain | st.builds(
        build, st.sampled_from(list(names)), st.floats(-1.0, 1.0), scales, st.floats(-2.0, 2.0)
    )


def epsilons(*, largest: float = 1.0) -> SearchStrategy[float]:
    """0, PyTorch's default, or up to ``largest``."""
    return st.sampled_from([0.0, 1e-5, 0.1]) | st.floats(1e-3, largest)


@st.composite
def normalizers(
    draw: DrawFn,
    *,
    samples: bool | None = None,
    positions: bool | None = None,
    channels: Sequence[float] = (math.inf, *GROUPS, 1),
    gates: bool = True,
    eps: SearchStrategy[float] | None = None,
) -> Normalizer:
    """Any pool, numerator, denominator, group size, eps and ddof, whether anybody named it or not.

    Parameters
    ----------
    samples, positions
        Whether pools run over them; None for either.
    channels
        Group sizes to choose from.
    gates
        Whether EvoNorm's gates occur.
    eps
        Strategy of eps; by default 0, 1e-5, 0.1 and numbers up to 1.
    """
    over_samples = draw(st.booleans()) if samples is None else samples
    over_positions = draw(st.just(True) | st.booleans()) if positions is None else positions
    size = draw(st.sampled_from(list(channels)))
    # One number has no pool; two pooled channels are the least.
    if not over_samples and not over_positions and size == 1:
        size = 2
    kind = draw(st.sampled_from(["ratio", "ratio", "ratio", "none", "gate"]))
    if kind == "none":
        return Normalizer(
            name="custom",
            pool=Pool(samples=over_samples, positions=over_positions, channels=size),
            centered=draw(st.booleans()),
            denominator="none",
        )
    centered, denominator, gate = True, "std", None
    if kind == "gate" and gates:
        centered, gate = False, draw(around_one(-2.0, 2.0))
        if over_samples and positions is not False and draw(st.booleans()):
            over_positions, size, denominator = True, 1, "evonorm_b0"
    else:
        centered, denominator = draw(st.booleans()), draw(st.sampled_from(["std", "rms"]))
    return Normalizer(
        name="custom",
        pool=Pool(samples=over_samples, positions=over_positions, channels=size),
        centered=centered,
        denominator=denominator,  # type: ignore[arg-type]
        gate=gate,
        eps=draw(epsilons() if eps is None else eps),
        ddof=0 if denominator == "rms" else draw(st.integers(0, 1)),
    )


def weights() -> SearchStrategy[Weights]:
    """Gaussian first; centered, normalized, and both."""
    variances = st.floats(0.5, 4.0)
    return st.one_of(
        st.just(gaussian()),
        st.builds(gaussian, weight_variance=variances),
        st.builds(centered_weights, weight_variance=variances),
        st.just(wn()),
        st.builds(sws, gain=st.floats(0.5, 2.0)),
    )


def layers(
    *,
    norms: SearchStrategy[Normalizer | None] | None = None,
    phis: SearchStrategy[Activation] | None = None,
    rows: SearchStrategy[Weights] | None = None,
) -> SearchStrategy[Layer]:
    """Weights, normalizer and activation drawn apart; a plain relu layer first."""
    return st.builds(
        Layer,
        weights=weights() if rows is None else rows,
        norm=st.none() | normalizers() if norms is None else norms,
        activation=activations() if phis is None else phis,
    )


@st.composite
def ratios(
    draw: DrawFn, *, samples: bool, channels: Sequence[float], equal: bool = False
) -> Normalizer:
    """(h - mean or h) / (std or rms); with ``equal`` both or neither are about the mean."""
    centered = draw(st.just(True) | st.booleans())
    denominator: Denominator = "std" if centered else "rms"
    if not equal:
        denominator = draw(st.sampled_from(["std", "rms"]))
    return Normalizer(
        name="custom",
        pool=Pool(samples=samples, positions=True, channels=draw(st.sampled_from(channels))),
        centered=centered,
        denominator=denominator,
        eps=draw(epsilons()),
        ddof=draw(st.integers(0, 1)) if denominator == "std" else 0,
    )


def networks(
    of: SearchStrategy[Layer] | None = None, *, largest_depth: int = 4
) -> SearchStrategy[FeedForward]:
    """Feed-forward networks of ``of``, one layer deep first."""
    return st.builds(
        FeedForward, layers() if of is None else of, depth=st.integers(1, largest_depth)
    )


@st.composite
def residual_networks(
    draw: DrawFn, of: SearchStrategy[Layer] | None = None, *, largest_depth: int = 4
) -> Residual:
    """Every order, one or two maps, skips and branches, with or without a stem."""
    return Residual(
        draw(layers() if of is None else of),
        depth=draw(st.integers(1, largest_depth)),
        order=draw(st.sampled_from(ORDERS)),
        skip=draw(around_one(0.25, 2.0)),
        branch=draw(around_one(-2.0, 2.0)),
        maps=draw(st.sampled_from([1, 2])),
        stem=draw(st.just(gaussian()) | st.none()),
    )


def widths(*, smallest: int = 8, largest: int = 128, multiple: int = 8) -> SearchStrategy[int]:
    """Multiples of ``multiple``, so that groups of that size fit."""
    remedy = "count the channels"
    multiple = integer("multiple", multiple, low=1, remedy=remedy)
    smallest = integer("smallest", smallest, low=1, remedy=remedy)
    largest = integer("largest", largest, low=smallest, remedy=remedy)
    return st.integers(smallest // multiple, largest // multiple).map(lambda k: k * multiple)


def seeds() -> SearchStrategy[int]:
    """Seeds of random numbers, 0 first."""
    return st.integers(0, 2**32 - 1)


def gaps(*, largest: float, smallest: float = 0.0) -> SearchStrategy[float]:
    """1 - correlation: in [smallest, largest], or as small as 1e-15 unless ``smallest`` is more."""
    wide = st.floats(max(smallest, 0.01), largest)
    near = st.integers(2, 15).map(lambda k: max(10.0**-k, smallest))
    return st.just(min(1.0, largest)) | wide | near | st.just(max(smallest, 0.0))


@st.composite
def batches(
    draw: DrawFn, *, smallest: int = 2, largest: int = 8, smallest_gap: float = 0.0
) -> Inputs:
    """Exchangeable batches, identical samples and opposite ones included."""
    batch = draw(st.integers(smallest, largest))
    top = 1.0 + 1.0 / max(batch - 1, 1)
    return exchangeable(
        batch=batch,
        gap=draw(gaps(largest=top, smallest=smallest_gap)),
        second_moment=draw(around_one(0.1, 10.0)),
    )


@st.composite
def covariances(
    draw: DrawFn, *, smallest: int = 2, largest: int = 5, full_rank: bool = False
) -> Inputs:
    """K = F F'/r with small integers in F, of any rank r; with ``full_rank`` plus a multiple of I."""
    batch = draw(st.integers(smallest, largest))
    rank = draw(st.integers(1, batch))
    # The first column has no zeros, so that no sample is zero.
    first = draw(st.lists(st.sampled_from([1, -1, 2, 3]), min_size=batch, max_size=batch))
    rest = draw(
        st.lists(
            st.lists(st.integers(-3, 3), min_size=rank - 1, max_size=rank - 1),
            min_size=batch,
            max_size=batch,
        )
    )
    factor = np.array([[a, *row] for a, row in zip(first, rest, strict=True)], dtype=float)
    covariance = factor @ factor.T / rank
    if full_rank:
        covariance += draw(around_one(0.1, 2.0)) * np.eye(batch)
    return from_covariance(covariance)


@st.composite
def nearly_equal(draw: DrawFn, *, smallest: int = 2, largest: int = 5) -> Inputs:
    """Data whose samples differ by 10^-k of their size, 1 <= k <= 7."""
    batch = draw(st.integers(smallest, largest))
    features = batch + 2
    rng = np.random.default_rng(draw(seeds()))
    apart = 10.0 ** -draw(st.integers(1, 7))
    common = rng.standard_normal(features)
    return from_data(common + apart * rng.standard_normal((batch, features)))


@st.composite
def over_positions(
    draw: DrawFn,
    *,
    smallest: int = 2,
    largest: int = 4,
    positions: Sequence[int] = (2, 3, 4, 5),
    smallest_gap: float = 0.0,
) -> Inputs:
    """Batches exchangeable over samples and over positions, their covariance a product."""
    batch = draw(st.integers(smallest, largest))
    size = draw(st.sampled_from(list(positions)))
    return exchangeable(
        batch=batch,
        gap=draw(gaps(largest=1.0 + 1.0 / max(batch - 1, 1), smallest=smallest_gap)),
        positions=size,
        position_gap=draw(st.just(1.0) | st.floats(0.01, 1.0 + 1.0 / (size - 1))),
        second_moment=draw(around_one(0.1, 10.0)),
    )


def extreme_networks() -> SearchStrategy[FeedForward]:
    """Networks at the edges of their domains: nothing that one would predict, everything to be stored."""
    numbers = st.floats(-1e3, 1e3)
    phis = st.builds(
        lambda name, slope, scale, shift: Activation(
            name=name,
            negative_slope=slope if name == "leaky_relu" else None,
            scale=scale or 1.0,
            shift=shift,
        ),
        st.sampled_from(ACTIVATION_NAMES),
        st.floats(-1.0, 1.0),
        numbers,
        numbers,
    )
    eps = st.sampled_from([0.0, 1e-5]) | st.floats(0.0, 1.0)
    norms = st.one_of(
        st.none(),
        st.builds(nm.batch_norm, eps=eps, ddof=st.integers(0, 1)),
        st.builds(nm.layer_norm, eps=eps),
        st.builds(nm.rms_norm, eps=eps, positions=st.booleans()),
        st.builds(nm.group_norm, st.integers(1, 2**40), eps=eps),
        st.builds(nm.evonorm_s0, st.none() | st.integers(1, 64), gate=numbers),
        st.builds(nm.evonorm_b0, gate=numbers, eps=eps),
        normalizers(),
    )
    rows = st.one_of(
        st.builds(gaussian, weight_variance=st.floats(1e-300, 1e300)),
        st.just(wn()),
        st.builds(sws, gain=st.floats(1e-3, 1e3)),
    )
    return st.builds(
        FeedForward, layers(norms=norms, phis=phis, rows=rows), depth=st.integers(1, 10**9)
    )


def extreme_inputs() -> SearchStrategy[Inputs]:
    """Huge and infinite batches, negative zeros, and everything usual."""
    sizes = st.integers(2, 10**6) | st.just(math.inf)
    return st.one_of(
        st.builds(exchangeable, batch=sizes, gap=st.floats(0, 1)),
        st.builds(lambda x: from_data(np.array([[x, 1.0], [2.0, -0.0]])), st.floats(-1e3, 1e3)),
        st.builds(lambda x: from_covariance([[x, 0.1], [0.1, 1.0]]), st.floats(0.1, 10.0)),
        batches() | covariances() | nearly_equal() | over_positions(),
    )
