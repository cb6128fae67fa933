"""The session without any I/O: steps out, replies in."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from maas_sdk.client.chunking import CallPart
from maas_sdk.client.clock import FakeClock
from maas_sdk.client.options import ClientOptions, RouteOptions
from maas_sdk.client.replies import Reply
from maas_sdk.client.retries import RetryPolicy
from maas_sdk.client.session import CallOptions, Send, Session, Steps, Wait, plain
from maas_sdk.errors import (
    ConfigError,
    DeadlineError,
    InputError,
    MaasError,
    ModelError,
    NotReadyError,
    OverloadedError,
    TransportError,
)
from maas_sdk.wire.frames import (
    CONTENT_TYPE,
    Call,
    Failure,
    Result,
    decode_calls,
    encode_results,
)

URL = "https://endpoint/prefix"
X = np.arange(6, dtype=np.float32).reshape(2, 3)
PLAIN = CallOptions()
METADATA = {
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_default": {"inputs": {"x": {"tensor_shape": {"dim": [{"size": "-1"}]}}}}
            }
        }
    }
}
Step = Send | Wait
Answer = Callable[[Send], Reply | MaasError]


def make(clock: FakeClock | None = None, **options: Any) -> tuple[Session, FakeClock]:
    clock = clock or FakeClock()
    session = Session(
        ClientOptions(**({"url": URL, "model": "digits"} | options)),
        clock=clock,
        rng=random.Random(1),
    )
    return session, clock


def run(steps: Steps[Any], clock: FakeClock, *answers: Answer) -> tuple[Any, list[Step]]:
    """Perform the steps with canned answers; what it returned, and the steps it took."""
    taken: list[Step] = []
    queue = list(answers)
    try:
        step = next(steps)
        while True:
            taken.append(step)
            if isinstance(step, Wait):
                clock.sleep(step.seconds)
                step = steps.send(None)
            else:
                step = steps.send(queue.pop(0)(step))
    except StopIteration as done:
        assert not queue, "answers left over"
        return done.value, taken


def calls_of(step: Step) -> list[Call]:
    assert isinstance(step, Send)
    calls = decode_calls(b"".join(step.body))
    assert all(isinstance(call, Call) for call in calls)
    return calls  # type: ignore[return-value]


def ok(send: Send) -> Reply:
    """What a model that doubles its input would answer."""
    return results(*(Result(call.id, {"y": call.inputs["x"] * 2}) for call in calls_of(send)))


def results(*found: Result | Failure) -> Reply:
    body = b"".join(encode_results(found))
    return Reply(url=URL, status=200, headers={"content-type": CONTENT_TYPE}, body=body)


def status(code: int, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda send: Reply(url=send.url, status=code, headers=named, body=b"")


def document(value: object) -> Answer:
    body = json.dumps(value).encode()
    return lambda send: Reply(
        url=send.url, status=200, headers={"content-type": "application/json"}, body=body
    )


def gone(send: Send) -> MaasError:
    return TransportError("gone")


def part(start: int, x: np.ndarray[Any, Any] = X) -> CallPart:
    return CallPart(start=start, stop=start + 1, inputs={"x": x}, rows=len(x), stacked=False)


def test_a_named_call_is_one_request() -> None:
    """One POST to the model's path, with everything that the caller said in the frame."""
    session, clock = make(token="secret", headers={"X-Team": "a"})
    call = CallOptions(program="embed", version=3, timeout_s=2.5, priority=7)
    answer, steps = run(session.predict({"x": X}, call), clock, ok)
    np.testing.assert_array_equal(answer["y"], X * 2)
    (send,) = steps
    assert isinstance(send, Send)
    assert send.method == "POST"
    assert send.url == "https://endpoint/prefix/v1/models/digits/versions/3:predict"
    assert send.headers["Content-Type"] == CONTENT_TYPE
    assert send.headers["Content-Length"] == str(len(b"".join(send.body)))
    assert send.headers["Authorization"] == "Bearer secret"
    assert send.headers["X-Team"] == "a"
    (found,) = calls_of(send)
    assert (found.program, found.timeout_s, found.priority) == ("embed", 2.5, 7)


