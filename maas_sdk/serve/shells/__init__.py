"""Thin shells around the endpoint: one file for each server interface."""
