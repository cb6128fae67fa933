"""The workshop's ground: a model of any kind as named leaves and pure functions."""
