"""Do a few simulated networks agree with the prediction?  A sequential test with a known false-alarm rate.

Each stage simulates fresh networks at two widths n and 2n, extrapolates the mean of every quantity to
infinite width, a = 2 m(2n) - m(n), and tests |a - theory| <= margin at the stage's level, Bonferroni over
the quantities.  The first stage that does not reject ends the test: agreement.  Only if all ``STAGES``
reject is there an alarm.  Stages are independent (their own seeds), wider and larger one after the other, and
the first rejects one time in five, so that small errors reach the later ones.  A correct prediction raises an
alarm with at most the product of the levels, 1e-6; a suite of ``LARGEST_SUITE`` networks with at most 1e-3.

Power: of two plain layers, which fluctuate most, a second moment that is 20 % off is always found (40 of
40 seeds), one that is 10 % off 9 times in 10, one that is 4 % off 3 times in 10.  Smaller mistakes are for
``normcompass verify``.

The margin is what extrapolation leaves of order 1/n^2, (depth c/n)^2 with c = ``CURVATURE`` per layer,
and the prediction's stated error.  Gradients are compared where their variance exists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from montecarlo.ensemble import simulate
from montecarlo.results import Simulation
from montecarlo.statistics import p_value
from theory.recursion import predict
from theory.results import Prediction
from theory.specs import serialize
from theory.specs.inputs import Inputs
from theory.specs.networks import Network

__all__ = [
    "LARGEST_SUITE",
    "STAGES",
    "Disagreement",
    "Stage",
    "check_agreement",
    "stage_p_value",
]

FloatArray = NDArray[np.float64]


class Stage(NamedTuple):
    """Networks of widths n and 2n, ``replicates`` of each, tested at ``level``."""

    width: int
    replicates: int
    level: float


# Divisible by groups of 2, 3, 4, 5 and 8 channels.  Width is cheap where weights collapse.
STAGES = (Stage(240, 32, 0.2), Stage(960, 64, 0.01), Stage(1920, 128, 5e-4))
LARGEST_SUITE = 1000
CURVATURE = 3.0
# RQMC's stated errors are standard errors; these many of them are a bound.
_SIGMAS = 5.0


class Disagreement(AssertionError):
    """Every stage rejected the prediction."""


@dataclass(frozen=True)
class Quantity:
    """One number of the last (or, for gradients, first) layer: prediction, bound, per-network samples."""

    name: str
    theory: float
    bound: float

    def of(self, simulation: Simulation) -> FloatArray:
        """Its value in every simulated network."""
        return simulation.samples[self.name][:, 0 if "gradient" in self.name else -1]

    def margin(self, truncation: float) -> float:
        """How far the mean of a correct theory may be: stated error, extrapolation, rounding."""
        return self.bound + truncation + 1e-10 * (1.0 + abs(self.theory))


def quantities(prediction: Prediction) -> list[Quantity]:
    """What is compared: log E[x^2], log(1 - s), s and log(|g^1|/|g^L|)^2, where a variance exists."""
    kind, norm = prediction.regime, prediction.network.layer.norm
    sigmas = _SIGMAS if "RQMC" in (prediction.forward_route, prediction.backward_route) else 1.0
    error = {name: sigmas * float(values[-1]) for name, values in prediction.error.items()}
    found = [Quantity("similarity", float(prediction.similarity[-1]), error["similarity"])]
    raw = norm is not None and not norm.centered and norm.denominator not in ("rms", "none")
    if not (raw and kind.status != "regular"):
        value = float(prediction.log_second_moment[-1])
        found.append(Quantity("log_second_moment", value, error["log_second_moment"]))
    if prediction.log_gradient_norm is not None and kind.status == "regular":
        first = float(prediction.log_gradient_norm[0])
        stated = 2.0 * sigmas * float(prediction.error["log_gradient_norm"][0])
        if prediction.depth > 1 and math.isfinite(first):
            found.append(Quantity("log_gradient_ratio", 2.0 * first, stated))
    return found


def check_agreement(network: Network, inputs: Inputs, *, seed: int = 0) -> float:
    """Simulate until one stage agrees with ``predict(network, inputs)``; return that stage's p-value.

    Parameters
    ----------
    network, inputs
        What to predict and to simulate.
    seed
        Of the first stage; the k-th takes 1000 k more.

    Raises
    ------
    Disagreement
        All stages rejected; the message has the numbers, and the command that repeats them.
    NormcompassError
        The theory has no prediction, or the simulation fails.
    """
    prediction = predict(network, inputs)
    story = []
    for k, stage in enumerate(STAGES):
        p, line = _run(network, inputs, prediction, stage, seed=seed + 1000 * k)
        if p > stage.level:
            return p
        story.append(line)
    raise Disagreement(
        "theory and simulation disagree:\n  "
        + "\n  ".join(story)
        + f"\nReproduce with\n  {command(network, inputs, seed=seed)}"
    )


def stage_p_value(prediction: Prediction, stage: Stage, *, seed: int) -> float:
    """Smallest p-value over the quantities, times their number: below the level with that probability."""
    return _run(prediction.network, prediction.inputs, prediction, stage, seed=seed)[0]


def command(network: Network, inputs: Inputs, *, seed: int) -> str:
    """Shell command that repeats ``check_agreement``."""
    arguments = (repr(serialize.to_json(spec)) for spec in (network, inputs))
    code = "from montecarlo.agreement import repeat; repeat({}, {}, seed={})"
    return 'python -c "' + code.format(*arguments, seed).replace('"', r"\"") + '"'


def repeat(network: str, inputs: str, *, seed: int) -> float:
    """``check_agreement`` of two specifications in JSON."""
    return check_agreement(serialize.from_json(network), serialize.from_json(inputs), seed=seed)


def _run(
    network: Network, inputs: Inputs, prediction: Prediction, stage: Stage, *, seed: int
) -> tuple[float, str]:
    compared = quantities(prediction)
    backward = any("gradient" in quantity.name for quantity in compared)
    simulations = [
        simulate(
            network,
            inputs,
            width=width,
            replicates=stage.replicates,
            seed=seed,
            backward=backward,
            workers=1,
        )
        for width in (stage.width, 2 * stage.width)
    ]
    truncation = truncation_of(prediction, stage)
    worst, line = math.inf, ""
    for quantity in compared:
        p, described = _test(quantity, simulations, truncation)
        if p < worst:
            worst, line = p, described
    return min(1.0, worst * len(compared)), f"n = {stage.width}, {2 * stage.width}: {line}"


def _test(
    quantity: Quantity, simulations: list[Simulation], truncation: float
) -> tuple[float, str]:
    narrow, wide = (quantity.of(s) for s in simulations)
    value, sem, dof = extrapolated(narrow, wide)
    bound = quantity.margin(truncation)
    p = p_value(value - quantity.theory, sem=sem, dof=dof, bound=bound)
    return float(p), (
        f"{quantity.name} = {value:.6g} +- {sem:.2g} extrapolated, {quantity.theory:.6g} predicted "
        f"(margin {bound:.2g}, p = {float(p):.2g})"
    )


def truncation_of(prediction: Prediction, stage: Stage) -> float:
    """(depth c/2n)^2: what extrapolation leaves."""
    return (CURVATURE * _maps(prediction) / (2 * stage.width)) ** 2


def extrapolated(narrow: FloatArray, wide: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """a = 2 m(2n) - m(n) over the last axis, its standard error, and Welch's degrees of freedom."""
    value = 2.0 * wide.mean(axis=-1) - narrow.mean(axis=-1)
    parts = [4.0 * wide.var(axis=-1, ddof=1), narrow.var(axis=-1, ddof=1)]
    parts = [part / samples.shape[-1] for part, samples in zip(parts, (wide, narrow), strict=True)]
    variance = np.maximum(parts[0] + parts[1], 1e-150)
    squares = (parts[0] ** 2 + parts[1] ** 2) / (wide.shape[-1] - 1)
    dof = variance**2 / np.maximum(squares, 1e-6 * variance**2)
    return value, np.sqrt(variance), dof


def _maps(prediction: Prediction) -> int:
    """Linear maps that a signal passes."""
    return prediction.depth * int(getattr(prediction.network, "maps", 1) or 1)
