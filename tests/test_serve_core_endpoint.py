"""The endpoint core, with a fake engine: routes, dialects, limits, errors, deadlines, batches."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.bundle.manifest import Manifest, Program
from maas_sdk.errors import ConfigError, ModelError, OverloadedError
from maas_sdk.serve import Endpoint, EndpointLimits, ModelHost, Request, Response
from maas_sdk.serve.core.messages import buffers_response
from maas_sdk.serve.core.routes import find_route
from maas_sdk.tensors import Array, Signature, TensorSpec
from maas_sdk.wire.frames import (
    CONTENT_TYPE,
    Call,
    Failure,
    Result,
    decode_results,
    encode_calls,
)
from tests.kit.engines import CheckingEngine


def program(*, row_independent: bool = True, buckets: tuple[int, ...] = (1, 2, 4)) -> Program:
    spec = TensorSpec(dtype="float32", shape=(None, 2))
    return Program(
        signature=Signature(inputs={"x": spec}, outputs={"y": spec}),
        weights=(),
        buckets=buckets,
        row_independent=row_independent,
    )


class FakeEngine(CheckingEngine):
    """Doubles its input; notes how many rows each run had."""

    def __init__(self, **programs: Program) -> None:
        self.manifest = Manifest(
            name="toy", programs=programs or {"predict": program()}, targets={}
        )
        self.report = SimpleNamespace(
            tier="executable", target="cpu-test", reason="a fake", timings_s={"bundle": 0.001}
        )
        self.runs: list[tuple[str, int]] = []
        self.error: Exception | None = None
        self.before_run: Callable[[], object] = lambda: None
        self.closed = False

    def run(self, inputs: Mapping[str, Array], *, program: str = "predict") -> dict[str, Array]:
        self.before_run()
        if self.error is not None:
            raise self.error
        self.runs.append((program, len(inputs["x"])))
        return {"y": inputs["x"] * 2}

    def close(self) -> None:
        self.closed = True


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def endpoint_of(engine: FakeEngine, **options: Any) -> Endpoint:
    return Endpoint(ModelHost(lambda: engine), **options)


def rows(count: int, start: float = 0.0) -> Array:
    return np.arange(count * 2, dtype=np.float32).reshape(count, 2) + np.float32(start)


def post_frame(
    endpoint: Endpoint, *calls: Call, path: str = "/v1/models/toy:predict"
) -> list[Result | Failure]:
    body = b"".join(bytes(part) for part in encode_calls(calls))
    response = endpoint.handle(
        Request(method="POST", path=path, headers={"content-type": CONTENT_TYPE}, body=body)
    )
    assert response.status == 200, response.body
    assert dict(response.headers)["Content-Type"] == CONTENT_TYPE
    return list(decode_results(b"".join(response.body)))


def post(
    endpoint: Endpoint,
    body: bytes,
    content_type: str = "application/json",
    path: str = "/v1/models/toy:predict",
    **headers: str,
) -> Response:
    return endpoint.handle(
        Request(
            method="POST", path=path, headers={"content-type": content_type, **headers}, body=body
        )
    )


def get(endpoint: Endpoint, path: str, method: str = "GET") -> Response:
    return endpoint.handle(Request(method=method, path=path))


def document(response: Response) -> Any:
    headers = dict(response.headers)
    body = b"".join(response.body)
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Length"] == str(len(body))
    return json.loads(body)


def test_frame_is_answered_call_by_call() -> None:
    """Each call of a frame gets its own result, or its own error, in the frame's order."""
    x = rows(3)
    answers = post_frame(
        endpoint_of(FakeEngine()),
        Call("a", {"x": x}),
        Call("b", {"x": x.astype(np.float64)}),
        Call("c", {"wrong": x}),
        Call("d", {"x": x}, program="nosuch"),
        Call("e", {"x": rows(0)}),
        Call("f", {"x": rows(9)}),
    )
    assert [answer.id for answer in answers] == list("abcdef")
    a, b, c, d, e, f = answers
    assert isinstance(a, Result)
    np.testing.assert_array_equal(a.outputs["y"], x * 2)
    assert isinstance(b, Failure)
    assert b.code == "invalid_input"
    assert "expected dtype float32, got float64" in b.message
    assert isinstance(c, Failure)
    assert "missing: ['x']; unknown: ['wrong']" in c.message
    assert isinstance(d, Failure)
    assert d.code == "not_found"
    assert "no program 'nosuch'" in d.message
    assert isinstance(e, Result)
    assert e.outputs["y"].shape == (0, 2)
    assert isinstance(f, Result)
    assert f.outputs["y"].shape == (9, 2)


