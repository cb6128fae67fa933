"""Stores: models and their versions, in folders and in buckets."""
