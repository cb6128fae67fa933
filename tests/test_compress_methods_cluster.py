from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.cluster.vq import kmeans2  # type: ignore[import-untyped]  # its types are a package of their own

from maas_sdk.compress.methods import cluster
from maas_sdk.compress.methods.cluster import BITS, SAMPLE, kmeans, sparse
from maas_sdk.compress.methods.grids import symmetric
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

MATRICES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 40)),
    elements=st.floats(-1000, 1000, width=32),
)


def sqnr(w: Array, decoded: Array) -> float:
    return float(10 * np.log10((w.astype(float) ** 2).sum() / ((w - decoded) ** 2.0).sum()))


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@settings(max_examples=150, deadline=None)
@given(w=MATRICES, bits=st.sampled_from(BITS), granularity=st.sampled_from(["tensor", "channel"]))
def test_codes_name_the_nearest_value(w: Array, bits: int, granularity: Any) -> None:
    """Codebooks are sorted, within the weights' range, and no other value is nearer."""
    found = kmeans(w, bits=bits, granularity=granularity)
    assert found.codes.dtype == np.uint8
    assert found.codes.max() < 2**bits
    book = found.codebook
    assert book.dtype == np.float32
    assert book.shape == ((2**bits,) if granularity == "tensor" else (len(w), 1, 2**bits))
    assert (np.diff(book) >= 0).all()
    books = book.reshape(-1, 1, 2**bits)
    nearest = np.abs(w[..., None] - books).min(-1)
    # Numbers that XLA takes for zero may be told apart or not.
    close = nearest + 1e-7 * np.abs(w).max() + np.finfo(np.float32).tiny
    assert (np.abs(found.decode() - w) <= close).all()
    assert w.min() <= book.min() <= book.max() <= w.max()


@settings(max_examples=100, deadline=None)
@given(w=MATRICES, bits=st.sampled_from([2, 3, 4, 8]))
def test_few_distinct_weights_are_kept_exactly(w: Array, bits: int) -> None:
    """As many values as weights: nothing is lost, and the rest of the codebook repeats the last."""
    w = np.round(w)
    values = np.unique(w)[: 2**bits]
    w = values[np.searchsorted(values, w).clip(0, len(values) - 1)]
    for granularity in ("tensor", "channel"):
        found = kmeans(w, bits=bits, granularity=granularity)
        np.testing.assert_array_equal(found.decode(), w)
    assert kmeans(w, bits=bits).codebook[-1] == w.max()


