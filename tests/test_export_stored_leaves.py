"""Models whose weights are stored encoded, from ``as_model`` to what a bundle answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.bundle import open_bundle, open_weights
from maas_sdk.bundle.compression import Compression
from maas_sdk.bundle.encoding.encode import compose, compress_tensor, pack_bitmap, pack_codes
from maas_sdk.bundle.encoding.spec import Encoding, Stored, decode
from maas_sdk.bundle.manifest import WEIGHTS
from maas_sdk.errors import CorruptError, ExportError
from maas_sdk.export import default_targets, export
from maas_sdk.export.reweight import reweight
from maas_sdk.export.stored_leaves import stored_form
from maas_sdk.export.verification.answers import verify
from maas_sdk.model.adapt import Exportable, Model, adapt
from maas_sdk.model.leaf import Leaf
from maas_sdk.runtime import load

X = np.random.default_rng(0).random((3, 8), np.float32)
RECORD = Compression(
    recipe="mixed",
    metric="accuracy",
    before=0.9,
    after=0.8,
    bytes_before=1000,
    bytes_stored=500,
    bytes_memory=1000,
)


@dataclass
class Compressed:
    """Weights by name, and leaves made of them: what a compressed model looks like from here."""

    leaves: tuple[Leaf, ...]
    encodings: dict[str, Encoding] = field(default_factory=dict)
    compression: Compression | None = None

    def as_model(self) -> Model:
        names = [leaf.name for leaf in self.leaves]
        return Model(
            kind="apply",
            leaves=self.leaves,
            rebuild=lambda values: dict(zip(names, values, strict=True)),
            apply=self.apply,
            encodings=self.encodings,
            compression=self.compression,
        )

    def apply(self, weights: Any, x: Any) -> Any:
        x = x @ weights["scaled"] + x @ weights["codebook"]
        return jnp.tanh(x) @ weights["bitmap"] + x @ weights["zstd"] + weights["bias"]


def stored(seed: int) -> dict[str, Stored]:
    """A weight of each kind, [8, 8]."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(8, 8)).astype(np.float32)
    f32: dict[str, Any] = {"dtype": "float32", "shape": (8, 8)}
    return {
        "scaled": compose(
            "scaled",
            "scaled",
            {
                "codes": rng.integers(-128, 128, (8, 8)).astype(np.int8),
                "scale": rng.random((8, 1), np.float32) / 100,
            },
            **f32,
        ),
        "codebook": compose(
            "codebook",
            "codebook",
            {
                "codes": pack_codes("codebook/codes", rng.integers(0, 16, (8, 8)), bits=4),
                "codebook": values[0].repeat(2),
            },
            **f32,
        ),
        "bitmap": pack_bitmap("bitmap", np.where(values > 0.5, values, np.float32(0))),
        "zstd": compress_tensor("zstd", values.round()),
    }


def model(seed: int = 0, **options: Any) -> Compressed:
    leaves = [
        Leaf(name=name, value=jax.ShapeDtypeStruct((8, 8), jnp.float32), stored=form)
        for name, form in stored(seed).items()
    ]
    bias = Leaf(name="bias", value=np.full(8, seed, np.float32))
    return Compressed(leaves=(*leaves, bias), **options)


def exported(what: Any, path: Path, **options: Any) -> Path:
    return export(what, X, path=path, buckets=(1, 4), targets=default_targets()[:1], **options).path


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(model(compression=RECORD), tmp_path_factory.mktemp("first") / "m.maas")


def test_a_model_of_encoded_leaves_answers_like_the_plain_one(first: Path, tmp_path: Path) -> None:
    """The same program over the decoded weights, exported plainly, gives the very same bits."""
    plain = {leaf.name: leaf.to_numpy() for leaf in model().leaves}
    other = exported(model().apply, tmp_path / "plain.maas", weights=plain)
    with load(first) as encoded, load(other) as expected:
        assert encoded.predict(X).tobytes() == expected.predict(X).tobytes()
    manifest = open_bundle(first).manifest
    assert manifest.programs["predict"].weights == (*stored(0), "bias")
    assert manifest.compression == RECORD
    for name, form in stored(0).items():
        assert manifest.encodings.items() >= dict(form.encodings).items()
        assert decode(
            name, manifest.encodings, open_weights(first / WEIGHTS)
        ).tobytes() == plain[name].tobytes()  # fmt: skip
    assert open_bundle(other).manifest.encodings == {}
    assert (first / WEIGHTS).stat().st_size < (other / WEIGHTS).stat().st_size * 1.5


def test_what_is_verified_is_what_is_stored(first: Path) -> None:
    """The verifying child decodes the file's own tensors, at export and whenever it is asked."""
    assert open_bundle(first).manifest.programs["predict"].verification is not None
    verify(first).raise_for_failures()
    plain = {leaf.name: leaf.to_numpy() for leaf in model(1).leaves}
    found = verify(first, lambda inputs: model().apply(plain, inputs["input"]))
    with pytest.raises(ExportError):
        found.raise_for_failures()


class Consumer(Compressed):
    """Its program takes codes and scale themselves."""

    def apply(self, weights: Any, x: Any) -> Any:
        return decode("w", self.encodings, weights, jnp).T @ x[0]


