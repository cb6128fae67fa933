"""XLA through jaxlib alone; the only file that touches jaxlib.

jaxlib is jax's compiled half and its Python interface is private. So the rule: every call
into it is here, a jaxlib in which one of them is gone is refused with a sentence instead of an
``AttributeError``, and nothing here imports jax. Two calls of jaxlib that look harmless do import
all of it and are kept out: DLPack, and ``disassemble_into_single_device_arrays``.

A client starts threads, which do not survive a fork: make it in the process that will use it.
Importing this module starts nothing and may happen before a fork.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from maas_sdk.errors import IncompatibleError, ModelError
from maas_sdk.runtime.probe import arguments, misfits
from maas_sdk.tensors import BITS, Array, array_from_bytes, dtype_name

if TYPE_CHECKING:
    from maas_sdk.runtime.plugins import Plugin

# XLA announces its devices on stderr at level INFO; set before the library reads it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

# The oldest jaxlib whose calls are the ones below; pyproject.toml asks for it too.
_OLDEST: Final = "0.10.2"


def check_version(version: str) -> None:
    """Raise ``IncompatibleError`` if this jaxlib is older than the oldest that can serve."""
    if _numbers(version) < _numbers(_OLDEST):
        raise IncompatibleError(
            f"jaxlib {version} is too old, {_OLDEST} or newer is needed: "
            "pip install --upgrade 'maas-sdk[serve]'"
        )


def _numbers(version: str) -> list[int]:
    # "0.13.0.dev20270101" counts as 0.13.0.
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


try:
    from jaxlib import version as _version

    # Before what follows: an old jaxlib has no _hlo, and that it cannot be imported helps nobody.
    check_version(_version.__version__)
    from jaxlib import _hlo, _jax
except ImportError as error:  # pragma: no cover - proven by a process without jaxlib
    raise IncompatibleError(
        f"the runtime needs jaxlib, which cannot be imported ({error}): "
        "pip install 'maas-sdk[serve]'"
    ) from error

__all__ = [
    "Buffer",
    "Executable",
    "XlaClient",
    "check_version",
    "jaxlib_build",
    "portable_artifact",
    "probe",
    "register_custom_calls",
]

# A tensor that XLA holds, opaque outside this file.
Buffer = Any

# What is called, and with which arguments. Where jaxlib names none (``arg: str, /``), or what is
# called is a class, the name alone is looked up.
_CALLS: Final = {
    "Client.compile_and_load": ("computation", "executable_devices", "compile_options"),
    "Client.deserialize_executable": ("serialized", "executable_devices"),
    "Client.local_devices": (),
    "CompileOptions": (),
    "DeviceAssignment.create": (),
    "DeviceList": (),
    "ExecuteResults.consume_with_handlers": ("out_handlers",),
    "LoadedExecutable.execute_sharded": ("arguments",),
    "LoadedExecutable.serialize": (),
    "SingleDeviceSharding": (),
    "array_result_handler": ("aval", "sharding", "committed"),
    "batched_device_put": ("aval", "sharding", "xs", "devices", "committed", "enable_x64"),
    "get_tfrt_cpu_client": ("asynchronous", "num_devices"),
    "mlir.deserialize_portable_artifact": ("mlir_module",),
    "mlir.serialize_portable_artifact": ("mlir_module", "target"),
    "register_custom_call_target": ("fn_name", "fn", "platform", "api_version"),
}

_CALLS_OF_PLUGINS: Final = {
    "get_c_api_client": ("platform_name", "options"),
    "initialize_pjrt_plugin": (),
    "load_pjrt_plugin": ("platform_name", "library_path", "c_api"),
    "pjrt_plugin_initialized": (),
    "pjrt_plugin_loaded": (),
}

# Until 0.11.1 a handler compares dtype and shape with its aval at every run, unless told not to;
# since 0.11.2 it never does, and the argument is gone.
_UNCHECKED: Final[dict[str, bool]] = (
    {"_skip_checks": True}
    if any("_skip_checks" in overload for overload in arguments(_jax.array_result_handler))
    else {}
)

# jaxlib 0.11 and later take these, and their CPU compiler then answers with other numbers or none.
_MISCOMPUTED: Final = frozenset({"float6_e2m3fn", "float6_e3m2fn"})

# What libtpu calls its chips → what everybody does.
_TPUS: Final = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
}


def probe() -> None:
    """Raise ``IncompatibleError`` if this jaxlib does not take the calls of the runtime."""
    _refuse_unless_it_takes(
        _CALLS,
        "which this maas-sdk calls: pip install --upgrade maas-sdk, or install the jaxlib that "
        "the bundle names",
    )


def _refuse_unless_it_takes(calls: Mapping[str, tuple[str, ...]], sentence: str) -> None:
    missing = misfits(_jax, calls)
    if missing:
        raise IncompatibleError(
            f"jaxlib {_version.__version__} lacks {', '.join(missing)}, {sentence}",
            missing=missing,
        )


def jaxlib_build() -> str:
    """Return jaxlib's version and commit, such as "0.10.2+990e6a0b"; executables need the same."""
    return f"{_version.__version__}+{getattr(_version, '_git_hash', 'unknown')[:8]}"


