"""Loading of a bundle from disk into an engine.

Loading is mostly waiting for different things (a hash, the XLA client, pages of a file), so they
run side by side. The rule of the order: hashes are checked before what they cover is opened.

With ``check="deferred"`` that holds for everything that is code (programs and executables), while
the weights, which cannot do more than give a wrong number, are hashed in a thread half a second
later, so as not to take the processor from the first answers; if they are not the sealed ones, the
engine refuses every call from then on. Where trusted keys are named, nothing is deferred: an
altered bundle does not open.

An accelerator is queried in the process that uses it, since its client starts threads: where a
bundle runs on one, the tier is chosen after the fork.

Encrypted files are decrypted into memory of this process, and programs compiled from them are not
cached: none of their content reaches a disk.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from maas_sdk.bundle.files.weights import Weights
from maas_sdk.bundle.folder import Bundle, TrustedKeys, open_bundle
from maas_sdk.bundle.manifest import WEIGHTS, executable_path, golden_path, stablehlo_path
from maas_sdk.errors import CorruptError, IncompatibleError, MaasError
from maas_sdk.runtime import host as this_host
from maas_sdk.runtime import xla
from maas_sdk.runtime.cache import CompileCache, default_cache_dir
from maas_sdk.runtime.engine import Engine, LoadedProgram, LoadReport
from maas_sdk.runtime.tiers import Choice, Host, Tier, choose
from maas_sdk.tensors import Array

if TYPE_CHECKING:
    from maas_sdk.runtime.plugins import Plugin

__all__ = ["Prepared", "load", "local_host"]

_CHECK_AFTER_S: Final = 0.5


def local_host(client: xla.XlaClient | None = None) -> Host:
    """Return the properties that decide the tier: the processor, or a client's accelerator."""
    if client is not None and client.platform != "cpu":
        return Host(platform=client.platform, arch=client.arch, jaxlib=xla.jaxlib_build())
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
    platform: str | None = None,
    check: Literal["before", "deferred"] = "before",
    cache_dir: str | os.PathLike[str] | None = None,
    trusted_keys: TrustedKeys = None,
    decryption_key: str | None = None,
) -> Engine:
    """Load a bundle; return when the first bucket of every program is ready to run.

    Args:
        path: the bundle's folder.
        tier: None takes the best that fits; a name takes that one or raises.
        platform: "cpu", "tpu" or "cuda", the first device of it; None: ``MAAS_PLATFORM``, or an
            accelerator that the bundle has executables for and this machine a device and a plugin,
            or the processor. Weights are kept on the device.
        check: "before" hashes all files first. "deferred" hashes code first, and the weights in a
            thread after this has returned; for a fast start of what was checked when deployed.
        cache_dir: where programs compiled here are kept; None: ``MAAS_CACHE_DIR`` or the user's
            cache folder. Of an encrypted bundle nothing is kept.
        trusted_keys: public keys or files of them, one of which must have signed the bundle; None:
            those that ``MAAS_TRUSTED_KEYS`` lists, if any. With keys, ``check`` is "before".
        decryption_key: reference to the key of an encrypted bundle (``env:NAME``, ``file:PATH``,
            ``gcp-secret:…``); None: ``MAAS_DECRYPTION_KEY``, or the one that its manifest names.

    Raises:
        NotFoundError: no bundle there.
        ManifestError: the manifest breaks the schema or is of a newer one.
        CorruptError: a file is missing, added, cut or changed; an encoded weight does not fit what
            is stored of it.
        SealError: the signature or the encryption does not hold.
        ConfigError: the platform is none.
        MachineError: the package for a weight's compression, or for a seal, is not there, or a key
            is not where it should be.
        TransportError: a key is in Secret Manager, which gave no answer.
        IncompatibleError: no tier runs here, or the platform has no device or no plugin here; the
            message says what fixes it.
    """
    return Prepared(
        path,
        tier=tier,
        platform=platform,
        check=check,
        cache_dir=cache_dir,
        trusted_keys=trusted_keys,
        decryption_key=decryption_key,
    ).load()


