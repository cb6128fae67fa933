"""Compiled programs read back from the text of their HLO: collectives, products, memory traffic."""

from maas_sdk.hlo.collectives import collectives

__all__ = ["collectives"]
