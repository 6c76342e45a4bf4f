"""Routes: ways to take an expectation over one pool.  ``dispatch`` picks the first that applies."""
