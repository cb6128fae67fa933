"""Uses of the public API whose types are a promise; mypy reads this file, nothing runs it.

Types of results are asserted; calls that must be refused carry the error that mypy gives for them,
and mypy reports an ignored error that does not come.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, assert_type

import flask
from flax import nnx

from maas_sdk.batch import BatchConfig, BatchJob, BatchReport, Progress, predict_files
from maas_sdk.bundle import Bundle, Manifest, open_bundle
from maas_sdk.client import AsyncClient, Client, RetryPolicy
from maas_sdk.compress import (
    QuantizationReport,
    QuantizedModel,
    Recipe,
    find_recipe,
    quantize,
    report_page,
)
from maas_sdk.errors import MaasError
from maas_sdk.evaluate import (
    Classification,
    Evaluation,
    Language,
    Regression,
    classification,
    evaluate,
    evaluation_page,
    language,
    regression,
    text_table,
)
from maas_sdk.export import VerificationReport, default_targets, export, reweight, verify
from maas_sdk.runtime import CheckedCall, Engine, LoadReport, load
from maas_sdk.serve import (
    Endpoint,
    EndpointLimits,
    ModelHost,
    Request,
    Response,
    asgi_app,
    serve,
)
from maas_sdk.store import (
    LocalStore,
    Published,
    Store,
    StoreReference,
    find_bundle,
    find_version,
    open_store,
    parse_reference,
)
from maas_sdk.tensors import Array
from maas_sdk.testing import served_client, tiny_bundle
from maas_sdk.training import (
    EvalRecord,
    Examples,
    Policy,
    Split,
    TrainConfig,
    Trainer,
    TrainResult,
    from_linen,
    stratified_split,
)


def of_client(x: Array) -> None:
    with Client("http://localhost", model="digits", retry=RetryPolicy()) as client:
        assert_type(client, Client)
        assert_type(client.predict(x), Array | dict[str, Array])
        assert_type(client.predict({"image": x}, label="stable"), Array | dict[str, Array])
        assert_type(client.predict_many(x), Iterator[Array | dict[str, Array] | MaasError])
        assert_type(client.live(), bool)
        assert_type(client.ready(), bool)
        client.predict(x, version=1.5)  # type: ignore[arg-type]
        client.predict_many(x, errors="ignore")  # type: ignore[arg-type]
        client.predict(x, "digits")  # type: ignore[call-arg]


async def of_async_client(x: Array) -> None:
    async with AsyncClient("http://localhost", model="digits") as client:
        assert_type(client, AsyncClient)
        assert_type(await client.predict(x), Array | dict[str, Array])
        many = client.predict_many(x)
        assert_type(many, AsyncIterator[Array | dict[str, Array] | MaasError])
        assert_type(await client.ready(), bool)


def of_runtime(x: Array) -> None:
    with load("digits.maas", tier="executable", check="deferred") as engine:
        assert_type(engine, Engine)
        assert_type(engine.predict(x), Array | dict[str, Array])
        assert_type(engine.run({"image": x}), dict[str, Array])
        assert_type(engine.check("predict", {"image": x}), CheckedCall)
        assert_type(engine.report, LoadReport)
        assert_type(engine.manifest, Manifest)
        assert_type(engine.fault, MaasError | None)
    load(3)  # type: ignore[arg-type]
    load("digits.maas", check="never")  # type: ignore[arg-type]


def of_export(model: nnx.Module, x: Array) -> None:
    bundle = export(model, x, path=Path("digits.maas"), buckets=(1, 8))
    assert_type(bundle, Bundle)
    assert_type(bundle.manifest, Manifest)
    assert_type(open_bundle("digits.maas"), Bundle)
    assert_type(reweight(bundle, model, path="new.maas"), Bundle)
    assert_type(verify(bundle), VerificationReport)
    assert_type(default_targets(), tuple[str, ...])
    export(model, x)  # type: ignore[call-arg]


def of_training(model: nnx.Module, x: Array) -> None:
    split = stratified_split(Examples(inputs=x, labels=x), test_fraction=0.2, seed=0)
    assert_type(split, Split)
    assert_type(split.train, Examples)
    result = Trainer(TrainConfig(epochs=1)).fit(model, split.train, split.test)
    assert_type(result, TrainResult)
    assert_type(result.model, nnx.Module)
    assert_type(result.history, tuple[EvalRecord, ...])
    assert_type(result.best, EvalRecord)
    assert_type(Policy.parse("bf16"), Policy)
    TrainConfig(epochs="many")  # type: ignore[arg-type]
    Trainer(1)  # type: ignore[arg-type]
    from_linen()  # type: ignore[call-arg]


def of_serve(request: Request, load_engine: Callable[[], Engine]) -> None:
    assert_type(serve("digits.maas"), Callable[[flask.Request], flask.Response])
    endpoint = Endpoint(ModelHost(load_engine), EndpointLimits(ready_wait_s=1.0))
    assert_type(endpoint.handle(request), Response)
    app: Callable[..., Awaitable[None]] = asgi_app(endpoint)
    del app
    Endpoint("digits.maas")  # type: ignore[arg-type]


def of_store() -> None:
    store = open_store("gs://bucket/models")
    assert_type(store, Store)
    assert_type(store.models(), list[str])
    assert_type(store.publish("digits.maas", "digits", label="stable"), str)
    assert_type(store.resolve("digits"), Path)
    assert_type(store.history("digits"), list[Published])
    assert_type(store.promote("digits", 2), str | None)
    assert_type(store.copy("digits", "here"), Bundle)
    assert_type(find_bundle("gs://bucket/models/digits"), Path)
    assert_type(find_version("digits.maas"), tuple[Path, str | None])
    assert_type(parse_reference("models:digits"), StoreReference)
    # A store in a folder is one.
    store = LocalStore("models")
    store.label("digits")  # type: ignore[attr-defined]


def of_batch() -> None:
    def tell(progress: Progress) -> None: ...

    config = BatchConfig(key="id")
    report = predict_files("digits.maas", "rows.parquet", "answers", config, progress=tell)
    assert_type(report, BatchReport)
    assert_type(report.answered, int)
    predict_files("digits.maas", "rows.parquet", "answers", mode="again")  # type: ignore[arg-type]


def of_batch_job(job: BatchJob) -> None:
    assert_type(job.bundle, Path)


def of_compress(model: nnx.Module, x: Array) -> None:
    quantized = quantize(model, "int8", evaluate=(x, x), max_drop=0.01)
    assert_type(quantized, QuantizedModel)
    assert_type(quantized.report, QuantizationReport)
    assert_type(quantized.report.table(), str)
    assert_type(report_page(quantized.report), str)
    assert_type(find_recipe("int8"), Recipe)
    assert_type(export(quantized, x, path="digits-int8.maas"), Bundle)
    quantize(model, 8)  # type: ignore[arg-type]


def of_evaluate(client: Client, x: Array) -> None:
    found = evaluate(client, (x, x), name="digits")
    assert_type(found, Evaluation)
    assert_type(found.quality, Classification | Regression | Language)
    assert_type(found.to_dict(), dict[str, object])
    assert_type(evaluation_page(found), str)
    assert_type(text_table(found), str)
    assert_type(classification(x, x), Classification)
    assert_type(regression(x, x), Regression)
    assert_type(language(x, x), Language)
    evaluate(client, x)  # type: ignore[arg-type]


def of_testing(folder: Path, options: dict[str, Any]) -> None:
    assert_type(tiny_bundle(folder), Path)
    with served_client(tiny_bundle(folder, name="digits"), **options) as client:
        assert_type(client, Client)
    tiny_bundle(folder, scale="large")  # type: ignore[arg-type]
