"""What is simulated, as a value: everything that decides the numbers of a network, and nothing else.

Network ``r`` of an experiment is a function of (experiment, r): workers, order, restarts and the
number of networks do not enter.  The key names the experiment in a store.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from montecarlo.observables import observables_of
from theory.specs import serialize
from theory.specs.inputs import Inputs
from theory.specs.networks import Network

__all__ = ["ENGINE", "Experiment", "Method"]

Method = Literal["direct", "collapsed"]

# Raised whenever the same experiment would give other numbers (new streams, another order of draws).
ENGINE = 2


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One network on one batch at one width; its replicates are independent random networks.

    Parameters
    ----------
    network, inputs
        Specifications.
    width
        Channels of every layer.
    seed
        Of all random streams.
    dtype
        ``"float64"`` or ``"float32"``.
    method
        ``"direct"`` or ``"collapsed"``: equal in law, but other numbers.
    backward
        Whether gradients are propagated; without them their observables are NaN.
    """

    network: Network
    inputs: Inputs
    width: int
    seed: int
    dtype: str
    method: Method
    backward: bool = True

    @property
    def observables(self) -> tuple[str, ...]:
        """Names of what is recorded of every network, in the order of its numbers."""
        return observables_of(self.network)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The experiment as JSON-compatible values."""
        return {
            "engine": ENGINE,
            "network": serialize.to_dict(self.network),
            "inputs": serialize.to_dict(self.inputs),
            "width": self.width,
            "seed": self.seed,
            "dtype": self.dtype,
            "method": self.method,
            "backward": self.backward,
        }

    @cached_property
    def key(self) -> str:
        """SHA-256 of the document: the same on every machine and in every process."""
        text = json.dumps(self.document, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()
