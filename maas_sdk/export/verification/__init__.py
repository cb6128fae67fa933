"""Packaged answers compared with the reference model."""
