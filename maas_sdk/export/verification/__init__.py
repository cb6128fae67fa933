"""Packaged answers held against the reference model."""