def portable_artifact(module: str, version: str) -> bytes:
    """Convert StableHLO text to the bytes that ``Client.compile`` takes.

    Args:
        module: an MLIR module of the StableHLO and CHLO dialects.
        version: of StableHLO, such as "1.0.0"; every later one can read it.

    Raises:
        IncompatibleError: this version cannot express the module.
    """
    try:
        data: bytes = _jax.mlir.serialize_portable_artifact(module, version)
    except Exception as error:
        raise IncompatibleError(f"StableHLO {version}: {_first_line(error)}") from error
    return data


class _Aval:
    """Attributes that jaxlib reads from an abstract value."""

    __slots__ = ("dtype", "shape", "weak_type")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self.weak_type = False


class _Sharding(_jax.SingleDeviceSharding):  # type: ignore[misc]
    """Attributes that ``batched_device_put`` reads from a sharding: one device, default memory."""

    memory_kind = None

    def _to_xla_hlo_sharding(self, ndim: int) -> Any:
        return _hlo.HloSharding.replicate()


class XlaClient:
    """Client of one device of this process: its CPU, or its first accelerator. Thread-safe.

    Attributes:
        platform: "cpu", or the plugin's.
        arch: of the device: "v5e" of a TPU, "sm90" of a GPU; "" of the CPU, which ``host`` knows.
        version: what the plugin says of itself, in a line; "" of the CPU, which is jaxlib's.
    """

    def __init__(self, plugin: Plugin | None = None) -> None:
        """Start XLA's threads, and for a plugin its device.

        Raises:
            IncompatibleError: the plugin cannot be loaded, or finds no device.
        """
        probe()
        self._pid = os.getpid()
        self._plugin = plugin
        if plugin is None:
            # Not asynchronous: a run happens on the caller's thread and is over when it returns,
            # which is one hand-over between threads less per call, and makes result pointers safe
            # to read.
            self._client = _jax.get_tfrt_cpu_client(asynchronous=False, num_devices=1)
        else:
            self._client = _plugin_client(plugin)
        device = self._client.local_devices()[0]
        self.platform = plugin.platform if plugin else "cpu"
        self.arch = _arch(device) if plugin else ""
        self.version = " ".join(self._client.platform_version.split()) if plugin else ""
        self._device_list = _jax.DeviceList((device,))
        self._devices = [device]
        self._sharding = _Sharding(device)

    def check_process(self) -> None:
        """Raise ``ModelError`` in a child of the process that made the client.

        The client's threads are not there: a call would wait for them for ever.
        """
        if os.getpid() != self._pid:
            raise ModelError(
                f"this process was forked from {self._pid} after the model was loaded there, and "
                "the threads of XLA do not survive a fork: load the model in the process that "
                "answers, after the fork"
            )

    def put(self, array: Array) -> Buffer:
        """Hand an array to XLA.

        On the CPU, memory that is C-contiguous and 64-byte aligned is used in place and kept alive;
        the caller must not write to it until the buffer is gone. Anything else is copied, as is
        all that goes to an accelerator, where it stays as long as the buffer does.

        Raises:
            IncompatibleError: XLA has no such dtype.
            ModelError: this process was forked from the client's.
        """
        # An accelerator's client copies by its threads.
        self.check_process()
        _refuse_miscomputed(array.dtype)
        try:
            return _jax.batched_device_put(
                _Aval(array.shape, array.dtype),
                self._sharding,
                [array],
                self._devices,
                True,
                enable_x64=True,
            )
        except Exception as error:
            raise IncompatibleError(
                f"XLA cannot hold an array of {array.dtype}: {_first_line(error)}",
                dtype=str(array.dtype),
            ) from error

    def load(self, serialized: bytes) -> Executable:
        """Load an executable from its serialized form.

        This runs the bytes as code. Check their hash, jaxlib's build and the processor's features
        first: XLA only logs a mismatch, and may die of SIGILL later.

        Raises:
            IncompatibleError: XLA cannot read it.
        """
        try:
            loaded = self._client.deserialize_executable(serialized, self._device_list)
        except Exception as error:
            raise IncompatibleError(
                f"XLA cannot load the executable: {_first_line(error)}; export the model again "
                f"with jaxlib {jaxlib_build()}"
            ) from error
        return Executable(self, loaded)

    def compile(self, stablehlo: bytes) -> Executable:
        """Compile a StableHLO portable artifact for this machine.

        Raises:
            IncompatibleError: XLA cannot read or compile it.
        """
        # Only here: on the way to a served executable MLIR is not needed.
        from jaxlib.mlir import ir
        from jaxlib.mlir.dialects import stablehlo as dialect

        options = _jax.CompileOptions()
        build = options.executable_build_options
        build.num_replicas = 1
        build.num_partitions = 1
        build.device_assignment = _jax.DeviceAssignment.create(np.array([[0]]))
        if self._plugin is not None and self._plugin.cuda_data_dir:
            build.debug_options.xla_gpu_cuda_data_dir = self._plugin.cuda_data_dir
        context = ir.Context()
        try:
            with context:
                dialect.register_dialect(context)
                module = _jax.mlir.deserialize_portable_artifact(stablehlo)
                loaded = self._client.compile_and_load(module, self._device_list, options)
        except Exception as error:
            raise IncompatibleError(
                f"XLA cannot compile the program: {_first_line(error)}; "
                f"jaxlib here is {jaxlib_build()}"
            ) from error
        return Executable(self, loaded)


