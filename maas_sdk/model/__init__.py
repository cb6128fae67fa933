"""Models of any kind as named leaves and pure functions."""
