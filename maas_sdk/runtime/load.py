"""A bundle on disk becomes an engine.

Loading is mostly waiting for different things (a hash, the XLA client, pages of a file), so they
run side by side. The rule of the order: hashes are checked before what they cover is opened.

With ``check="deferred"`` that holds for everything that is code (programs and executables), while
the weights, which cannot do more than give a wrong number, are hashed in a thread half a second
later, so as not to take the processor from the first answers; if they are not the sealed ones, the
engine refuses every call from then on.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

from maas_sdk.bundle.folder import Bundle, open_bundle
from maas_sdk.bundle.manifest import WEIGHTS, executable_path, golden_path, stablehlo_path
from maas_sdk.bundle.weights import Weights, open_weights
from maas_sdk.errors import CorruptError, IncompatibleError, MaasError
from maas_sdk.runtime import host as this_host
from maas_sdk.runtime import xla
from maas_sdk.runtime.cache import CompileCache, default_cache_dir
from maas_sdk.runtime.engine import Engine, LoadedProgram, LoadReport
from maas_sdk.runtime.tiers import Choice, Host, Tier, choose
from maas_sdk.tensors import Array

__all__ = ["load", "local_host"]

_CHECK_AFTER_S: Final = 0.5


def local_host() -> Host:
    """This machine, as far as it decides the tier."""
    return Host(
        platform="cpu",
        arch=this_host.machine(),
        jaxlib=xla.jaxlib_build(),
        cpu_features=this_host.cpu_features(),
    )


def load(
    path: str | os.PathLike[str],
    *,
    tier: Tier | None = None,
    check: Literal["before", "deferred"] = "before",
    cache_dir: str | os.PathLike[str] | None = None,
) -> Engine:
    """Load a bundle; the first bucket of every program is ready to run when this returns.

    Args:
        path: the bundle's folder.
        tier: None takes the best that fits; a name takes that one or raises.
        check: "before" hashes all files first. "deferred" hashes code first, and the weights in a
            thread after this has returned; for a fast start of what was checked when deployed.
        cache_dir: where programs compiled here are kept; None: ``MAAS_CACHE_DIR`` or the user's
            cache folder.

    Raises:
        NotFoundError: no bundle there.
        ManifestError: the manifest breaks the schema or is of a newer one.
        CorruptError: a file is missing, added, cut or changed.
        IncompatibleError: no tier runs here; the message says what fixes it.
    """
    clock = _Stages()
    with clock("bundle"):
        bundle = open_bundle(path)
        if check == "before":
            bundle.check()
    with clock("host"):
        choice = choose(bundle.manifest, local_host(), wanted=tier)
    with clock("client"):
        client = xla.Client()
        for program in bundle.manifest.programs.values():
            xla.register_custom_calls(program.custom_calls)
    with clock("weights"):
        weights = open_weights(bundle.path / WEIGHTS)
        threading.Thread(target=weights.prefault, name="maas-prefault", daemon=True).start()
        buffers = _put_weights(bundle, client, weights)
    cache = CompileCache(Path(cache_dir) if cache_dir is not None else default_cache_dir())
    with clock("executable"):
        programs = {}
        for name, program in bundle.manifest.programs.items():
            loaded = LoadedProgram(
                name,
                program,
                [buffers[weight] for weight in program.weights],
                _loader(bundle, client, choice, cache, name),
                client.put,
            )
            loaded.executable(program.buckets[0])
            programs[name] = loaded
    engine = Engine(
        bundle.manifest,
        LoadReport(
            tier=choice.tier,
            target=choice.target,
            reason=choice.reason,
            timings_s=clock.timings_s,
            copied_weights=weights.copied,
        ),
        programs,
        lambda name: _golden(bundle, name),
    )
    if check == "deferred":
        behind = threading.Timer(_CHECK_AFTER_S, _check_behind, (bundle, engine))
        behind.daemon = True
        behind.start()
    return engine


class _Stages:
    """Seconds per named stage."""

    def __init__(self) -> None:
        self.timings_s: dict[str, float] = {}
        self._name = ""
        self._began = 0.0

    def __call__(self, name: str) -> _Stages:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.timings_s[self._name] = round(time.perf_counter() - self._began, 6)


def _put_weights(bundle: Bundle, client: xla.Client, weights: Weights) -> dict[str, xla.Buffer]:
    buffers: dict[str, xla.Buffer] = {}
    for program in bundle.manifest.programs.values():
        for name in program.weights:
            if name in buffers:
                continue
            if name not in weights:
                raise CorruptError(
                    f"{bundle.path}: the manifest names the weight {name!r}, which {WEIGHTS} "
                    "does not hold: export the model again",
                    weight=name,
                )
            buffers[name] = client.put(weights[name])
    return buffers


def _loader(
    bundle: Bundle, client: xla.Client, choice: Choice, cache: CompileCache, program: str
) -> Callable[[int], xla.Executable]:
    """What loads the executable of one program by bucket."""
    if choice.target is not None:
        target = choice.target
        return lambda bucket: client.load(bundle.read(executable_path(target, program, bucket)))

    def compile_here(bucket: int) -> xla.Executable:
        path = stablehlo_path(program, bucket)
        stablehlo = bundle.read(path)
        key = cache.key(
            bundle.manifest.files[path].sha256,
            jaxlib=xla.jaxlib_build(),
            arch=this_host.machine(),
            cpu_features=this_host.cpu_features(),
        )
        kept = cache.get(key)
        if kept is not None:
            # An entry that XLA cannot read is as good as none.
            with contextlib.suppress(IncompatibleError):
                return client.load(kept)
        compiled = client.compile(stablehlo)
        cache.put(key, compiled.serialize())
        return compiled

    return compile_here


def _golden(bundle: Bundle, program: str) -> Mapping[str, Array]:
    path = golden_path(program)
    bundle.check([path])
    return open_weights(bundle.path / path)


def _check_behind(bundle: Bundle, engine: Engine) -> None:
    try:
        bundle.check([WEIGHTS])
    except MaasError as error:
        engine.poison(error)
    except OSError as error:
        engine.poison(CorruptError(f"{bundle.path}: {WEIGHTS} could not be read again: {error}"))