def test_small_calls_run_together() -> None:
    """Calls of one row-independent program run in batches of its largest bucket."""
    engine = FakeEngine()
    calls = [Call(str(i), {"x": rows(1, i)}) for i in range(10)]
    answers = post_frame(endpoint_of(engine), *calls)
    assert engine.runs == [("predict", 4), ("predict", 4), ("predict", 2)]
    for call, answer in zip(calls, answers, strict=True):
        assert isinstance(answer, Result)
        np.testing.assert_array_equal(answer.outputs["y"], call.inputs["x"] * 2)


@given(st.lists(st.integers(0, 6), max_size=12), st.randoms())
def test_answers_do_not_depend_on_batching(sizes: list[int], random: Any) -> None:
    """Whatever the sizes and priorities of the calls, each gets the answer of its own rows."""
    calls = [
        Call(str(i), {"x": rows(size, 10 * i)}, priority=random.randint(-1, 1))
        for i, size in enumerate(sizes)
    ]
    for answer, call in zip(post_frame(endpoint_of(FakeEngine()), *calls), calls, strict=True):
        assert isinstance(answer, Result)
        assert answer.id == call.id
        np.testing.assert_array_equal(answer.outputs["y"], call.inputs["x"] * 2)


def test_rows_that_depend_on_each_other_run_alone() -> None:
    """Calls of a program whose rows influence one another are never put together."""
    engine = FakeEngine(predict=program(row_independent=False))
    post_frame(endpoint_of(engine), *(Call(str(i), {"x": rows(1)}) for i in range(3)))
    assert engine.runs == [("predict", 1)] * 3


def test_priority_goes_first() -> None:
    """Calls of higher priority are run first; the answers keep the frame's order."""
    engine = FakeEngine(first=program(buckets=(1,)), second=program(buckets=(1,)))
    answers = post_frame(
        endpoint_of(engine),
        Call("a", {"x": rows(1)}, program="first"),
        Call("b", {"x": rows(1)}, program="second", priority=1),
    )
    assert [name for name, _ in engine.runs] == ["second", "first"]
    assert [answer.id for answer in answers] == ["a", "b"]


def test_passed_deadline_is_never_started() -> None:
    """A call whose timeout passed while others ran gets DeadlineError, and is not run."""
    engine, clock = FakeEngine(), Clock()

    def two_seconds() -> None:
        clock.now += 2.0

    engine.before_run = two_seconds
    answers = post_frame(
        endpoint_of(engine, clock=clock),
        Call("slow", {"x": rows(4)}, timeout_s=60),
        Call("late", {"x": rows(4)}, timeout_s=1.5),
        Call("fine", {"x": rows(4)}),
    )
    assert isinstance(answers[1], Failure)
    assert answers[1].code == "deadline_exceeded"
    assert "timeout of 1.5 s had passed 2 s after it arrived; it was not started" in (
        answers[1].message
    )
    assert isinstance(answers[2], Result)
    assert len(engine.runs) == 2


def test_deadline_while_loading() -> None:
    """A call does not wait for the load longer than its timeout."""
    never = threading.Event()
    endpoint = Endpoint(ModelHost(lambda: never.wait(30)))  # type: ignore[arg-type,return-value]
    (answer,) = post_frame(endpoint, Call("a", {"x": rows(1)}, timeout_s=0.01))
    never.set()
    assert isinstance(answer, Failure)
    assert answer.code == "deadline_exceeded"


