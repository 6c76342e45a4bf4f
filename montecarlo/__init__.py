"""Finite random networks, simulated: the empirical wing of normcompass.

>>> import montecarlo as mc                                                    # doctest: +SKIP
>>> sim = mc.simulate(network, inputs, width=1024, replicates=64, seed=0)      # doctest: +SKIP
>>> sim.similarity.mean, sim.similarity.sem     # arrays over depth            # doctest: +SKIP
"""

from montecarlo.comparison import Comparison, compare
from montecarlo.ensemble import simulate
from montecarlo.results import Estimate, Simulation, load

__all__ = ["Comparison", "Estimate", "Simulation", "compare", "load", "simulate"]
