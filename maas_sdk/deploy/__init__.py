"""Deployment of bundles to clouds: ``package`` writes a function's folder."""

from maas_sdk.deploy.package import package

__all__ = ["package"]
