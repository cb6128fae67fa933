"""Choice among a bundle's three tiers on this host, with the reason.

1. executable: compiled ahead of time, by the same build of jaxlib, for this platform, and the
   processor has every feature that it needs.
2. program: StableHLO, compiled here and now, then kept in a local cache.
3. refuse: a sentence that says what was expected, what was found and what fixes it.

The rule: the choice is a pure function of the manifest and the host, made before anything of the
bundle is deserialised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from maas_sdk.bundle.manifest import Manifest, Target
from maas_sdk.errors import IncompatibleError

__all__ = ["Choice", "Host", "Tier", "choose", "obstacle"]

Tier = Literal["executable", "program"]


class Host(NamedTuple):
    """Properties of this machine that decide the tier."""

    platform: str
    arch: str
    # As ``xla.jaxlib_build`` says it.
    jaxlib: str
    # LLVM names.
    cpu_features: frozenset[str] = frozenset()


class Choice(NamedTuple):
    """The tier to open, and the reason against a better one."""

    tier: Tier
    # The target whose executables fit; None for the program tier.
    target: str | None
    # One sentence for logs, metrics and people.
    reason: str


def obstacle(target: Target, host: Host) -> str | None:
    """Return the reason why a target's executables cannot run on a host; None if they can."""
    if (target.platform, target.arch) != (host.platform, host.arch):
        return (
            f"made for {target.platform} {target.arch}, this machine is {host.platform} {host.arch}"
        )
    if target.jaxlib != host.jaxlib:
        return f"compiled by jaxlib {target.jaxlib}, here is {host.jaxlib}"
    missing = sorted(set(target.cpu_features) - host.cpu_features)
    if missing:
        return f"this processor lacks {', '.join(missing)}"
    return None


def choose(manifest: Manifest, host: Host, *, wanted: Tier | None = None) -> Choice:
    """Return the best tier, or the one that is ``wanted``.

    Among executables that fit, the one compiled for the most features is taken.

    Raises:
        IncompatibleError: the wanted tier does not fit. (Whether the program tier works is known
            only once XLA has read the program; it refuses then.)
    """
    obstacles = {name: obstacle(target, host) for name, target in manifest.targets.items()}
    fitting = [name for name, why in obstacles.items() if why is None]
    if wanted != "program" and fitting:
        best = max(fitting, key=lambda name: (len(manifest.targets[name].cpu_features), name))
        return Choice(tier="executable", target=best, reason=f"target {best} fits this machine")
    why_not = _why_not(obstacles)
    if wanted == "executable":
        raise IncompatibleError(
            f"bundle {manifest.name!r}: no executable fits this machine: {why_not}. Export it on "
            f"this machine (jaxlib {host.jaxlib}), or load it without tier='executable' to compile "
            "the portable program here",
            obstacles=obstacles,
        )
    reason = "tier='program' was asked for" if wanted == "program" else why_not
    return Choice(tier="program", target=None, reason=f"compiled here: {reason}")


def _why_not(obstacles: Mapping[str, str | None]) -> str:
    if not obstacles:
        return "the bundle holds no executables"
    return "; ".join(
        f"{name} is {why}" if why and why.startswith(("made", "compiled")) else f"{name}: {why}"
        for name, why in sorted(obstacles.items())
    )
