"""Checkpoints of a training run: written, kept by policy, verified, restored."""
