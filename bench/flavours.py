"""functions-framework's two flavours under the same endpoint core: sync (gthread) and ASGI.

Cold start (process start to first correct answer), and p99 latency with 1 and with 32 clients that
each ask again as soon as they are answered. The clients are threads of one process on the same
machine, so with 32 of them their own waiting is in the figure, for both flavours alike.

    python bench/flavours.py [--runs N] [--save]

Needs maas-sdk[demo] and what bench/overhead.py built.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import harness
import numpy as np
import overhead
from cold_start import Contestant

from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.wire.frames import CONTENT_TYPE, Call, encode_calls

HERE = Path(__file__).parent
PATH = "/v1/models/digits:predict"
REQUESTS = 960  # in a round, over all clients


def p99_s(process: FunctionProcess, frame: bytes, clients: int) -> float:
    """p99 of the latencies that ``clients`` see, each on a connection of its own."""
    callers = [overhead.Caller(process, PATH, frame, CONTENT_TYPE) for _ in range(clients)]
    taken: list[float] = []

    def work(caller: overhead.Caller) -> None:
        taken.extend([caller.ask() for _ in range(REQUESTS // clients)])

    threads = [threading.Thread(target=work, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(taken) != REQUESTS:
        raise SystemExit(f"{REQUESTS - len(taken)} requests were not answered")
    return float(np.percentile(taken, 99))


def main() -> None:
    arguments = harness.arguments(__doc__)
    if not (overhead.FOLDER / "done").exists():
        subprocess.run([sys.executable, overhead.__file__, "--prepare"], check=True)
    x = np.load(overhead.FOLDER / "x.npy")
    frame = b"".join(encode_calls([Call(id="0", inputs={"image": x})]))
    bundle = {"MAAS_BUNDLE": str(overhead.FOLDER / "model.maas")}
    flavours = {
        # Both run the checkout's maas_sdk, so that neither has an advantage by its folder.
        name: Contestant(
            folder=folder, path=PATH, body=frame, content_type=CONTENT_TYPE, environment=bundle
        )
        for name, folder in (
            ("sync", HERE.parent / "functions" / "predict"),
            ("asgi", HERE / "peers" / "asgi"),
        )
    }
    samples = harness.interleave(
        {f"{name} cold start": flavour.start for name, flavour in flavours.items()},
        runs=arguments.runs,
    )
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(FunctionProcess(flavour.folder, environment=bundle))
            for name, flavour in flavours.items()
        }
        for clients in (1, 32):
            samples |= harness.interleave(
                {
                    f"{name} p99, {clients} client{'s' * (clients > 1)}": (
                        lambda process=process, clients=clients: p99_s(process, frame, clients)
                    )
                    for name, process in processes.items()
                },
                runs=arguments.runs,
            )
    harness.finish(
        "flavours",
        {
            "asgi_vs_sync_cold_start": harness.median_ratio(
                samples["asgi cold start"], samples["sync cold start"]
            ),
            "asgi_vs_sync_p99_1": harness.median_ratio(
                samples["asgi p99, 1 client"], samples["sync p99, 1 client"]
            ),
            "asgi_vs_sync_p99_32": harness.median_ratio(
                samples["asgi p99, 32 clients"], samples["sync p99, 32 clients"]
            ),
        },
        [sample.row() for sample in samples.values()],
        save=arguments.save,
        notes="Why the function shell is the sync one: above 1, the ASGI flavour is slower.",
        packages=("functions-framework", "gunicorn", "uvicorn", "starlette", "jaxlib"),
    )


if __name__ == "__main__":
    main()