class Executable:
    """A compiled program of one client. Thread-safe."""

    def __init__(self, client: XlaClient, loaded: Any) -> None:
        self._client = client
        self._loaded = loaded
        self._handlers: list[Any] | None = None

    def serialize(self) -> bytes:
        """Return the bytes that ``Client.load`` takes."""
        data: bytes = self._loaded.serialize()
        return data

    def run(
        self,
        buffers: Sequence[Buffer],
        outputs: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
    ) -> list[Array]:
        """Run once, and wait for the answer.

        Args:
            buffers: what ``Client.put`` gave, in the order of the program's arguments.
            outputs: shape and dtype of each result, in the program's order; the same at every call.

        Returns:
            Read-only arrays; on the CPU they are views of XLA's own memory (narrow dtypes are
            unpacked).

        Raises:
            IncompatibleError: XLA has no such dtype as one of the outputs.
            ModelError: XLA reports a failure while it runs.
        """
        self._client.check_process()
        handlers = self._handlers
        if handlers is None:
            for _, dtype in outputs:
                _refuse_miscomputed(dtype)
            handlers = [
                _jax.array_result_handler(
                    _Aval(shape, dtype), self._client._sharding, committed=True, **_UNCHECKED
                )
                for shape, dtype in outputs
            ]
            self._handlers = handlers
        try:
            results = self._loaded.execute_sharded(buffers).consume_with_handlers(handlers)
            if self._client.platform != "cpu":
                # A run on an accelerator is only begun; copying its results, all at once, waits for
                # it.
                for result in results:
                    result._copy_single_device_array_to_host_async()
                return [_from_device(result) for result in results]
        except Exception as error:
            raise ModelError(f"the program failed while it ran: {_first_line(error)}") from error
        return [
            _to_numpy(result, shape, dtype)
            for result, (shape, dtype) in zip(results, outputs, strict=True)
        ]


