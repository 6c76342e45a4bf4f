"""predict: fold the operations forwards, then backwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from theory.folds import INFINITE_LAYER, Backward, fold, follow_gradient, schedule
from theory.laws import non_gaussian
from theory.numerics import within_range
from theory.regimes import regime
from theory.results import Prediction, PredictionSet
from theory.routes.positions_spectrum import PositionSpectrum
from theory.specs._check import flag, integer, named
from theory.specs.compatibility import check
from theory.specs.grids import needs_grid
from theory.specs.inputs import ExchangeableInputs, Inputs
from theory.specs.networks import Network
from theory.specs.spatial import SpatialInputs
from theory.states.base import Observables
from theory.states.exchangeable import Exchangeable
from theory.states.full import Full
from theory.states.grid import Grid
from theory.states.spatial import Spatial

__all__ = ["initial_state", "predict", "predict_many"]


def initial_state(inputs: Inputs, *, grid: bool = False) -> Exchangeable | Spatial | Full | Grid:
    """The state of x^0; with ``grid`` every pair of (sample, position)."""
    if grid:
        return Grid.of_inputs(inputs)
    if isinstance(inputs, SpatialInputs):
        q = inputs.second_moment
        spectrum = PositionSpectrum(inputs.positions, *(q * value for value in inputs.eigenvalues))
        resolution = inputs.resolution
        return Spatial(inputs.batch, spectrum.tidied(), inputs.feature_mean, gap_error=resolution)
    if isinstance(inputs, ExchangeableInputs):
        return Exchangeable(inputs.batch, inputs.second_moment, inputs.gap, inputs.feature_mean)
    return Full(inputs.second_moment, inputs.gap, inputs.feature_mean)


@within_range
def predict(
    network: Network, inputs: Inputs, *, backward: bool = True, refine: int = 1
) -> Prediction:
    """Infinite-width prediction of every layer's observables.

    Folds Sigma^{l+1} = sigma_w^2 V(Sigma^l) forwards and Pi^l = T(sigma_w^2 Pi^{l+1}) backwards
    (theory notes, sections 1 and 3), from a cotangent of independent standard Gaussians at x^L; along
    a residual stream Sigma' = a^2 Sigma + b^2 sigma_w^2 V(Sigma), Pi = a^2 Pi' + b^2 T(sigma_w^2 Pi')
    (section 5).  A stream that is not Gaussian is followed as a population of channels from a fixed
    seed, with standard errors; see ``theory.population.prediction``.

    Parameters
    ----------
    network
        What to predict.
    inputs
        Exchangeable batch, real data or a covariance.
    backward
        Whether to follow the gradient as well.
    refine
        Where populations are needed: this many times as many, of this many times as many channels.
        Their errors fall by ``refine`` or more (Student), time grows with its square.  Other routes
        do not change.

    Returns
    -------
    Prediction
        Arrays of length ``depth``, with route and error per observable and layer.

    Raises
    ------
    SpecificationError
        The normalizer is not defined on these inputs.
    HypothesisError
        A formula's hypothesis is violated: zero pool variance at eps = 0, an infinite second
        moment, a stream that is not Gaussian of data or of positions that are not alike, or an
        expectation that no route takes.
    NumericalError
        Overflow of a network that is not scale free, or no convergence.
    """
    refine = integer("refine", refine, low=1, high=64, remedy="use 1, or 4 for a quarter")
    flag("backward", backward)
    check(network, inputs)
    kind = regime(network, inputs)
    departure = non_gaussian(network, inputs)
    if departure is not None:
        # A quarter of the import's time, for streams that few ask for.
        from theory.population.prediction import predict_population

        return predict_population(
            network, inputs, kind, departure=departure, backward=backward, refine=refine
        )
    program = schedule(network)
    states, forward_route = fold(
        program.ops, initial_state(inputs, grid=needs_grid(network, inputs))
    )

    signal, backward_route = Backward(None, None, None, None), None
    if backward:
        signal, backward_route = follow_gradient(program, states, kind)
        assert signal.log_gradient is not None
        if kind.status not in ("infinite", "degenerate") and np.isposinf(signal.log_gradient).any():
            kind = replace(kind, status="infinite", reason=INFINITE_LAYER)
    pre, post = [states[k] for k in program.preactivations], [states[k] for k in program.outputs]
    # One reading for both: half the cost of reading a deep network.
    observed = type(post[0]).observe(pre + post)
    for values in observed:
        values.flags.writeable = False
    split = len(pre)
    return Prediction(
        network=network,
        inputs=inputs,
        regime=kind,
        activation=Observables(*(values[split:] for values in observed)),
        preactivation=Observables(*(values[:split] for values in observed)),
        log_gradient_norm=signal.log_gradient,
        gradient_error=signal.gradient_error,
        log_branch_gradient_norm=signal.log_branch_gradient,
        branch_gradient_error=signal.branch_gradient_error,
        forward_route=forward_route,
        backward_route=backward_route,
        states=post,
    )


def predict_many(
    networks: Mapping[str, Network], inputs: Inputs, *, backward: bool = True
) -> PredictionSet:
    """``predict`` for several networks on the same inputs, kept by name for tables and plots.

    Parameters
    ----------
    networks
        Name -> network.
    inputs, backward
        As for ``predict``.
    """
    named("networks", networks, "networks")
    return PredictionSet(
        {name: predict(net, inputs, backward=backward) for name, net in networks.items()}
    )