def test_a_bare_array_asks_for_the_inputs_name_once() -> None:
    """The metadata is asked for before the first bare array and remembered per program."""
    session, clock = make()
    _, steps = run(session.predict(X, PLAIN), clock, document(METADATA), ok)
    assert [step.url for step in steps] == [  # type: ignore[union-attr]
        f"{URL}/v1/models/digits/metadata",
        f"{URL}/v1/models/digits:predict",
    ]
    _, steps = run(session.predict(X, PLAIN), clock, ok)
    assert len(steps) == 1
    _, steps = run(session.predict(X, CallOptions(label="canary")), clock, document(METADATA), ok)
    assert len(steps) == 2


def test_a_large_call_is_split_and_joined() -> None:
    """Over the byte limit: several requests, each below it, one answer."""
    session, clock = make(max_request_bytes=5000)
    x = np.arange(4000, dtype=np.float32).reshape(100, 40)
    _, steps = run(session.signature(PLAIN), clock, document(METADATA))
    answer, steps = run(session.predict({"x": x}, PLAIN), clock, *[ok] * 4)
    np.testing.assert_array_equal(answer["y"], x * 2)
    for step in steps:
        assert isinstance(step, Send)
        assert len(b"".join(step.body)) <= 5000


def test_a_split_call_stops_at_its_first_error() -> None:
    """No further piece is sent, and the message says which rows failed."""
    session, clock = make(max_rows_per_call=2)
    steps = session.predict({"x": np.zeros((6, 3), np.float32)}, PLAIN)
    bad: Answer = lambda send: results(Failure("0", "model_failed", "no"))  # noqa: E731
    with pytest.raises(ModelError, match=r"^item 0, rows 2–3: no$") as caught:
        run(steps, clock, document(METADATA), ok, bad)
    assert caught.value.evidence["first_item"] == 0


def test_retryable_replies_are_tried_again_after_a_wait() -> None:
    """503, then no answer at all, then the answer."""
    session, clock = make()
    answer, steps = run(session.predict({"x": X}, PLAIN), clock, status(503), gone, ok)
    assert "y" in answer
    assert [type(step) for step in steps] == [Send, Wait, Send, Wait, Send]


def test_retry_after_is_waited_for() -> None:
    """At least as long as the server asked for."""
    session, clock = make()
    _, steps = run(session.predict({"x": X}, PLAIN), clock, status(429, retry_after="4"), ok)
    assert isinstance(steps[1], Wait)
    assert 4.0 <= steps[1].seconds <= 4.1


@pytest.mark.parametrize("code", [400, 401, 404, 413, 415, 422, 500, 504, 302])
def test_other_replies_are_not(code: int) -> None:
    """They would be the same again."""
    session, clock = make()
    with pytest.raises(MaasError) as caught:
        run(session.predict({"x": X}, PLAIN), clock, status(code))
    assert "gave_up" not in caught.value.evidence


def test_giving_up_says_why() -> None:
    """After max_attempts the last error is raised, with what was tried."""
    session, clock = make(retry=RetryPolicy(max_attempts=3))
    with pytest.raises(NotReadyError) as caught:
        run(session.predict({"x": X}, PLAIN), clock, *[status(503)] * 3)
    assert caught.value.evidence["attempts"] == 3
    assert caught.value.__notes__ == ["Not tried again: 3 of 3 attempts were made."]


