"""A traced program rewritten for compressed weights."""
