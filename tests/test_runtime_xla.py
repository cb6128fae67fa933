from __future__ import annotations

import gc
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.errors import IncompatibleError, ModelError
from maas_sdk.export.stablehlo import portable
from maas_sdk.runtime import xla
from maas_sdk.tensors import BITS, dtype_from_name

# XLA has no type for these, or (the one-bit integers) none that its CPU compiler takes.
UNKNOWN_TO_XLA = {
    *("float6_e2m3fn", "float6_e3m2fn", "int1", "uint1", "bcomplex32", "complex32"),
}


@pytest.fixture(scope="module")
def client():
    return xla.XlaClient()


@pytest.fixture(autouse=True)
def sixty_four_bits():
    with jax.enable_x64(True):
        yield


def stablehlo(fn, *examples):
    lowered = jax.jit(fn).lower(*examples)
    return portable(lowered.compiler_ir("stablehlo"), where="test").data


def outputs(*arrays):
    return [(array.shape, array.dtype) for array in arrays]


def aligned(shape, dtype, *, offset=0):
    """Ones at an address that is ``offset`` bytes above a multiple of 64."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(nbytes + 192, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    array = raw[start : start + nbytes].view(dtype).reshape(shape)
    array[...] = 1
    assert array.ctypes.data % 64 == offset
    return array


@pytest.mark.parametrize("name", sorted(BITS.keys() - UNKNOWN_TO_XLA))
def test_every_dtype_goes_in_and_out(name, client):
    """What comes out is what jax says, element by element: layouts and packing agree."""
    dtype = dtype_from_name(name)
    codes = np.arange(15) % (2 if name == "bool" else min(2 ** BITS[name], 100))
    x = codes.astype(np.uint8).view(dtype) if BITS[name] <= 8 else codes.astype(dtype)

    def fn(a):
        return a, a[::-1], a.reshape(3, 5).T

    expected = [np.asarray(array) for array in jax.jit(fn)(x)]
    results = client.compile(stablehlo(fn, x)).run([client.put(x)], outputs(*expected))
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == dtype
        assert not result.flags.writeable
        wide = np.complex128 if dtype.kind == "c" else np.float64
        np.testing.assert_array_equal(result.astype(wide), wanted.astype(wide))


@pytest.mark.parametrize("name", ["int4", "int2"])
def test_negative_packed_integers(name, client):
    """Signed sub-byte integers keep their sign, also through arithmetic in wider ones."""
    x = np.array([-2, -1, 0, 1, -2], np.int8).astype(dtype_from_name(name))
    program = client.compile(stablehlo(lambda a: (a, a.astype(jnp.int32) * 3), x))
    same, tripled = program.run([client.put(x)], [(x.shape, x.dtype), (x.shape, np.dtype("<i4"))])
    np.testing.assert_array_equal(same.astype(np.int8), [-2, -1, 0, 1, -2])
    np.testing.assert_array_equal(tripled, [-6, -3, 0, 3, -6])


@pytest.mark.parametrize("name", sorted(UNKNOWN_TO_XLA - {"int1", "uint1"}))
def test_a_dtype_that_xla_does_not_have(name, client):
    """The error says so, whatever XLA itself raises."""
    with pytest.raises(IncompatibleError, match=f"XLA cannot hold an array of {name}"):
        client.put(np.zeros(3, dtype_from_name(name)))


@pytest.mark.parametrize("name", ["float6_e2m3fn", "float6_e3m2fn"])
def test_an_output_that_xla_would_get_wrong(name, client):
    """A jaxlib that takes float6 answers with other numbers: refused as an output too."""
    x = np.ones(3, np.float32)
    program = client.compile(stablehlo(lambda a: a, x))
    with pytest.raises(IncompatibleError, match=f"XLA cannot hold an array of {name}"):
        program.run([client.put(x)], [((3,), dtype_from_name(name))])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "int4"])
def test_scalars_and_arrays_without_elements(dtype, client):
    """Shapes () and [0, 3] survive."""
    dtype = dtype_from_name(dtype)
    scalar, nothing = np.ones((), np.int8).astype(dtype), np.ones((0, 3), np.int8).astype(dtype)
    program = client.compile(stablehlo(lambda a, b: (a, b), scalar, nothing))
    one, none = program.run([client.put(scalar), client.put(nothing)], outputs(scalar, nothing))
    assert (one.shape, none.shape) == ((), (0, 3))
    assert one.astype(np.float32) == 1
    assert {one.dtype, none.dtype} == {dtype}


def test_an_aligned_array_is_used_in_place(client):
    """No copy: what is written to the array afterwards is what the next run computes with."""
    x = aligned((64, 4), np.float32)
    program = client.compile(stablehlo(lambda a: a.sum(), x))
    buffer = client.put(x)
    assert buffer.unsafe_buffer_pointer() == x.ctypes.data
    x[0, 0] = 101
    (total,) = program.run([buffer], [((), x.dtype)])
    assert total == 256 + 100


@pytest.mark.parametrize("offset", [4, 1, 32])
def test_an_unaligned_array_is_copied(offset, client):
    """The copy holds the right numbers, even where the elements themselves lie askew."""
    x = aligned((64, 4), np.float32, offset=offset)
    x[:] = np.arange(256).reshape(64, 4)
    buffer = client.put(x)
    assert buffer.unsafe_buffer_pointer() != x.ctypes.data
    (same,) = client.compile(stablehlo(lambda a: a * 1, x)).run([buffer], outputs(x))
    np.testing.assert_array_equal(same, np.arange(256).reshape(64, 4))


def test_the_buffer_keeps_the_array_alive(client):
    """The caller may drop an array that XLA uses in place."""
    program = client.compile(stablehlo(lambda a: a.sum(), np.ones(4096, np.float32)))
    buffer = client.put(aligned((4096,), np.float32))
    gc.collect()
    rubbish = [np.full(4096, 9, np.float32) for _ in range(50)]
    assert program.run([buffer], [((), np.dtype("<f4"))])[0] == 4096
    del rubbish


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_results_are_views_that_outlive_everything(dtype):
    """A result is XLA's memory, valid after executable, buffers and client are gone."""
    client = xla.XlaClient()
    x = aligned((512, 8), dtype_from_name(dtype))
    program = client.compile(stablehlo(lambda a: a + a, x))
    first, second = (program.run([client.put(x)], outputs(x))[0] for _ in range(2))
    assert first.base is not None
    assert first.ctypes.data != second.ctypes.data
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 0
    del client, program
    gc.collect()
    rubbish = [np.full((512, 8), 7, np.float32) for _ in range(50)]
    assert (first.astype(np.float32) == 2).all()
    assert (second.astype(np.float32) == 2).all()
    del rubbish


