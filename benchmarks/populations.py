"""Largest relative standard error over layers, and CPU seconds, of residual streams that are not Gaussian.

Usage: ``python benchmarks/populations.py [depth [refine]]``.  Sampled figures carry a star.
"""

from __future__ import annotations

import sys
import time
import warnings

import numpy as np

import theory as th
from theory.specs.networks import Layer
from theory.specs.residual import Order, Residual

NORMS = {"BN": th.batch_norm(), "GN(8)": th.group_norm(8), "LN": th.layer_norm(), "none": None}
ORDERS: tuple[Order, ...] = ("post_activation", "post_norm", "branch_end_norm", "sandwich")
SAMPLED = ("population", "sampled pairs", "sampled sphere walk")


def row(network: Residual, refine: int) -> str:
    """One line: q, similarity, gap and gradient norm."""
    start = time.process_time()
    found = th.predict(network, th.exchangeable(batch=16, correlation=0.5), refine=refine)
    seconds = time.process_time() - start
    with np.errstate(over="ignore", divide="ignore"):
        size = {
            "second_moment": found.second_moment,
            "similarity": np.abs(found.similarity),
            "gap": found.gap,
            "gradient_norm": np.exp(np.asarray(found.log_gradient_norm)),
        }
        cells = []
        for name, values in size.items():
            star = "*" if found.route[name][-1] in SAMPLED else " "
            cells.append(f"{float(np.nanmax(found.error[name] / values)):8.1e}{star}")
    return " ".join(cells) + f" {seconds:7.1f}"


def main(depth: int = 100, refine: int = 1) -> None:
    """Print the table."""
    # exp of a plain network's growth may overflow: its figures are then nan, and left out.
    warnings.simplefilter("ignore", RuntimeWarning)
    print(f"{depth} blocks, refine={refine}")
    print(f"{'order':16s}{'norm':8s}    q        similarity gap     gradient   CPU s")
    for order in ORDERS:
        for name, norm in NORMS.items():
            if norm is None and order != "post_activation":
                continue
            network = Residual(Layer(norm=norm), depth=depth, order=order)
            print(f"{order:16s}{name:8s}", row(network, refine), flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