def test_the_deadline_covers_all_attempts_and_travels() -> None:
    """Each attempt tells the server what is left, and no wait goes beyond it."""
    session, clock = make(timeout_s=10.0)
    with pytest.raises(OverloadedError) as caught:
        run(
            session.predict({"x": X}, PLAIN),
            clock,
            status(429, retry_after="6"),
            status(429, retry_after="6"),
        )
    assert "after the deadline" in str(caught.value.evidence["gave_up"])
    session, clock = make(timeout_s=10.0)
    _, steps = run(session.predict({"x": X}, PLAIN), clock, status(429, retry_after="6"), ok)
    left = [calls_of(step)[0].timeout_s for step in steps if isinstance(step, Send)]
    assert left[0] == 10.0
    assert left[1] == pytest.approx(10.0 - clock.slept[0], abs=0.002)


def test_time_that_passed_while_waiting_is_a_deadline() -> None:
    """A sleep that overshoots does not become a request that nobody waits for."""
    session, clock = make(timeout_s=10.0)
    steps = session.exchange([part(0)], PLAIN)
    next(steps)
    wait = steps.send(TransportError("gone"))
    assert isinstance(wait, Wait)
    clock.now += 11
    with pytest.raises(StopIteration) as done:
        steps.send(None)
    (outcome,) = done.value.value
    assert isinstance(outcome, TransportError)


def test_a_call_that_comes_too_late_is_not_sent() -> None:
    """Time may run out while the metadata is asked for, or between the pieces of a split call."""
    session, clock = make(max_rows_per_call=2)
    run(session.signature(PLAIN), clock, document(METADATA))

    def slowly(send: Send) -> Reply:
        clock.now += 40
        return ok(send)

    with pytest.raises(DeadlineError, match=r"^item 0, rows 2–3: .*time was up before"):
        run(session.predict({"x": np.zeros((6, 3), np.float32)}, PLAIN), clock, slowly)


def test_the_budget_is_shared_by_the_clients_calls() -> None:
    """When everything fails, later calls are no longer retried at all."""
    session, clock = make(retry=RetryPolicy(budget_tokens=2.0, budget_share=0.0))
    with pytest.raises(NotReadyError) as caught:
        run(session.predict({"x": X}, PLAIN), clock, *[status(503)] * 3)
    assert caught.value.evidence["gave_up"] == "the client's retry budget is spent"
    with pytest.raises(NotReadyError) as caught:
        run(session.predict({"x": X}, PLAIN), clock, status(503))
    assert caught.value.evidence["attempts"] == 1


def test_only_the_calls_that_failed_are_sent_again() -> None:
    """Within a frame: results are kept, final failures are kept, shed calls are repeated."""
    session, clock = make()

    def mixed(send: Send) -> Reply:
        assert [call.id for call in calls_of(send)] == ["0", "1", "2"]
        return results(
            Result("0", {"y": np.zeros(1)}),
            Failure("1", "overloaded", "later", 2.0),
            Failure("2", "invalid_input", "input 'x': expected dtype float32"),
        )

    outcomes, steps = run(session.exchange([part(5), part(6), part(7)], PLAIN), clock, mixed, ok)
    assert [call.id for call in calls_of(steps[2])] == ["1"]
    assert isinstance(steps[1], Wait)
    assert steps[1].seconds >= 2.0
    np.testing.assert_array_equal(outcomes[1]["y"], X * 2)
    assert type(outcomes[2]) is InputError
    assert outcomes[2].message == "item 7: input 'x': expected dtype float32"
    assert outcomes[2].evidence["first_item"] == outcomes[2].evidence["last_item"] == 7


def test_a_failed_request_fails_all_its_calls_by_name() -> None:
    """Each error says which rows it is about and keeps its class and its note."""
    session, clock = make(retry=RetryPolicy(max_attempts=1))
    rows = CallPart(start=256, stop=512, inputs={"x": X}, rows=256, stacked=True)
    (first, second), _ = run(session.exchange([rows, part(512)], PLAIN), clock, status(503))
    assert first.message.startswith("rows 256–511: https://endpoint/prefix")
    assert second.message.startswith("item 512: ")
    assert type(first) is NotReadyError
    assert first.__notes__ == ["Not tried again: 1 of 1 attempts were made."]


