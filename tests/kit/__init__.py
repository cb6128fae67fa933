"""Helpers that several test files share; what users need is in ``maas_sdk.testing``."""
