"""Memory and processors of an instance, computed from a bundle's need.

An instance's memory holds its processes and the files that it writes; the files of its image count
only once they are mapped. So the weights count once where they are in the function's
source, decoded where they are encoded, and where the bundle is fetched all its files count as well:
its disk is memory.

The rule: a setting that cannot work is refused before anything is packaged or uploaded, and
settings that were not given are chosen with room to spare. The limits are those of the platform,
which the module terraform/modules/model-function checks again in the same words:
https://cloud.google.com/run/docs/configuring/services/memory-limits
https://cloud.google.com/run/docs/configuring/services/cpu
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from maas_sdk.bundle.manifest import WEIGHTS, Manifest
from maas_sdk.errors import ConfigError
from maas_sdk.tensors import packed_nbytes

__all__ = ["START_NBYTES", "Need", "check_processors", "choose", "memory_nbytes", "need_of"]

_UNITS: Final = {"Mi": 2**20, "Gi": 2**30, "M": 10**6, "G": 10**9}
_MEMORY: Final = re.compile(r"([1-9][0-9]*)(Mi|Gi|M|G)")

# GiB → processors that more than so much asks for.
_PROCESSORS: Final = {0.5: 0.5, 1: 1, 4: 2, 8: 4, 16: 6, 24: 8}
# Processors → GiB that they ask for at least.
_LEAST: Final = {4: 2, 6: 4, 8: 4}
_WHOLE: Final = (1, 2, 4, 6, 8)
_MIN_CPU: Final = 0.08
_MIN_GIB: Final = 0.125
_MAX_GIB: Final = 32

# Both processes of functions-framework with numpy, XLA and a small model take 150 MB after their
# first answer; what opens a store takes some more.
START_NBYTES: Final = 200 * 10**6
# Choices where none is given: the smallest of these with room for requests and their results.
_STEPS: Final = ("512Mi", "1Gi", "2Gi", "4Gi", "8Gi", "16Gi", "24Gi", "32Gi")
_ROOM: Final = 1.5
# 32 requests at once, of up to 32 MB each, are welcome wherever there is a whole processor.
_USUAL: Final = "1Gi"


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Memory that a bundle needs in an instance.

    Attributes:
        weights_nbytes: of the weights as programs take them.
        files_nbytes: of the files that lie in memory beside them: those of a bundle that is
            fetched, as far as they are not the weights themselves.
    """

    weights_nbytes: int
    files_nbytes: int = 0

    @property
    def nbytes(self) -> int:
        """Minimum bytes: an instance with less does not start."""
        return START_NBYTES + self.weights_nbytes + self.files_nbytes

    def __str__(self) -> str:
        """Return its parts, in words."""
        parts = [f"{_megabytes(self.weights_nbytes)} of weights"]
        if self.files_nbytes:
            parts.append(f"{_megabytes(self.files_nbytes)} of fetched files")
        parts.append(f"about {_megabytes(START_NBYTES)} for Python and XLA")
        return ", ".join(parts[:-1]) + " and " + parts[-1]


def memory_nbytes(memory: str) -> int:
    """Return the bytes of a memory such as ``512Mi``.

    Raises:
        ConfigError: it is written in another way.
    """
    found = _MEMORY.fullmatch(memory)
    if not found:
        raise ConfigError(
            f"memory {memory!r}: expected a whole number with Mi, Gi, M or G, such as 512Mi or 2Gi"
        )
    return int(found[1]) * _UNITS[found[2]]


def check_processors(cpu: float, memory: str) -> None:
    """Refuse unknown processor counts, and memory that does not go with them.

    Raises:
        ConfigError: with what to say instead.
    """
    if cpu not in _WHOLE and not _MIN_CPU <= cpu < 1:
        raise ConfigError(f"cpu {cpu:g}: expected 1, 2, 4, 6 or 8, or a fraction from 0.08 on")
    gib = memory_nbytes(memory) / 2**30
    if not _MIN_GIB <= gib <= _MAX_GIB:
        raise ConfigError(f"memory {memory}: expected 128Mi to {_MAX_GIB}Gi")
    if cpu < (least := _processors_for(gib)):
        raise ConfigError(
            f"memory {memory} with {cpu:g} CPU: expected at least {least:g} CPU for so much, or at "
            f"most {_words(_most(cpu))} of memory: say --cpu {least:g}, or --memory "
            f"{_words(_most(cpu))}"
        )
    if gib < (gib_least := _LEAST.get(int(cpu), 0)):
        raise ConfigError(
            f"memory {memory} with {cpu:g} CPU: expected at least {gib_least}Gi for so many: say "
            f"--memory {gib_least}Gi, or fewer with --cpu"
        )


