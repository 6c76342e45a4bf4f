"""Streams that are not Gaussian, followed as populations of channels.

``normact`` acts on a population and pulls gradients back, ``propagate`` interprets a network's
operations.  The state itself is ``theory.states.population``.
"""
