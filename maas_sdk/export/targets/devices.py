"""Targets of a bundle that can run on this machine, its accelerators included.

The rule: a separate process opens the accelerator to describe it, since a process that opens one
keeps its memory and its threads.
"""

from __future__ import annotations

from collections.abc import Mapping

from maas_sdk.bundle.manifest import Target
from maas_sdk.errors import MaasError
from maas_sdk.export.targets.children import Child, run_children
from maas_sdk.runtime.load import local_host
from maas_sdk.runtime.plugins import find_plugin
from maas_sdk.runtime.tiers import Host, obstacle

__all__ = ["accelerator", "obstacles"]


def obstacles(targets: Mapping[str, Target], *, timeout_s: float) -> dict[str, str]:
    """Return the reasons why some targets cannot run here, by name; the others can.

    Args:
        targets: a bundle's.
        timeout_s: seconds that an accelerator may take to say what it is.
    """
    hosts: dict[str, Host | str] = {"cpu": local_host()}
    found = {}
    for name, target in targets.items():
        if target.platform not in hosts:
            hosts[target.platform] = accelerator(target.platform, timeout_s=timeout_s)
        host = hosts[target.platform]
        reason = host if isinstance(host, str) else obstacle(target, host)
        if reason:
            found[name] = reason
    return found


def accelerator(platform: str, *, timeout_s: float = 120.0) -> Host | str:
    """Return the device of a platform, or why there is none.

    Args:
        platform: "cuda", "tpu", or another with a plugin.
        timeout_s: seconds that it may take to say what it is.
    """
    try:
        find_plugin(platform)
        child = Child(label=platform, job={"work": "describe", "platform": platform})
        (said,) = run_children([child], timeout_s=timeout_s)
    except MaasError as error:
        return error.message
    return Host(platform=platform, arch=said["arch"], jaxlib=said["jaxlib"])
