"""maas_sdk: a Flax model goes in, a scale-to-zero endpoint comes out.

Nothing is imported here: each wing is imported by its own name (``maas_sdk.client``,
``maas_sdk.runtime``, ``maas_sdk.export``, …), and brings only what it needs.
"""

__version__ = "0.1.0"
