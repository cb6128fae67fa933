"""File formats of a bundle, and folders that appear whole or not at all."""
