"""Streams that are not Gaussian, followed as populations of channels, or by what is known of them.

``prediction`` chooses.  ``normact`` acts on a population and pulls gradients back, ``propagate``
interprets a network's operations, ``result`` averages; the state itself is ``theory.states.population``.
``known`` (with ``walks``, ``flights``, ``branch_ends``, ``shared_ends``) and ``spheres`` (with
``sphere_pairs``) say what needs no population, as do ``cylinders`` and ``raised_flights`` (VN; with one map
their bent kin, on ``crossings`` and ``scale_mixtures``) and ``gated`` (EvoNorm-S0), ``pair_paths`` what
gradients need only pairs of samples, and ``contrasts`` where a population only corrects the maps of
Gaussians.
``over_positions`` does that over positions.
"""
