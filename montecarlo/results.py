"""What a simulation returns: every network's observables, estimates with standard errors."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from montecarlo.observables import BRANCH_GRADIENT, OBSERVABLES
from theory.errors import StoreError, brief, out_of_domain
from theory.specs._arrays import require_unmasked
from theory.specs._check import file_path, writable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Estimate", "Simulation", "load"]

FloatArray = NDArray[np.float64]

SCHEMA = 1


@dataclass(frozen=True)
class Estimate:
    """Mean over independent networks and its standard error.

    Parameters
    ----------
    mean, sem
        One value per layer.  ``sem`` is infinite with a single network and where the mean is; it
        means nothing where the quantity has no variance (theory notes, section 4, "Heavy tails").
        Both are NaN where a network's value is, which ``simulate`` warns of.
    n
        Number of independent networks.
    """

    mean: FloatArray
    sem: FloatArray
    n: int

    @classmethod
    def of(cls, samples: FloatArray) -> Estimate:
        """mean = sum x_r / n, sem = sqrt(sum (x_r - mean)^2 / (n (n - 1))), over the first axis."""
        require_unmasked("samples", samples)
        try:
            samples = np.asarray(samples)
        except ValueError:
            samples = np.empty(())  # rows of different lengths
        if samples.dtype.kind not in "biuf" or samples.ndim == 0 or len(samples) == 0:
            raise out_of_domain(
                "samples",
                samples.shape,
                "real numbers, one row per network",
                "pass at least one row",
            )
        n = len(samples)
        # Networks that died have log = -inf: their mean is -inf, and nothing is known of its error.
        # A square that overflows leaves an infinite error.
        with np.errstate(invalid="ignore", over="ignore"):
            mean = samples.mean(axis=0)
            if n == 1:
                return cls(mean, np.full(mean.shape, math.inf), n)
            sem = samples.std(axis=0, ddof=1) / math.sqrt(n)
        return cls(mean, np.where(np.isinf(mean), math.inf, sem), n)


@dataclass(frozen=True)
class Simulation:
    """Observables of ``replicates`` independent finite networks; see ``simulate``.

    ``sim.similarity``, ``sim.second_moment``, ... are ``Estimate``s over depth, one attribute for
    each name in ``samples``.  Index 0 is layer 1.

    Parameters
    ----------
    samples
        Name -> array of shape (replicates, depth): one value for each network and layer.
    provenance
        Versions, seed, width, dtype, BLAS, processor, and the specification as text.
    """

    samples: dict[str, FloatArray]
    provenance: dict[str, Any]

    def __getattr__(self, name: str) -> Estimate:
        """Estimate of the observable ``name``: mean of its per-network values."""
        samples = self.__dict__.get("samples", {})
        if name not in samples:
            forward_only = "gradient" in name and "log_gradient_ratio" not in samples
            remedy = "; simulate with backward=True for gradients" if forward_only else ""
            raise AttributeError(
                f"{type(self).__name__} has no observable {name!r}; it has {', '.join(samples)}{remedy}"
            )
        return Estimate.of(samples[name])

    def __dir__(self) -> list[str]:
        """Attributes, observables included."""
        return [*super().__dir__(), *self.samples]

    def __repr__(self) -> str:
        """One line: what was simulated."""
        return (
            f"Simulation(depth={self.depth}, width={self.width}, replicates={self.replicates}, "
            f"dtype={self.provenance.get('dtype')!r}, method={self.provenance.get('method')!r}, "
            f"seed={self.provenance.get('seed')})"
        )

    @property
    def replicates(self) -> int:
        """Number of independent networks."""
        return int(self.samples["second_moment"].shape[0])

    @property
    def depth(self) -> int:
        """Number of layers."""
        return int(self.samples["second_moment"].shape[1])

    @property
    def width(self) -> int:
        """Channels of every layer."""
        return int(self.provenance["width"])

    @property
    def backward(self) -> bool:
        """Whether gradients were propagated."""
        return "log_gradient_ratio" in self.samples

    @property
    def log_gradient_norm(self) -> Estimate:
        """E log(|g^l| / |g^L|): half the mean log ratio; heavy tails leave it a variance."""
        return Estimate.of(0.5 * self._gradient("log_gradient_ratio"))

    @property
    def gradient_norm(self) -> Estimate:
        """sqrt(E|g^l|^2 / E|g^L|^2), a ratio of means, with the standard error of the delta method.

        Use ``log_gradient_norm`` where the squared gradient has no variance.
        """
        return self._norm("log_gradient_ratio")

    @property
    def log_branch_gradient_norm(self) -> Estimate:
        """E log(|dloss/dh^l| / |g^L|) in the branches of a residual network."""
        return Estimate.of(0.5 * self._gradient(BRANCH_GRADIENT))

    @property
    def branch_gradient_norm(self) -> Estimate:
        """sqrt(E|dloss/dh^l|^2 / E|g^L|^2) in the branches of a residual network, as ``gradient_norm``."""
        return self._norm(BRANCH_GRADIENT)

    def _norm(self, name: str) -> Estimate:
        ratio = self._gradient(name)
        last = self._gradient("squared_gradient")[:, -1]
        # A common factor for each layer keeps exp() in range at any depth; it cancels below.
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            top = ratio.max(axis=0)
            top[np.isneginf(top)] = 0.0  # exactly 0 in every network
            relative = last / last.mean()
            numerator = np.exp(ratio - top) * relative[:, None]
            mean = numerator.mean(axis=0)
            norm = np.sqrt(mean) * np.exp(0.5 * top)
            if self.replicates == 1:
                return Estimate(norm, np.full(norm.shape, math.inf), 1)
            influence = np.where(mean == 0.0, 0.0, numerator / mean - relative[:, None])
            spread = influence.std(axis=0, ddof=1) / math.sqrt(self.replicates)
            return Estimate(norm, 0.5 * norm * spread, self.replicates)

    def _gradient(self, name: str) -> FloatArray:
        if not self.backward:
            raise AttributeError("no gradients were simulated; simulate with backward=True")
        if name not in self.samples:
            raise AttributeError("branch gradients are those of residual networks")
        return self.samples[name]

    def estimates(self) -> dict[str, Estimate]:
        """Every observable by name."""
        derived: tuple[str, ...] = ()
        if self.backward:
            derived = ("log_gradient_norm", "gradient_norm")
        if BRANCH_GRADIENT in self.samples:
            derived += ("log_branch_gradient_norm", "branch_gradient_norm")
        return {name: getattr(self, name) for name in (*self.samples, *derived)}

    def to_frame(self) -> pd.DataFrame:
        """Table with one row per layer; columns ``name`` and ``name_sem``."""
        import pandas as pd

        columns: dict[str, Any] = {"layer": np.arange(1, self.depth + 1)}
        for name, estimate in self.estimates().items():
            columns[name] = estimate.mean
            columns[f"{name}_sem"] = estimate.sem
        return pd.DataFrame(columns).set_index("layer")

    def plot(
        self, ax: Any = None, *, observable: str = "similarity", label: str = "simulation"
    ) -> Any:
        """Draw means and bars of two standard errors; see ``theory.plotting.plot_simulation``.

        Label it by its normalizer ("BN", "GN(8)") for the color that it has in every figure.
        """
        from theory.plotting import plot_simulation

        return plot_simulation(self, ax, observable=observable, label=label)

    def save(self, path: str | Path) -> None:
        """Write ``path`` (JSON: provenance) and the samples beside it (.npz); never pickle.

        Raises
        ------
        StoreError
            The files cannot be written.
        """
        target, arrays = map(writable, _files(path))
        try:
            self._write(target, arrays)
        except OSError as error:
            raise StoreError(f"cannot write {target}: {error}; choose another folder") from error

    def _write(self, target: Path, arrays: Path) -> None:
        document = {"schema": SCHEMA, "kind": "simulation", "provenance": self.provenance}
        target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        samples: dict[str, Any] = dict(self.samples)  # numbers: nothing that would need a pickle
        np.savez_compressed(arrays, **samples)


# What a simulation must say of itself, to be compared with a prediction.
_TOLD = ("network", "network_key", "inputs", "inputs_key", "dtype", "method")


def load(path: str | Path) -> Simulation:
    """Read what ``Simulation.save`` wrote.

    Raises
    ------
    StoreError
        Missing or damaged files, another kind of result, or a newer schema.
    """
    source, arrays = _files(path)
    try:
        if not source.is_file():  # a device or pipe would be read for ever
            raise StoreError(f"{source.name} is not a file; pass what sim.save(path) wrote.")
        document = json.loads(source.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("kind") != "simulation":
            raise StoreError(
                f"{source.name} is not a saved simulation; save one with sim.save(path)."
            )
        if document.get("schema") != SCHEMA:
            raise StoreError(
                f"{source.name} has schema {document.get('schema')!r}, this version reads "
                f"{SCHEMA}; update normcompass, or simulate again."
            )
        # Opened here: of a damaged file np.load would leave it open.
        with arrays.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            samples = {name: np.asarray(archive[name], dtype=np.float64) for name in archive.files}
        provenance = dict(document["provenance"])
    except StoreError:
        raise
    except Exception as error:  # zipfile, zlib, json, OS: a file can be damaged in many ways
        raise StoreError(
            f"Cannot read {source.name} with its .npz ({brief(error)}); keep both files together, "
            "or simulate again."
        ) from error
    shapes = {array.shape for array in samples.values()}
    forward = {name for name in OBSERVABLES if "gradient" not in name}
    if (
        set(samples) - {BRANCH_GRADIENT} not in (forward, set(OBSERVABLES))
        or len(shapes) != 1
        or len(next(iter(shapes))) != 2
    ):
        raise StoreError(f"{source.name} lacks observables; simulate again.")
    if not isinstance(provenance.get("width"), int) or set(_TOLD) - set(provenance):
        raise StoreError(f"{source.name} does not say what was simulated; simulate again.")
    return Simulation(samples, provenance)


def _files(path: str | Path) -> tuple[Path, Path]:
    """(name.json, name.npz) for ``name`` or ``name.json``."""
    stem = str(file_path("path", path)).removesuffix(".json")
    return Path(f"{stem}.json"), Path(f"{stem}.npz")
