"""Specifications: frozen values without algorithms."""
