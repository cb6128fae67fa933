"""Flax models as scale-to-zero endpoints: train, export, serve, deploy.

Nothing is imported here: each wing is imported by its own name (``maas_sdk.client``,
``maas_sdk.runtime``, ``maas_sdk.export``, …), and brings only what it needs.
"""

__version__ = "0.1.0.dev0"