class Prepared:
    """A bundle loaded as far as possible before a fork, to be finished in many processes.

    It is opened, its hashes are checked, the tier is chosen, the weights are mapped and the first
    executables read. No thread is started, no XLA client made, no code of the bundle run.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        tier: Tier | None = None,
        platform: str | None = None,
        check: Literal["before", "deferred"] = "before",
        cache_dir: str | os.PathLike[str] | None = None,
        trusted_keys: TrustedKeys = None,
        decryption_key: str | None = None,
    ) -> None:
        """Prepare a bundle. Arguments and errors are those of ``load``."""
        self._clock = clock = _Stages()
        with clock("bundle"):
            self._bundle = bundle = open_bundle(
                path, trusted_keys=trusted_keys, decryption_key=decryption_key
            )
            self._deferred = check == "deferred" and bundle.signed_by is None
            if not self._deferred:
                # The weights are next: hashed while they are opened, so that what is decrypted is
                # what was hashed.
                bundle.check(name for name in sorted(bundle.manifest.files) if name != WEIGHTS)
        self._cache = CompileCache(
            Path(cache_dir) if cache_dir is not None else default_cache_dir(),
            disabled=bundle.manifest.encryption is not None,
        )
        self._wanted = tier
        self._choice: Choice | None = None
        with clock("host"):
            self._plugin = _plugin(bundle, platform)
            if self._plugin is None:
                self._choice = choose(bundle.manifest, local_host(), wanted=tier)
        with clock("weights"):
            self._weights = bundle.weights(WEIGHTS, checked=not self._deferred)
            self._arrays = _arrays(bundle, self._weights)
        with clock("executable"):
            self._read: dict[str, bytes] = {}
            if self._choice is not None and self._choice.target is not None:
                for name, program in bundle.manifest.programs.items():
                    path_in_bundle = executable_path(self._choice.target, name, program.buckets[0])
                    self._read[path_in_bundle] = bundle.read(path_in_bundle)

    def load(self) -> Engine:
        """Finish in the process that will use the engine. Raises as the function ``load``."""
        bundle, weights = self._bundle, self._weights
        clock = self._clock.copy()
        threading.Thread(target=weights.prefault, name="maas-prefault", daemon=True).start()
        with clock("client"):
            client = xla.XlaClient(self._plugin)
            _register_custom_calls(bundle, client)
        choice = self._choice or choose(bundle.manifest, local_host(client), wanted=self._wanted)
        with clock("weights"):
            buffers = {name: client.put(array) for name, array in self._arrays.items()}
        with clock("executable"):
            try:
                programs = self._programs(client, choice, buffers)
            except IncompatibleError as error:
                # That an accelerator's driver is another than its executables ask for, only the
                # driver itself can tell.
                if self._plugin is None or choice.target is None or self._wanted is not None:
                    raise
                choice = Choice("program", None, f"compiled here: {error.message}")
                programs = self._programs(client, choice, buffers)
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
        if self._deferred:
            behind = threading.Timer(_CHECK_AFTER_S, _check_behind, (bundle, engine))
            behind.daemon = True
            behind.start()
        return engine

    def _programs(
        self, client: xla.XlaClient, choice: Choice, buffers: Mapping[str, xla.Buffer]
    ) -> dict[str, LoadedProgram]:
        """Return every program, its first bucket loaded."""
        programs = {}
        for name, program in self._bundle.manifest.programs.items():
            loaded = LoadedProgram(
                name,
                program,
                [buffers[weight] for weight in program.weights],
                _loader(self._bundle, client, choice, self._cache, name, self._read),
                client.put,
            )
            loaded.executable(program.buckets[0])
            programs[name] = loaded
        return programs


def _plugin(bundle: Bundle, platform: str | None) -> Plugin | None:
    """Return the plugin for the bundle's platform; None for the processor."""
    offered = {target.platform for target in bundle.manifest.targets.values()}
    if not (platform or "MAAS_PLATFORM" in os.environ or offered - {"cpu"}):
        return None
    # Only here: what runs on processors alone starts without it.
    from maas_sdk.runtime.plugins import find_plugin, wanted_platform

    chosen = wanted_platform(platform, offered)
    return None if chosen == "cpu" else find_plugin(chosen)


def _register_custom_calls(bundle: Bundle, client: xla.XlaClient) -> None:
    for name, program in bundle.manifest.programs.items():
        if client.platform == "cpu":
            xla.register_custom_calls(program.custom_calls)
        elif program.custom_calls:
            raise IncompatibleError(
                f"bundle {bundle.manifest.name!r}: program {name!r} calls "
                f"{', '.join(program.custom_calls)}, functions of the processor: load it with "
                "platform='cpu'"
            )


class _Stages:
    """Seconds per named stage; a repeated stage is added up."""

    def __init__(self, timings_s: Mapping[str, float] | None = None) -> None:
        self.timings_s = dict(timings_s or {})

    def copy(self) -> _Stages:
        return _Stages(self.timings_s)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        took_s = time.perf_counter() - began
        self.timings_s[name] = round(self.timings_s.get(name, 0.0) + took_s, 6)


def _arrays(bundle: Bundle, weights: Weights) -> dict[str, Array]:
    """Return the programs' weights by name: mapped, or decoded where they are encoded."""
    encodings = bundle.manifest.encodings
    names = [name for program in bundle.manifest.programs.values() for name in program.weights]
    for name in names:
        if name not in weights and name not in encodings:
            raise CorruptError(
                f"{bundle.path}: the manifest names the weight {name!r}, which {WEIGHTS} "
                "does not hold: export the model again",
                weight=name,
            )
    if not encodings:
        return {name: weights[name] for name in names}
    # Only here: a plain bundle starts without it.
    from maas_sdk.bundle.encoding.spec import check_encodings, decode

    check_encodings(encodings, weights.specs)
    # Once each: programs share their weights.
    return {name: decode(name, encodings, weights) for name in dict.fromkeys(names)}


def _loader(
    bundle: Bundle,
    client: xla.XlaClient,
    choice: Choice,
    cache: CompileCache,
    program: str,
    read: Mapping[str, bytes],
) -> Callable[[int], xla.Executable]:
    """Return a loader of one program's executables by bucket; ``read`` has bytes read before."""
    if choice.target is not None:
        target = choice.target

        def load_executable(bucket: int) -> xla.Executable:
            path = executable_path(target, program, bucket)
            return client.load(read.get(path) or bundle.read(path))

        return load_executable

    def compile_here(bucket: int) -> xla.Executable:
        path = stablehlo_path(program, bucket)
        stablehlo = bundle.read(path)
        host = local_host(client)
        key = cache.key(
            bundle.manifest.files[path].sha256,
            jaxlib=f"{host.jaxlib} {client.version}".rstrip(),
            arch=host.arch if client.platform == "cpu" else f"{client.platform} {host.arch}",
            cpu_features=host.cpu_features,
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
    return bundle.weights(golden_path(program))


def _check_behind(bundle: Bundle, engine: Engine) -> None:
    try:
        bundle.check([WEIGHTS])
    except MaasError as error:
        engine.poison(error)
    except OSError as error:
        engine.poison(CorruptError(f"{bundle.path}: {WEIGHTS} could not be read again: {error}"))
