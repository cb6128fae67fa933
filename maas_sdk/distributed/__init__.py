"""Several processes as one training run: joining, launching, noticing that one is gone."""

from maas_sdk.distributed.hosts import Hosts, join
from maas_sdk.distributed.launcher import launch

__all__ = ["Hosts", "join", "launch"]