def test_what_a_program_consumes_is_described_and_stays_as_it_is(tmp_path: Path) -> None:
    """Codes and scale are the program's arguments; what is made from unused leaves is left out."""
    form = stored(0)["codebook"]
    form = replace(form, name="w", encodings={
        "w": form.encodings["codebook"], "codebook/codes": form.encodings["codebook/codes"]
    })  # fmt: skip
    leaves = tuple(Leaf(name=name, value=value) for name, value in form.tensors.items())
    unused = {"gone": Encoding(scheme="zlib", dtype="int8", shape=(9,), parts={"data": "idle"})}
    idle = Leaf(name="idle", value=np.zeros(9, np.uint8))
    consumer = Consumer(leaves=(*leaves, idle), encodings={**form.encodings, **unused})
    folder = exported(consumer, tmp_path / "m.maas", atol=1e-6)
    manifest = open_bundle(folder).manifest
    assert manifest.encodings == form.encodings
    assert set(manifest.programs["predict"].weights) == form.tensors.keys()
    with load(folder) as engine:
        np.testing.assert_allclose(
            engine.predict(X[:1]), consumer.apply(form.tensors, X[:1]), rtol=1e-5
        )


def test_a_model_that_takes_itself_apart_has_its_own_weights() -> None:
    """Anything with as_model is exportable; weights= beside it is refused."""
    assert isinstance(model(), Exportable)
    assert not isinstance(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), Exportable)
    assert [leaf.name for leaf in adapt(model(), None).leaves] == [*stored(0), "bias"]
    with pytest.raises(ExportError, match=r"Compressed takes itself apart .* drop weights="):
        adapt(model(), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "weight 'other': expected its stored form under the same name, got"),
        ({"value": np.zeros((8, 8), np.int8)}, r"the program takes int8\[8, 8\], what is stored"),
        ({"value": np.zeros(8, np.float32)}, r"takes float32\[8\], .* decodes to float32\[8, 8\]"),
    ],
)
def test_a_stored_form_is_of_its_leaf(change: dict[str, Any], message: str) -> None:
    """Name, dtype and shape are held together when the leaf is made."""
    leaf = model().leaves[0]
    with pytest.raises(ExportError, match=message):
        replace(leaf, **change)


def test_names_mean_one_thing() -> None:
    """Leaves may share a part; two different ones of one name, or encodings, are refused."""
    book = np.arange(4, dtype=np.float32)
    codes = np.zeros((2, 2), np.uint8)

    def leaf(name: str, shared: np.ndarray) -> Leaf:
        form = Stored(name="book", encodings={}, tensors={"book": shared})
        made = compose(
            name, "codebook", {"codes": codes, "codebook": form}, dtype="float32", shape=(2, 2)
        )
        return Leaf(name=name, value=np.zeros((2, 2), np.float32), stored=made)

    tensors, encodings = stored_form([leaf("a", book), leaf("b", book.copy())], {})
    assert sorted(tensors) == ["a/codes", "b/codes", "book"]
    assert sorted(encodings) == ["a", "b"]
    with pytest.raises(ExportError, match=r"weight 'b': two different tensors .* named 'book'"):
        stored_form([leaf("a", book), leaf("b", book + 1)], {})
    other = replace(encodings["a"], dtype="int8")
    with pytest.raises(ExportError, match="two different encodings are named 'a'"):
        stored_form([leaf("a", book)], {"a": other})
    with pytest.raises(CorruptError, match="tensor 'x': decoded: expected float32"):
        stored_form([leaf("a", book)], {"x": other})


def test_reweight_writes_encoded_weights_encoded(first: Path, tmp_path: Path) -> None:
    """Another model compressed the same way takes the place of the first; its record as well."""
    second = replace(RECORD, after=0.85)
    bundle = reweight(first, model(1, compression=second), path=tmp_path / "2.maas")
    assert bundle.manifest.compression == second
    assert bundle.manifest.encodings.keys() == open_bundle(first).manifest.encodings.keys()
    fresh = exported(model(1), tmp_path / "fresh.maas")
    with load(bundle.path) as one, load(fresh) as other:
        assert one.predict(X).tobytes() == other.predict(X).tobytes()


def test_reweight_forgets_what_was_measured_on_the_old_weights(first: Path, tmp_path: Path) -> None:
    """Without a record of its own, a new version has the old one's bytes and no accuracy."""
    bundle = reweight(first, model(1), path=tmp_path / "2.maas")
    assert bundle.manifest.compression == replace(RECORD, metric=None, before=None, after=None)


def test_reweight_refuses_plain_weights_for_encoded_ones(first: Path, tmp_path: Path) -> None:
    """Names the tensor and its scheme; and one of another shape; nothing is written."""
    plain = {leaf.name: leaf.to_numpy() for leaf in model().leaves}
    with pytest.raises(ExportError, match=r"'scaled': is stored encoded \(scaled\), got a plain"):
        reweight(first, plain, path=tmp_path / "2.maas")
    leaves = (*model().leaves[:-1], Leaf(name="bias", value=np.zeros(7, np.float32)))
    with pytest.raises(ExportError, match=r"'bias': expected float32\[8\], got float32\[7\]"):
        reweight(first, Compressed(leaves=leaves), path=tmp_path / "2.maas")
    assert list(tmp_path.iterdir()) == []
