"""Flax modules: small, honest, with names that sharding rules can match."""
