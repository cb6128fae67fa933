"""Smaller models that answer the same, and the figures that say how nearly the same."""
