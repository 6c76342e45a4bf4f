"""Predictions: arrays over depth, each number with its route and its error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import out_of_domain
from theory.regimes import Regime
from theory.specs._check import instance, named
from theory.specs.inputs import Inputs
from theory.specs.networks import Layer, Network
from theory.specs.residual import Residual
from theory.states.base import Observables
from theory.states.grid import Grid

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OBSERVABLES", "Prediction", "PredictionSet"]

FloatArray = NDArray[np.float64]

OBSERVABLES = (
    "second_moment",
    "variance",
    "similarity",
    "stable_rank",
    "preactivation_second_moment",
    "preactivation_correlation",
    "gradient_norm",
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Prediction:
    """Infinite-width observables of every layer; arrays of length ``depth``, index 0 is layer 1.

    Of the post-activation x^l: ``second_moment``, ``variance`` (over samples, ddof = 0),
    ``similarity`` (mean cosine of two samples), ``stable_rank``.  Of the pre-activation h^l:
    ``preactivation_second_moment``, ``preactivation_correlation``.  Of the gradient g^l at h^l:
    ``gradient_norm`` = sqrt(E||g^l||^2 / E||g^L||^2), None if it was not asked for.

    Of a residual network x^l is the stream that block l puts out, g^l the gradient there, and h^l the
    output of the branch's first linear map; ``branch_gradient_norm`` is of the gradient at h^l,
    relative to that of the last stream (None without a branch).

    The primaries are ``log_second_moment``, ``log_variance``, ``log_gradient_norm`` and
    ``log_preactivation_second_moment`` (2**depth must not overflow), and ``gap`` = 1 - similarity
    and ``preactivation_gap``, which keep full relative precision.

    ``error[name]`` is an absolute numerical error per layer (of populations a standard error over
    sixteen of them, stretched so that three are exceeded with probability 0.27 %; inf where the average of
    a heavy tail has none), ``route[name]`` says per
    layer what gave the number (``routes`` keeps what differs from ``forward_route`` and
    ``backward_route``), and ``regime`` which moments of the squared gradient exist.  ``settings``,
    such as a seed, enter the provenance.
    """

    network: Network
    inputs: Inputs
    regime: Regime
    activation: Observables
    preactivation: Observables
    log_gradient_norm: FloatArray | None
    gradient_error: FloatArray | None
    forward_route: str
    backward_route: str | None
    states: Sequence[Any]
    log_branch_gradient_norm: FloatArray | None = None
    branch_gradient_error: FloatArray | None = None
    routes: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.log_second_moment)

    @property
    def label(self) -> str:
        """Name for legends: the normalizer, else the weight scheme."""
        # Of layers that differ every name, once.
        name = ", ".join(dict.fromkeys(_name_of(layer) for layer in self.network.layers))
        if not isinstance(self.network, Residual):
            return name
        return f"{name}, {self.network.order.replace('_', ' ')}"

    @property
    def log_second_moment(self) -> FloatArray:
        """log E[x^2], mean over samples."""
        return self.activation.log_second_moment

    @property
    def second_moment(self) -> FloatArray:
        """E[x^2], mean over samples."""
        return _exp(self.log_second_moment)

    @property
    def log_variance(self) -> FloatArray:
        """log of the variance over samples (ddof = 0) of a channel."""
        return self.activation.log_variance

    @property
    def variance(self) -> FloatArray:
        """Variance over samples (ddof = 0) of a channel."""
        return _exp(self.log_variance)

    @property
    def similarity(self) -> FloatArray:
        """Mean cosine similarity of two samples' post-activations."""
        return self.activation.similarity

    @property
    def gap(self) -> FloatArray:
        """1 - similarity, in full relative precision."""
        return self.activation.gap

    @cached_property
    def stable_rank(self) -> FloatArray:
        """tr M / ||M||_2 of the cosine matrix M of the samples."""
        return np.asarray(type(self.states[0]).stable_rank(self.states))

    @cached_property
    def spectrum(self) -> FloatArray:
        """Eigenvalues of the cosine matrix M of the samples, descending, shape (depth, B).

        Exchangeable samples: 1 + (B-1)s once, 1 - s in full relative precision B-1 times.  Data: to B
        roundings of the largest.
        """
        gap = np.array([state.gap for state in self.states])
        b = self.inputs.batch
        if b > 4096:
            raise out_of_domain(
                "batch", b, "at most 4096 for a spectrum", "use stable_rank instead"
            )
        if gap.ndim == 3:
            return np.asarray(np.linalg.eigvalsh(1.0 - gap)[:, ::-1], dtype=np.float64)
        b = int(b)
        values = np.repeat(gap[:, None], b, axis=1)
        values[:, 0] = b - (b - 1) * gap
        return np.sort(values, axis=1)[:, ::-1]

    @property
    def log_preactivation_second_moment(self) -> FloatArray:
        """log E[h^2], mean over samples."""
        return self.preactivation.log_second_moment

    @property
    def preactivation_second_moment(self) -> FloatArray:
        """E[h^2], mean over samples."""
        return _exp(self.log_preactivation_second_moment)

    @property
    def preactivation_correlation(self) -> FloatArray:
        """Mean correlation of two samples' pre-activations."""
        return self.preactivation.similarity

    @property
    def preactivation_gap(self) -> FloatArray:
        """1 - preactivation_correlation, in full relative precision."""
        return self.preactivation.gap

    @property
    def gradient_norm(self) -> FloatArray | None:
        """sqrt(E||g^l||^2 / E||g^L||^2)."""
        return None if self.log_gradient_norm is None else _exp(self.log_gradient_norm)

    @property
    def branch_gradient_norm(self) -> FloatArray | None:
        """sqrt(E||dloss/dh^l||^2 / E||g^L||^2) of a residual network; else None."""
        log = self.log_branch_gradient_norm
        return None if log is None else _exp(log)

    @cached_property
    def error(self) -> Mapping[str, FloatArray]:
        """Absolute numerical error of every observable and primary, per layer."""
        post, pre = self.activation, self.preactivation
        gap_error = post.gap * post.gap_error
        relative_variance = post.second_moment_error + post.gap_error
        errors = {
            "log_second_moment": post.second_moment_error,
            "second_moment": self.second_moment * post.second_moment_error,
            "log_variance": relative_variance,
            "variance": self.variance * relative_variance,
            "similarity": gap_error + 1e-16,
            "gap": gap_error,
            # B / lambda_1, and lambda_1 moves by at most (B - 1) times the error of a cosine.
            "stable_rank": np.minimum(self.stable_rank, 1e150) ** 2 * gap_error
            + 1e-15 * self.stable_rank,
            "log_preactivation_second_moment": pre.second_moment_error,
            "preactivation_second_moment": self.preactivation_second_moment
            * pre.second_moment_error,
            "preactivation_gap": pre.gap * pre.gap_error,
            "preactivation_correlation": pre.gap * pre.gap_error + 1e-16,
        }
        for name, log, error in (
            ("gradient_norm", self.log_gradient_norm, self.gradient_error),
            ("branch_gradient_norm", self.log_branch_gradient_norm, self.branch_gradient_error),
        ):
            if log is not None and error is not None:
                errors[f"log_{name}"] = error
                # An infinite norm is known exactly, not to 0 * inf.
                errors[name] = np.where(error > 0.0, _exp(log), 0.0) * error
        return errors

    @cached_property
    def route(self) -> Mapping[str, tuple[str, ...]]:
        """What gave each observable, per layer: closed form, quadrature or RQMC, by name."""
        names = {}
        for name in self.error:
            used = self.backward_route if "gradient" in name else self.forward_route
            used = self.routes.get(name.removeprefix("log_"), used)
            # The first layer's pre-activations are a linear map of the inputs.
            linear = "preactivation" in name and not isinstance(self.network, Residual)
            first = "closed form" if linear else used
            names[name] = (str(first),) + (str(used),) * (self.depth - 1)
        return names

    @cached_property
    def covariance(self) -> tuple[FloatArray, ...]:
        """Covariance of x^l, in natural units, per layer: over samples, (B, B), or (sample, position)."""
        matrices = []
        for state in self.states:
            q, gap = state.second_moment, state.gap
            if np.ndim(q) == 0 and state.batch * self.inputs.positions > 4096:
                size = state.batch * self.inputs.positions
                raise out_of_domain(
                    "batch", size, "at most 4096 rows for a matrix", "use similarity instead"
                )
            if np.ndim(q) == 0 and self.inputs.positions == 1:
                matrix = np.full((state.batch, state.batch), q * (1.0 - gap))
                np.fill_diagonal(matrix, q)
            else:
                matrix = state.covariance()
            matrices.append(np.ldexp(matrix, 2 * state.exponent))
        return tuple(matrices)

    @property
    def position_similarity(self) -> FloatArray | None:
        """Cosine of two positions of one sample, of x^l; None without positions."""
        if self.inputs.positions == 1:
            return None
        if isinstance(self.states[0], Grid):
            return np.array([state.position_similarity() for state in self.states])
        return np.array([1.0 - state.spectrum.gaps()[0] for state in self.states])

    @cached_property
    def provenance(self) -> Mapping[str, str]:
        """Versions, specification keys and machine that made this prediction."""
        from theory.provenance import provenance

        return provenance(network=self.network, inputs=self.inputs, **self.settings)

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and observable: layer, observable, value, error, route."""
        import pandas as pd

        rows = []
        for name in self._present():
            values = getattr(self, name)
            for layer in range(self.depth):
                rows.append(
                    {
                        "layer": layer + 1,
                        "observable": name,
                        "value": values[layer],
                        "error": self.error[name][layer],
                        "route": self.route[name][layer],
                    }
                )
        return pd.DataFrame(rows)

    def to_latex(self) -> str:
        """A LaTeX tabular: one row per layer, one column per observable."""
        names = self._present()
        head = " & ".join(["layer", *(n.replace("_", " ") for n in names)])
        body = [
            " & ".join([str(k + 1), *(f"{getattr(self, n)[k]:.6g}" for n in names)])
            for k in range(self.depth)
        ]
        lines = [rf"\begin{{tabular}}{{r{'r' * len(names)}}}", r"\hline", head + r" \\", r"\hline"]
        lines += [row + r" \\" for row in body]
        return "\n".join([*lines, r"\hline", r"\end{tabular}"])

    def _present(self) -> list[str]:
        """Observables of this prediction, in the order of tables."""
        names = (*OBSERVABLES, "branch_gradient_norm")
        return [name for name in names if getattr(self, name) is not None]

    def plot(self, ax: Any = None, *, observable: str = "similarity") -> Any:
        """Draw one observable over the layers; see ``theory.plotting.plot_prediction``."""
        from theory.plotting import plot_prediction

        return plot_prediction(self, ax, observable=observable)

    def plot_spectrum(self, ax: Any = None, *, layers: Sequence[int] | None = None) -> Any:
        """Draw ``spectrum`` for some layers; see ``theory.plotting_maps.plot_spectrum``."""
        from theory.plotting_maps import plot_spectrum

        return plot_spectrum(self, ax, layers=layers)

    def save(self, path: str | Path) -> None:
        """Write ``path`` (JSON: specifications, routes, provenance) and its ``.npz`` (arrays)."""
        from theory.storage import save_prediction

        save_prediction(self, path)

    @staticmethod
    def load(path: str | Path) -> Prediction:
        """Read what ``save`` wrote; StoreError if it is damaged or from a newer schema."""
        from theory.storage import load_prediction

        return load_prediction(path)

    def __repr__(self) -> str:
        last = f"similarity {self.similarity[-1]:.6g}, second moment {self.second_moment[-1]:.6g}"
        if self.log_gradient_norm is not None:
            last += f", log gradient norm at layer 1 {self.log_gradient_norm[0]:.6g}"
        return (
            f"Prediction({self.label}, depth={self.depth}: at the last layer {last}; "
            f"{self.forward_route}, {self.regime.status})"
        )


class PredictionSet(Mapping[str, Prediction]):
    """Predictions by name, for tables and plots side by side."""

    def __init__(self, predictions: Mapping[str, Prediction]) -> None:
        for prediction in named("predictions", predictions, "predictions").values():
            domain = "a mapping from names to predictions"
            instance("predictions", prediction, Prediction, domain, "use predict_many")
        self._predictions = dict(predictions)

    def __getitem__(self, name: str) -> Prediction:
        return self._predictions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._predictions)

    def __len__(self) -> int:
        return len(self._predictions)

    def __repr__(self) -> str:
        return "PredictionSet(" + "; ".join(f"{k}: {v!r}" for k, v in self.items()) + ")"

    def to_frame(self) -> pd.DataFrame:
        """All predictions' tables with a first column ``network``."""
        import pandas as pd

        frames = []
        for name, prediction in self.items():
            frame = prediction.to_frame()
            frame.insert(0, "network", name)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def plot(
        self,
        simulations: Mapping[str, Any] | None = None,
        *,
        observables: Sequence[str] | None = None,
    ) -> Any:
        """Draw all predictions, one panel per observable; see ``theory.plotting.plot_predictions``."""
        from theory.plotting import PANELS, plot_predictions

        return plot_predictions(
            self, simulations, observables=PANELS if observables is None else observables
        )


def _name_of(layer: Layer) -> str:
    """The normalizer, else the weight scheme."""
    if layer.norm is not None:
        return layer.norm.name
    return "plain" if layer.weights.name == "gaussian" else layer.weights.name


def _exp(log: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.exp(log))