def test_an_input_handed_through_is_not_the_callers_memory(client):
    """An output never aliases an array of the caller, who may change it."""
    x = aligned((64,), np.float32)
    (same,) = client.compile(stablehlo(lambda a: a, x)).run([client.put(x)], outputs(x))
    x[:] = 5
    assert (same == 1).all()


def test_serialized_and_loaded_again(client):
    """An executable survives as bytes, in another client."""
    x = np.arange(6, dtype=np.float32)
    data = client.compile(stablehlo(lambda a: a * 2, x)).serialize()
    other = xla.XlaClient()
    np.testing.assert_array_equal(other.load(data).run([other.put(x)], outputs(x))[0], x * 2)


def test_bytes_that_are_no_program(client):
    """Garbage is refused with a sentence, as program and as executable."""
    for data in (b"", b"ML\xefR", b"junk" * 100):
        with pytest.raises(IncompatibleError, match=r"XLA cannot compile the program: .*jaxlib"):
            client.compile(data)
        with pytest.raises(IncompatibleError, match=r"XLA cannot load the executable: .*export"):
            client.load(data)


def test_wrong_arguments_are_an_error_of_the_model(client):
    """XLA's own refusal while running comes out as ModelError, not as something foreign."""
    x = np.ones(4, np.float32)
    program = client.compile(stablehlo(lambda a: a, x))
    with pytest.raises(ModelError, match="the program failed while it ran: "):
        program.run([client.put(np.ones(7, np.float32))], outputs(x))


def test_a_custom_call_that_jaxlib_does_not_ship():
    """The function is named."""
    with pytest.raises(IncompatibleError, match=r"jaxlib \S+ ships no function my_kernel"):
        xla.register_custom_calls(["my_kernel"])


@pytest.mark.parametrize(
    ("calls", "lacks"),
    [
        ({"warp_drive": ()}, r"lacks warp_drive, which this"),
        ({"Client.warp": ("factor",)}, r"lacks Client\.warp, which this"),
        # Names that exist, with arguments that do not: what the next release may do.
        ({"array_result_handler": ("aval", "speed")}, r"lacks array_result_handler\(aval, speed\)"),
        ({"array_result_handler": ("aval",)}, r"lacks array_result_handler\(aval\), which"),
    ],
)
def test_a_jaxlib_that_lacks_what_is_called(monkeypatch, calls, lacks):
    """probe() looks at names and signatures; it says what is missing and what to do."""
    monkeypatch.setattr(xla, "_CALLS", {**xla._CALLS, **calls})
    with pytest.raises(IncompatibleError, match=lacks + ".*pip install --upgrade maas"):
        xla.XlaClient()


@pytest.mark.parametrize("version", ["0.9.2", "0.10.1", "0.4.38", "0.10.1.dev20260101"])
def test_a_jaxlib_that_is_too_old(version):
    """Its version is compared before anything of it is imported."""
    sentence = rf"jaxlib {version} is too old, 0\.10\.2 or newer is needed"
    with pytest.raises(IncompatibleError, match=sentence):
        xla.check_version(version)


@pytest.mark.parametrize("version", ["0.10.2", "0.11.0", "0.12.0.1", "0.13.0.dev20270101", "1.0"])
def test_a_jaxlib_that_is_new_enough(version):
    """Nothing is refused for its number alone: probe() looks at what it can do."""
    xla.check_version(version)


def test_an_old_jaxlib_is_told_so_by_the_import(tmp_path):
    """It lacks what is imported next; its version is said, not the name that is missing."""
    package = tmp_path / "jaxlib"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "version.py").write_text("__version__ = '0.9.2'")
    code = "import maas_sdk.runtime"
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "IncompatibleError: jaxlib 0.9.2 is too old, 0.10.2 or newer is needed: pip" in last


def test_without_jaxlib():
    """Importing the runtime without jaxlib says what to install."""
    code = (
        "import sys\nsys.modules['jaxlib'] = None\n"
        "try:\n    import maas_sdk.runtime\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("IncompatibleError the runtime needs jaxlib")
    assert "pip install 'maas-sdk[serve]'" in done.stdout


def test_the_build_of_jaxlib():
    """Version and eight digits of the commit."""
    import jaxlib.version

    version, commit = xla.jaxlib_build().split("+")
    assert version == jaxlib.version.__version__
    assert len(commit) == 8