def test_model_failure_is_the_batchs_own() -> None:
    """A run that fails is answered by its error; a foreign error shows its class only."""
    engine = FakeEngine()
    engine.error = ModelError("the model said no")
    (answer,) = post_frame(endpoint_of(engine), Call("a", {"x": rows(1)}))
    assert isinstance(answer, Failure)
    assert (answer.code, answer.message) == ("model_failed", "the model said no")
    engine.error = ZeroDivisionError("secret")
    (answer,) = post_frame(endpoint_of(engine), Call("a", {"x": rows(1)}))
    assert isinstance(answer, Failure)
    assert answer.code == "internal"
    assert "secret" not in answer.message


def test_unforeseen_error_is_500_and_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """``handle`` never raises: 500, a short message, and the traceback in one line of the log."""
    endpoint = endpoint_of(FakeEngine())
    endpoint.hosts[0].start()
    endpoint.hosts[0].use = None  # type: ignore[assignment,method-assign]
    response = post(endpoint, b'{"instances": [[1, 2]]}')
    assert response.status == 500
    assert document(response)["code"] == "internal"
    assert "TypeError" in document(response)["error"]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert any("TypeError" in line.get("traceback", "") for line in lines)


def test_json_rows_and_columns() -> None:
    """TensorFlow Serving's two formats, with and without the program's name."""
    endpoint = endpoint_of(FakeEngine())
    assert document(post(endpoint, b'{"instances": [[1, 2], [3, 4]]}')) == {
        "predictions": [[2.0, 4.0], [6.0, 8.0]]
    }
    body = b'{"signature_name": "serving_default", "inputs": {"x": [[1, 2]]}}'
    assert document(post(endpoint, body)) == {"outputs": [[2.0, 4.0]]}
    # `curl -d` without a header, as TensorFlow Serving's own documentation has it.
    response = post(endpoint, b'{"inputs": [[1, 2]]}', "application/x-www-form-urlencoded")
    assert response.status == 200


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code", "words"),
    [
        (b"", "application/json", 400, "malformed", "document is empty"),
        (b"[]", "application/json", 400, "malformed", "must be an object"),
        (b'{"instances": [[1]]}', "application/json", 422, "invalid_input", "must be 2, is 1"),
        (b'{"instances": [["a", 1]]}', "application/json", 422, "invalid_input", "a number"),
        (b"\xc1", CONTENT_TYPE, 400, "malformed_frame", "frame"),
        (b"not msgpack at all, really", CONTENT_TYPE, 400, "malformed_frame", "not a frame"),
        (b"x", "image/png", 415, "unsupported_media_type", "expected application/x-msgpack or"),
        (b"x" * 101, CONTENT_TYPE, 413, "too_large", "101 bytes or more, the limit is 100"),
    ],
)
def test_what_cannot_succeed_is_refused(
    body: bytes, content_type: str, status: int, code: str, words: str
) -> None:
    """Each bad body has its status, its code and a message that says what was expected."""
    endpoint = endpoint_of(FakeEngine(), limits=EndpointLimits(max_request_bytes=100))
    response = post(endpoint, body, content_type)
    assert (response.status, document(response)["code"]) == (status, code)
    assert words in document(response)["error"]


