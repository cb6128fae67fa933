"""Contract one: the bundle, a folder that holds a compiled model and everything to trust it."""
