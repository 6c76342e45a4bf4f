"""States: what is known of the stream between two operations, and of the gradient on the way back.

A state gives its per-sample second moments and pair gaps to the routes as a ``Block``, can be
rebuilt from the moments a route returns, and is read for observables.  The protocol is
``theory.states.base``; ``exchangeable`` (two numbers) and ``full`` (a matrix) implement it.
"""
