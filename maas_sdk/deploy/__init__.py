"""From a bundle to something that a cloud runs: ``package`` writes a function's folder."""

from maas_sdk.deploy.package import package

__all__ = ["package"]
