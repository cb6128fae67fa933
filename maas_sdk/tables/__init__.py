"""Readers of tables, images and lines of JSON: rows in chunks, and a reason for each bad row."""
