"""Diagnosis of a training run: invalid data, values that are not finite, memory."""
