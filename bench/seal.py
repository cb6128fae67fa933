"""Cost of a seal in a cold start.

    python bench/seal.py [--runs N] [--save]

The 68 MB CNN of the cold-start benchmark, through functions-framework, from process start to the
first correct answer over HTTP:

- ``plain``: weights are mapped, and hashed behind the first answers;
- ``signed``: one key is trusted, so the signature is checked, and every file hashed, before
  anything is opened;
- ``encrypted``: weights and executable are decrypted into memory, the key is in the environment;
- ``signed and encrypted``: both.

A key that lies in Secret Manager costs its round trips on top. Peak MB is the serving process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import harness
import numpy as np
from cold_start import CACHE, HERE, Contestant

import maas_sdk
from maas_sdk.bundle.crypto.keys import KeyKind, key_text
from maas_sdk.bundle.crypto.primitives import public_key_of
from maas_sdk.wire.frames import CONTENT_TYPE, Call, Failure, decode_results, encode_calls

FOLDER = CACHE / "seal"
# Keys of a benchmark, which guard nothing.
SEED = bytes(range(32))
KEYS = {
    "SIGNING_KEY": key_text(KeyKind.PRIVATE, SEED),
    "MODEL_KEY": key_text(KeyKind.ENCRYPTION, SEED),
}
TRUSTED = {"MAAS_TRUSTED_KEYS": key_text(KeyKind.PUBLIC, public_key_of(SEED))}
SIGN, ENCRYPT = {"sign": "env:SIGNING_KEY"}, {"encrypt": "env:MODEL_KEY"}
# How each is sealed, and what its server is told.
FORMS = {
    "plain": ({}, {}),
    "signed": (SIGN, TRUSTED),
    "encrypted": (ENCRYPT, KEYS),
    "signed and encrypted": (SIGN | ENCRYPT, KEYS | TRUSTED),
}


def prepare() -> None:
    """Build the functions; in a process of its own, which imports JAX."""
    from networks import NETWORKS

    from maas_sdk.bundle.seal import seal_bundle
    from maas_sdk.deploy.package import package
    from maas_sdk.export import export

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    os.environ.update(KEYS)
    network = NETWORKS["cnn"]
    model = network.build()
    x = np.random.default_rng(0).random((1, *network.input_shape), dtype=np.float32)
    np.savez(FOLDER / "golden.npz", x=x, y=np.asarray(model(x)))
    bundle = export(model, x, path=FOLDER / "model.maas", name="cnn", buckets=(1,)).path
    for index, (how, _) in enumerate(FORMS.values()):
        sealed = seal_bundle(bundle, FOLDER / f"{index}.maas", **how).path if how else bundle
        package(sealed, FOLDER / f"function-{index}")
    (FOLDER / "done").touch()


def contestant(index: int, environment: dict[str, str]) -> Contestant:
    """One form as a function."""
    golden = np.load(FOLDER / "golden.npz")

    def framed(body: bytes) -> np.ndarray:
        [result] = decode_results(body)
        if isinstance(result, Failure):
            raise SystemExit(result.message)
        return next(iter(result.outputs.values()))

    return Contestant(
        folder=(FOLDER / f"function-{index}").absolute(),
        path="/v1/models/cnn:predict",
        body=b"".join(encode_calls([Call(id="0", inputs={"input": golden["x"]})])),
        content_type=CONTENT_TYPE,
        environment=environment,
        answer=framed,
        expected=golden["y"],
    )


def main() -> None:
    options = harness.arguments(__doc__)
    if not (FOLDER / "done").exists():
        subprocess.run([sys.executable, __file__, "--prepare"], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    sources = [HERE, Path(maas_sdk.__file__).parent]
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", *sources], check=True, env=environment
    )
    harness.require_bytecode()
    field = {
        name: contestant(index, environment)
        for index, (name, (_, environment)) in enumerate(FORMS.items())
    }
    samples = harness.interleave({k: c.start for k, c in field.items()}, runs=options.runs)
    harness.finish(
        "seal",
        {
            f"{name.replace(' ', '_')}_vs_plain": harness.median_ratio(sample, samples["plain"])
            for name, sample in samples.items()
            if name != "plain"
        },
        [
            {**sample.row(), "peak MB": round(max(field[name].memory_mb))}
            for name, sample in samples.items()
        ],
        save=options.save,
        notes=__doc__.partition("[--save]")[2].strip(),
        packages=("numpy", "jaxlib", "functions-framework", "gunicorn", "cryptography"),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        prepare()
    else:
        main()