def test_metadata_is_retried_and_routed() -> None:
    """A question about the model has the same patience as a call."""
    session, clock = make()
    answer, steps = run(
        session.metadata(CallOptions(label="a/b")), clock, status(503), document(METADATA)
    )
    assert answer == METADATA
    assert steps[0].url == f"{URL}/v1/models/digits/labels/a%2Fb/metadata"  # type: ignore[union-attr]
    with pytest.raises(MaasError, match="HTTP 404"):
        run(session.metadata(PLAIN), clock, status(404))
    answer, steps = run(session.metadata(PLAIN), clock, gone, document(METADATA))
    assert [type(step) for step in steps] == [Send, Wait, Send]


@pytest.mark.parametrize(
    ("answer", "expected"), [(status(200), True), (status(503), False), (gone, False)]
)
def test_probes_answer_yes_or_no(answer: Answer, expected: bool) -> None:
    """No retry, no exception; no model is needed."""
    session, clock = make(model=None)
    assert run(session.probe("/v2/health/ready"), clock, answer)[0] is expected


def test_one_output_is_an_array_several_are_a_dict() -> None:
    """Callers of simple models need not unpack."""
    assert plain({"y": X}) is X
    assert plain({"y": X, "z": X}).keys() == {"y", "z"}  # type: ignore[union-attr]


# ---- options ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "endpoint:80"}, "url: expected http://host"),
        ({"url": "ftp://endpoint"}, "url: expected http://host"),
        ({"url": "http://"}, "url: expected"),
        ({"url": "http://h:99999"}, "url: expected"),
        ({"url": "http://h/?a=b"}, "without a query"),
        ({"url": "http://[::1"}, "url: expected"),
        ({"timeout_s": 0}, "timeout_s: expected seconds above 0"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"connect_timeout_s": -1}, "connect_timeout_s"),
        ({"max_request_bytes": 0}, "max_request_bytes: expected at least 1"),
        ({"token": "a", "headers": {"authorization": "b"}}, "contradict"),
        ({"token": "a\nb"}, "header 'Authorization': expected ASCII text on one line"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    """Before anything is sent, with the option's name."""
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_secrets_are_not_shown() -> None:
    """Neither in repr nor in the error about a header."""
    assert "secret" not in repr(ClientOptions(url=URL, token="secret", headers={"X": "secret"}))
    for options in ({"url": URL, "token": "secret\r\n"}, {"url": "https://user:secret@endpoint"}):
        with pytest.raises(ConfigError) as caught:
            ClientOptions(**options)  # type: ignore[arg-type]
        assert "secret" not in str(caught.value)


def test_routes() -> None:
    """Versions, labels, and names that need quoting."""
    assert RouteOptions(model="a b").path() == "/v1/models/a%20b"
    assert RouteOptions(model="m", version=3).path() == "/v1/models/m/versions/3"
    assert RouteOptions(model="m", label="stable").path() == "/v1/models/m/labels/stable"
    with pytest.raises(ConfigError, match="version=3 and label='stable' contradict"):
        RouteOptions(model="m", version=3, label="stable")


def test_a_call_needs_a_model_and_time() -> None:
    """Said before anything is sent."""
    session, clock = make(model=None)
    with pytest.raises(ConfigError, match="which model"):
        run(session.predict({"x": X}, PLAIN), clock)
    session, clock = make()
    with pytest.raises(ConfigError, match="timeout_s"):
        run(session.predict({"x": X}, CallOptions(timeout_s=0)), clock)
    steps = session.predict(X, PLAIN)
    asked = next(steps)
    assert isinstance(asked, Send)
    clock.now += 31
    with pytest.raises(DeadlineError, match="time was up before the request was sent"):
        run(_resumed(steps, document(METADATA)(asked)), clock)


def _resumed(steps: Steps[Any], reply: Reply | MaasError) -> Steps[Any]:
    yield steps.send(reply)