def test_compressed_body_is_refused() -> None:
    """A Content-Encoding is refused by name instead of being read as garbage."""
    response = post(endpoint_of(FakeEngine()), b"x", **{"content-encoding": "gzip"})
    assert response.status == 415
    assert "'gzip': send the body as it is" in document(response)["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/v1/models/other:predict", 404, "Latest(other); this endpoint serves toy"),
        ("POST", "/v1/models/toy/versions/7:predict", 404, "has version 1, not 7"),
        ("POST", "/v1/models/toy/labels/canary:predict", 404, "no label 'canary'"),
        ("POST", "/nowhere", 404, "no path /nowhere; there are POST /v1/models"),
        ("POST", "/v1/models/toy:explode", 404, "no path"),
        ("GET", "/v1/models/toy:predict", 405, "expected POST"),
        ("DELETE", "/v1/models/toy", 405, "expected GET or HEAD"),
        ("GET", "/", 404, "no path /"),
    ],
)
def test_unknown_paths_and_methods(method: str, path: str, status: int, words: str) -> None:
    """What is not there is 404, what has another method 405, with a message that helps."""
    endpoint = endpoint_of(FakeEngine())
    headers = {"content-type": "application/json"}
    request = Request(method=method, path=path, headers=headers, body=b'{"instances": [[1, 2]]}')
    response = endpoint.handle(request)
    assert response.status == status
    assert words in document(response)["error"]
    assert ("Allow" in dict(response.headers)) == (status == 405)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/toy:predict",
        "/V1/Models/toy:PREDICT",
        "/v1/models/t%6Fy:predict?x=1",
        "/v1/models/toy/versions/1:predict",
        "/v1/models/toy/versions/001:predict",
    ],
)
def test_paths_as_tensorflow_serving_has_them(path: str) -> None:
    """The fixed words ignore case, names are percent-decoded, versions are numbers."""
    assert post(endpoint_of(FakeEngine()), b'{"instances": [[1, 2]]}', path=path).status == 200


@given(
    st.text(max_size=60), st.sampled_from(["GET", "POST", "HEAD", "PUT"]), st.binary(max_size=64)
)
def test_handle_never_raises(path: str, method: str, body: bytes) -> None:
    """Any path, method and body get an answer with a status."""
    endpoint = endpoint_of(FakeEngine())
    for prefix in ("", "/v1/models/", "/v1/models/toy"):
        request = Request(
            method=method, path=prefix + path, headers={"content-type": CONTENT_TYPE}, body=body
        )
        assert 200 <= endpoint.handle(request).status < 500


def test_status_metadata_and_health() -> None:
    """The GET paths: live, ready, TensorFlow Serving's status, and its metadata with our tier."""
    engine = FakeEngine()
    host = ModelHost(lambda: engine)
    endpoint = Endpoint(host)
    assert document(get(endpoint, "/v2/health/live")) == {"live": True}
    host.engine(10)
    assert document(get(endpoint, "/v2/health/ready")) == {"ready": True}
    (status,) = document(get(endpoint, "/v1/models/toy"))["model_version_status"]
    assert (status["version"], status["state"]) == ("1", "AVAILABLE")
    found = document(get(endpoint, "/v1/models/toy/metadata"))
    assert set(found["metadata"]["signature_def"]["signature_def"]) == {
        "predict",
        "serving_default",
    }
    assert found["maas"]["tier"] == "executable"
    head = get(endpoint, "/v2/health/ready", "HEAD")
    assert (head.status, head.body) == (200, [])
    assert dict(head.headers)["Content-Length"] != "0"


def test_load_error_reaches_every_caller() -> None:
    """While a model that failed to load is there, every path that needs it tells its error."""

    def load() -> FakeEngine:
        raise ModelError("weights of another model")

    endpoint = Endpoint(ModelHost(load))
    responses = [post(endpoint, b'{"instances": [[1, 2]]}') for _ in range(3)]
    responses += [get(endpoint, path) for path in ("/v1/models/a/metadata", "/v2/health/ready")]
    for response in responses:
        assert response.status == 500
        assert document(response) == {"error": "weights of another model", "code": "model_failed"}
    (status,) = document(get(endpoint, "/v1/models/toy"))["model_version_status"]
    assert status["state"] == "END"
    assert status["status"]["error_message"] == "weights of another model"