def test_two_clusters_by_hand() -> None:
    """Values are the means of what is near them."""
    w = np.array([[0, 1, 2, 10, 11, 20, 21, 22, 30, 31, 32]], np.float32)
    found = kmeans(w, bits=2)
    assert found.codebook.tolist() == [1, 10.5, 21, 31]
    assert found.codes.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3]]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounds_are_those_of_scipy(bits: int) -> None:
    """From the same start, the codebook after all rounds is that of kmeans2."""
    ordered = np.sort(normal(1, 3000).astype(np.float64))
    start = cluster._linear(ordered, 2**bits)
    found, _ = cluster._lloyd(ordered, start)
    with np.errstate(all="ignore"):
        expected, _ = kmeans2(ordered[0][:, None], start[0][:, None], iter=200, minit="matrix")
    np.testing.assert_allclose(found[0], expected[:, 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_the_better_start_is_kept(bits: int) -> None:
    """No start alone ends closer, on weights with heavy tails."""
    w = np.random.default_rng(0).standard_t(3, (1, 20_000)).astype(np.float32)
    ordered = np.sort(w.astype(np.float64))
    best = sqnr(w, kmeans(w, bits=bits).decode())
    for start in (cluster._linear, cluster._quantiles, cluster._by_density):
        book = cluster._lloyd(ordered, start(ordered, 2**bits))[0][0]
        alone = book[np.searchsorted((book[1:] + book[:-1]) / 2, w)]
        assert best >= sqnr(w, alone) - 1e-3


@pytest.mark.parametrize(
    ("bits", "optimum"), [(2, 9.30), (3, 14.62), (4, 20.22), (5, 26.01), (6, 31.89)]
)
def test_normal_weights_come_near_the_optimum(bits: int, optimum: float) -> None:
    """Within 0.3 dB of the best quantizer there is (Max 1960, table I), on a large matrix."""
    w = normal(512, 512)
    assert sqnr(w, kmeans(w, bits=bits).decode()) > optimum - 0.3


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_codebook_beats_a_grid(bits: int) -> None:
    """At equal bits on normal weights, also against a searched range; and one per channel more."""
    w = normal(64, 2048)
    grid = sqnr(w, symmetric(w, bits=bits, granularity="tensor", clip="mse").decode())
    shared = sqnr(w, kmeans(w, bits=bits).decode())
    own = sqnr(w, kmeans(w, bits=bits, granularity="channel").decode())
    assert grid < shared < own


def test_a_large_matrix_is_fitted_on_all_its_weights() -> None:
    """Within 0.02 dB of rounds on all weights alone, though columns differ from one another."""
    w = normal(1024, 1024)
    # Places that a regular sample would always miss or always hit.
    w[:, ::64] *= 4
    assert w.size > SAMPLE
    best = cluster._fit(np.sort(w.reshape(1, -1)), 16)[0]
    all_of_them = best[np.searchsorted((best[1:] + best[:-1]) / 2, w)]
    assert sqnr(w, kmeans(w, bits=4).decode()) > sqnr(w, all_of_them) - 0.02


def test_a_long_channel_is_fitted_by_itself() -> None:
    """A channel beyond the sample, or beyond a tile, has the codebook it has as a matrix."""
    for size in (SAMPLE + 1, 2**18 + 1):
        w = normal(2, size)
        found = kmeans(w, bits=3, granularity="channel")
        for row in range(2):
            alone = kmeans(w[row : row + 1], bits=3)
            np.testing.assert_allclose(found.codebook[row, 0], alone.codebook, atol=0.01)
        assert sqnr(w, found.decode()) > 14.3


@settings(max_examples=100, deadline=None)
@given(w=MATRICES, bits=st.sampled_from([2, 4]), sparsity=st.none() | st.floats(0, 0.99))
def test_zeros_stay_out_of_the_codebook(w: Array, bits: int, sparsity: float | None) -> None:
    """What the mask drops is zero, and the rest is clustered as if it were alone."""
    found = sparse(w, bits=bits, sparsity=sparsity)
    decoded = found.decode()
    assert not decoded[~found.mask].any()
    assert found.codes.dtype == np.uint8
    assert found.codes.size == found.mask.sum()
    if sparsity is None:
        np.testing.assert_array_equal(found.mask, w != 0)
    else:
        assert (~found.mask).sum() == round(sparsity * w.size)
    if found.mask.any():
        alone = kmeans(w[found.mask][None], bits=bits)
        np.testing.assert_array_equal(found.codebook, alone.codebook)
        np.testing.assert_array_equal(decoded[found.mask], alone.decode()[0])
    else:
        assert not found.codebook.any()


def test_a_large_sparse_matrix() -> None:
    """Nine zeros of ten: the rest has the quality of its codebook."""
    w = normal(1024, 1024)
    found = sparse(w, bits=5, sparsity=0.9)
    assert found.mask.mean() == pytest.approx(0.1, abs=1e-6)
    assert sqnr(w[found.mask], found.decode()[found.mask]) > 33


def test_the_same_weights_give_the_same_bytes() -> None:
    """There is no chance in it."""
    w = normal(512, 512)
    one, two = kmeans(w, bits=4), kmeans(w.copy(), bits=4)
    assert one.codebook.tobytes() == two.codebook.tobytes()
    assert one.codes.tobytes() == two.codes.tobytes()


@pytest.mark.parametrize("call", [kmeans, sparse])
def test_options_that_there_are_not(call: Any) -> None:
    """The message says which there are."""
    w = np.ones((2, 8), np.float32)
    for bits in (1, 9):
        with pytest.raises(ConfigError, match=f"a codebook has 2 to 8 bits, got {bits}"):
            call(w, bits=bits)
    with pytest.raises(ConfigError, match="for the 'tensor' or for a 'channel', got 4; groups"):
        kmeans(w, bits=4, granularity=4)  # type: ignore[arg-type]
    w[1, 3] = np.inf
    with pytest.raises(InputError, match="got inf at output 1, input 3"):
        call(w, bits=4)