def need_of(manifest: Manifest, *, fetched: bool) -> Need:
    """Return a bundle's need, computed from its manifest.

    Args:
        manifest: of the bundle.
        fetched: whether the function fetches it at start, onto a disk that is memory.
    """
    file = manifest.files.get(WEIGHTS)
    stored = file.size_bytes if file else 0
    taken = {name for program in manifest.programs.values() for name in program.weights}
    # Decoded beside what is stored, which stays mapped.
    decoded = sum(
        packed_nbytes(encoding.dtype, encoding.shape)
        for name, encoding in manifest.encodings.items()
        if name in taken
    )
    files = 0
    if fetched:
        files = sum(entry.size_bytes for entry in manifest.files.values())
        # Mapped where they lie; what was encrypted is decrypted into memory of its own.
        files -= 0 if manifest.encryption else stored
    return Need(weights_nbytes=stored + decoded, files_nbytes=files)


def choose(
    need: Need, cpu: float | None = None, memory: str | None = None
) -> tuple[float, str, bool]:
    """Fill in the processors and memory of an instance that were not given.

    Args:
        need: of the bundle.
        cpu: processors; None: as few whole ones as the memory asks for.
        memory: such as 2Gi; None: the smallest usual one with half as much again as is needed.

    Returns:
        Processors, memory, and whether either was chosen here for what the bundle needs or for what
        was said of the other: worth a word.

    Raises:
        ConfigError: the two do not go together, or the bundle does not fit.
    """
    if memory is None:
        memory, cpu_for_it = _chosen(need, cpu)
        cpu = cpu_for_it if cpu is None else cpu
        check_processors(cpu, memory)
        return cpu, memory, True
    nbytes = memory_nbytes(memory)
    asked = cpu is not None
    if cpu is None:
        cpu = max(1.0, _processors_for(min(nbytes / 2**30, _MAX_GIB)))
    check_processors(cpu, memory)
    if nbytes < need.nbytes:
        raise _too_little(need, f"--memory {memory} is {_megabytes(nbytes)}")
    return cpu, memory, not asked and cpu > 1


def _chosen(need: Need, cpu: float | None) -> tuple[str, float]:
    """Return the memory for a need, and the processors for that memory."""
    most = _MAX_GIB if cpu is None else _most(cpu)
    least = 0 if cpu is None else _LEAST.get(int(cpu), 0)
    if need.nbytes > most * 2**30:
        came = (
            "nothing smaller was asked for"
            if cpu is None
            else (f"with --cpu {cpu:g} it has at most {_words(most)}")
        )
        raise _too_little(need, came)
    wanted = max(
        # The spare room is given up before a bundle that just fits is refused.
        min(need.nbytes * _ROOM, most * 2**30),
        min(memory_nbytes(_USUAL), most * 2**30),
        least * 2**30,
    )
    memory = next(step for step in _STEPS if memory_nbytes(step) >= wanted)
    # A whole processor at least: with less an instance answers one request at a time.
    return memory, max(1.0, _processors_for(memory_nbytes(memory) / 2**30))


def _too_little(need: Need, came: str) -> ConfigError:
    """Return the error for a bundle that does not fit, with a size that would."""
    if need.nbytes > _MAX_GIB * 2**30:
        return ConfigError(
            f"the bundle needs {_megabytes(need.nbytes)} of memory ({need}); an instance has at "
            f"most {_MAX_GIB}Gi: make the weights smaller (maas quantize), or serve it from a "
            "machine of your own (maas package --container)",
            needed_nbytes=need.nbytes,
        )
    memory, cpu = _chosen(need, None)
    more = f" --cpu {cpu:g}" if cpu > 1 else ""
    return ConfigError(
        f"the bundle needs {_megabytes(need.nbytes)} of memory ({need}); {came}: say --memory "
        f"{memory}{more}, or make the weights smaller (maas quantize)",
        needed_nbytes=need.nbytes,
    )


def _processors_for(gib: float) -> float:
    """Return the least processors that so much memory requires."""
    return max((cpus for more_than, cpus in _PROCESSORS.items() if gib > more_than), default=0)


def _most(cpu: float) -> float:
    """Return the most GiB that go with so many processors."""
    return min((gib for gib, cpus in _PROCESSORS.items() if cpus > cpu), default=_MAX_GIB)


def _words(gib: float) -> str:
    return f"{gib:g}Gi" if gib >= 1 else f"{gib * 1024:g}Mi"


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.0f} MB" if nbytes >= 10e6 else f"{nbytes / 1e3:,.0f} kB"