def test_not_ready_says_when_to_come_back() -> None:
    """Loading beyond the bound is 503 with Retry-After, and the status says LOADING."""
    go = threading.Event()

    def load() -> FakeEngine:
        go.wait(30)
        return FakeEngine()

    host = ModelHost(load)
    endpoint = Endpoint(host, EndpointLimits(ready_wait_s=0.01))
    response = post(endpoint, b'{"instances": [[1, 2]]}')
    assert (response.status, dict(response.headers)["Retry-After"]) == (503, "1")
    assert get(endpoint, "/v2/health/ready").status == 503
    (status,) = document(get(endpoint, "/v1/models/toy"))["model_version_status"]
    assert status["state"] == "LOADING"
    go.set()
    host.engine(30)
    assert post(endpoint, b'{"instances": [[1, 2]]}').status == 200


def test_retry_after_is_whole_seconds() -> None:
    """Retry-After is rounded up: RFC 9110 has no fractions."""
    response = endpoint_of(FakeEngine()).refuse(OverloadedError("busy", retry_after_s=0.2))
    assert (response.status, dict(response.headers)["Retry-After"]) == (429, "1")


def test_only_program_is_the_default() -> None:
    """A model's only program answers calls that name none, whatever it is called."""
    engine = FakeEngine(embed=program())
    assert isinstance(post_frame(endpoint_of(engine), Call("a", {"x": rows(1)}))[0], Result)
    assert engine.runs == [("embed", 1)]


def test_model_failure_in_json() -> None:
    """In JSON, where a request is one call, its failure is the response's status."""
    engine = FakeEngine()
    engine.error = ModelError("the model said no")
    response = post(endpoint_of(engine), b'{"inputs": [[1, 2]]}')
    assert response.status == 500
    assert document(response) == {"error": "the model said no", "code": "model_failed"}


def test_several_models() -> None:
    """Models of different names are told apart by the path; without names they are refused."""
    engines = {"a": FakeEngine(), "b": FakeEngine()}
    endpoint = Endpoint([ModelHost(lambda e=e: e, name=n) for n, e in engines.items()])
    assert post(endpoint, b'{"instances": [[1, 2]]}', path="/v1/models/b:predict").status == 200
    assert (len(engines["a"].runs), len(engines["b"].runs)) == (0, 1)
    with pytest.raises(ConfigError, match="several of different names"):
        Endpoint([ModelHost(FakeEngine), ModelHost(FakeEngine)])


def test_no_default_program() -> None:
    """A call without a program, to a model of several and no ``predict``, hears the names."""
    engine = FakeEngine(embed=program(), explain=program())
    (answer,) = post_frame(endpoint_of(engine), Call("a", {"x": rows(1)}))
    assert isinstance(answer, Failure)
    assert answer.message == "which program? Model toy has embed, explain"
    assert "serving_default" not in str(
        document(get(endpoint_of(engine), "/v1/models/toy/metadata"))
    )


def test_chunks_are_bytes_and_small_buffers_are_joined() -> None:
    """Servers that take only bytes get few of them, and all of the body."""
    parts: list[bytes | memoryview] = [b"a", memoryview(b"b"), b"c" * 100_000, b"", b"d"]
    response = buffers_response("x/y", parts)
    chunks = list(response.chunks())
    assert all(type(chunk) is bytes for chunk in chunks)
    assert [len(chunk) for chunk in chunks] == [2, 100_000, 1]
    assert b"".join(chunks) == b"".join(parts)


def test_routes_know_versions_and_labels() -> None:
    """A route carries what its path names, decoded."""
    route = find_route("POST", "/v1/models/a%2Fb/labels/blue%20one:predict")
    assert (route.action, route.model, route.label) == ("predict", "a/b", "blue one")
    assert find_route("HEAD", "/v1/models/a/versions/12/metadata").version == "12"


@pytest.mark.parametrize("limits", [{"max_request_bytes": 0}, {"ready_wait_s": -1.0}])
def test_limits_are_checked(limits: dict[str, Any]) -> None:
    """Limits that no request could meet are refused where they are written."""
    with pytest.raises(ConfigError, match="expected max_request_bytes ≥ 1"):
        EndpointLimits(**limits)
