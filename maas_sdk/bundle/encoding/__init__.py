"""Encoded tensors: their specification, the registry of schemes, encoding and decoding."""
