"""Several processes as one training run: joining, launching, and detecting a lost one."""

from maas_sdk.distributed.hosts import Hosts, join
from maas_sdk.distributed.launcher import launch

__all__ = ["Hosts", "join", "launch"]
