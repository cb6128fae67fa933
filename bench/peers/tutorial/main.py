"""jit + Flax + Orbax, as a tutorial would write it: restore and compile at the first request.

(At module level, where tutorials like to put it, JAX would start its threads before the fork and
every request would hang.) The body is the input's raw bytes.
"""

import os

import functions_framework
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from networks import NETWORKS

_predict = None


def _load():
    global _predict
    network = NETWORKS[os.environ["BENCH_NETWORK"]]
    model = nnx.eval_shape(lambda: network.build())
    graph, state = nnx.split(model)
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(os.environ["BENCH_CHECKPOINT"], state)
    model = nnx.merge(graph, state)
    _predict = nnx.jit(lambda x: model(x))


@functions_framework.http
def predict(request):
    if _predict is None:
        _load()
    shape = (1, *NETWORKS[os.environ["BENCH_NETWORK"]].input_shape)
    x = np.frombuffer(request.get_data(), np.float32).reshape(shape)
    return np.asarray(jax.block_until_ready(_predict(x))).tobytes()
