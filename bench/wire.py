"""Figures of the wire: a large tensor against one memcpy, many small calls against JSON.

    python bench/wire.py [--save] [--runs N]

``tensor_vs_memcpy``: a float32 tensor of 64 MiB is encoded, the buffers are written where a socket
would write them (one copy into memory that is already mapped), and decoded from there to an array.
Divided by one memcpy of the same tensor. That the receiver reads the elements is not counted on
either side.

``calls_vs_json``: microseconds per call, JSON ÷ frame, over loopback on one connection that is
kept. JSON: 1,000 requests of one call each, 16 float32 in TensorFlow Serving's row format. Frame:
the same 1,000 calls in one request. One server answers both and does the same for each call (the
row, doubled), so what differs is the wire: encoding, decoding and HTTP of both sides are counted.
Client and server are the standard library's, the server in a process of its own. Both are lighter
than a web framework or a full-featured client would be, which flatters the 1,000 requests.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import multiprocessing
import socket
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import msgpack
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import harness

from maas_sdk.tensors import Array, Signature, TensorSpec
from maas_sdk.wire import frames, tfserving

TENSOR_BYTES = 64 * 2**20
CALLS = 1000
SIGNATURE = Signature(
    inputs={"x": TensorSpec(dtype="float32", shape=(None, 16))},
    outputs={"y": TensorSpec(dtype="float32", shape=(None, 16))},
)


def tensor_contestants() -> dict[str, Callable[[], float]]:
    tensor = np.random.default_rng(0).standard_normal(TENSOR_BYTES // 4, dtype=np.float32)
    source = tensor.view(np.uint8)
    copy_room = np.ones(TENSOR_BYTES, np.uint8)  # ones: pages are mapped before the clock runs
    frame_room = np.ones(TENSOR_BYTES + 4096, np.uint8)

    def there_and_back() -> Array:
        end = 0
        for buffer in frames.encode_calls([frames.Call("0", {"x": tensor})]):
            start, end = end, end + len(buffer)
            np.copyto(frame_room[start:end], np.frombuffer(buffer, np.uint8))
        (call,) = frames.decode_calls(frame_room[:end].data)
        assert isinstance(call, frames.Call)
        return call.inputs["x"]

    assert np.array_equal(there_and_back(), tensor)
    return {
        "memcpy 64 MiB": lambda: harness.timed(lambda: np.copyto(copy_room, source)),
        "encode + decode 64 MiB": lambda: harness.timed(there_and_back),
    }


# ---- many small calls: a small server in a process of its own, answering both dialects ----


class _Handler(http.server.BaseHTTPRequestHandler):
    """Doubles every row it is sent, in the dialect that it came in."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one packet

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers["content-type"] == frames.CONTENT_TYPE:
            answer = frames.encode_results(
                [
                    frames.Result(call.id, {"y": call.inputs["x"] * 2})
                    for call in frames.decode_calls(body)
                    if isinstance(call, frames.Call)
                ]
            )
        else:
            request = tfserving.decode_predict(body, lambda _: SIGNATURE)
            outputs = {"y": request.inputs["x"] * 2}
            answer = [tfserving.encode_predict(outputs, row_format=request.row_format)]
        self.send_response(200)
        self.send_header("content-type", self.headers["content-type"])
        self.send_header("content-length", str(sum(map(len, answer))))
        self.end_headers()
        for buffer in answer:
            self.wfile.write(buffer)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass


def _serve(port: Connection) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    port.send(server.server_port)
    server.serve_forever()


@contextlib.contextmanager
def small_server() -> Iterator[int]:
    """The port of a running server, which ends with the block."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs,), daemon=True
    )
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def call_contestants(port: int) -> dict[str, Callable[[], float]]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    rows = np.random.default_rng(0).standard_normal((CALLS, 1, 16), dtype=np.float32)

    def post(body: bytes, content_type: str) -> bytes:
        connection.request("POST", "/v1/models/m:predict", body, {"content-type": content_type})
        return connection.getresponse().read()

    def by_json() -> list[Array]:
        answers = []
        for row in rows:
            body = json.dumps({"instances": row.tolist()}).encode()
            answer = json.loads(post(body, tfserving.CONTENT_TYPE))
            answers.append(np.array(answer["predictions"], np.float32))
        return answers

    def by_frame() -> list[Array]:
        calls = [frames.Call(str(index), {"x": row}) for index, row in enumerate(rows)]
        body = b"".join(frames.encode_calls(calls))
        results = frames.decode_results(post(body, frames.CONTENT_TYPE))
        return [result.outputs["y"] for result in results if isinstance(result, frames.Result)]

    assert np.array_equal(by_json(), rows * 2)
    assert np.array_equal(by_frame(), rows * 2)
    return {
        "JSON, 1,000 requests": lambda: harness.timed(by_json),
        "one frame": lambda: harness.timed(by_frame),
    }


def main() -> None:
    options = harness.arguments(__doc__)
    harness.require_bytecode([frames, tfserving, np, msgpack])
    tensor = harness.interleave(tensor_contestants(), runs=options.runs)
    with small_server() as port:
        calls = harness.interleave(call_contestants(port), runs=options.runs)
    memcpy, wire = tensor.values()
    by_json, by_frame = calls.values()
    harness.finish(
        "wire",
        {
            "tensor_vs_memcpy": harness.median_ratio(wire, memcpy),
            "calls_vs_json": harness.median_ratio(by_json, by_frame),
        },
        [
            *(sample.row(unit="µs", scale=1e6) for sample in (memcpy, wire)),
            *(
                {**sample.row(unit="µs", scale=1e6 / CALLS), "what": f"{sample.name}, per call"}
                for sample in (by_json, by_frame)
            ),
        ],
        save=options.save,
        targets={"tensor_vs_memcpy": "≤ 1.3", "calls_vs_json": "≥ 20"},
        notes=__doc__.partition("[--runs N]")[2],
        packages=("numpy", "msgpack"),
    )


if __name__ == "__main__":
    main()