def _refuse_miscomputed(dtype: np.dtype[Any]) -> None:
    # The common dtypes are numpy's own, and asking for a name costs more than this.
    if dtype.isbuiltin != 1 and dtype.name in _MISCOMPUTED:
        raise IncompatibleError(
            f"XLA cannot hold an array of {dtype.name}: give it as float8_e4m3fn or wider",
            dtype=dtype.name,
        )


def _to_numpy(result: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if dtype.isbuiltin == 1:
        return np.frombuffer(memoryview(result), dtype).reshape(shape)
    # The buffer protocol has no letter for ml_dtypes, so their bytes are read where they lie; the
    # array's base keeps the result, and so its memory, alive.
    name = dtype_name(dtype)
    count = 1
    for size in shape:
        count *= size
    nbytes = (count * BITS[name] + 7) // 8
    if not nbytes:
        return np.empty(shape, dtype)
    memory = (ctypes.c_ubyte * nbytes).from_address(result.unsafe_buffer_pointer())
    memory.owner = result  # type: ignore[attr-defined]
    array = array_from_bytes(name, shape, memoryview(memory))
    array.flags.writeable = False
    return array


def _from_device(result: Any) -> Array:
    # Where jax is installed jaxlib imports it here; where a model is served it is not.
    array: Array = result._single_device_array_to_np_array_did_copy()[0]
    array.flags.writeable = False
    return array


def _plugin_client(plugin: Plugin) -> Any:
    _refuse_unless_it_takes(
        _CALLS_OF_PLUGINS,
        "which drives accelerators: pip install --upgrade maas-sdk, or load the bundle with "
        "platform='cpu'",
    )
    name = plugin.platform
    try:
        if not _jax.pjrt_plugin_loaded(name):
            for library in plugin.before:
                ctypes.CDLL(library)
            _jax.load_pjrt_plugin(name, plugin.path, None)
        if not _jax.pjrt_plugin_initialized(name):
            _jax.initialize_pjrt_plugin(name)
        client = _jax.get_c_api_client(name, dict(plugin.options))
    except Exception as error:
        raise IncompatibleError(
            f"platform {name!r}: {plugin.path} opens no device: {_first_line(error)}. Load the "
            "bundle with platform='cpu', or on a machine that has one",
            platform=name,
        ) from error
    if not client.local_devices():
        raise IncompatibleError(f"platform {name!r}: {plugin.path} finds no device here")
    return client


def _arch(device: Any) -> str:
    """Return the name of this kind of device in a bundle's targets."""
    capability = getattr(device, "compute_capability", None)
    if isinstance(capability, str) and capability:
        return "sm" + capability.replace(".", "")
    kind = str(device.device_kind)
    return _TPUS.get(kind, "-".join(kind.lower().split()))


_registered: set[str] = set()


def register_custom_calls(names: Iterable[str]) -> None:
    """Register with XLA the LAPACK functions that jaxlib ships, for use by programs.

    Args:
        names: targets of the program's custom calls, such as ``lapack_spotrf_ffi``.

    Raises:
        IncompatibleError: jaxlib ships no such function.
    """
    wanted = set(names) - _registered
    if not wanted:
        return
    # LAPACK is scipy's: initialising looks its functions up, and imports scipy.linalg for it.
    from jaxlib.cpu import _lapack

    shipped: dict[str, Any] = _lapack.registrations()
    unknown = sorted(wanted - shipped.keys())
    if unknown:
        raise IncompatibleError(
            f"jaxlib {_version.__version__} ships no function {', '.join(unknown)}",
            unknown=unknown,
        )
    _lapack.initialize()
    for name in wanted:
        # The new calling convention is the one of names that end in _ffi.
        _jax.register_custom_call_target(
            name, shipped[name], "cpu", api_version=int(name.endswith("_ffi"))
        )
        _registered.add(name)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
