"""Layouts, batches and ZeRO over two real processes: what one process cannot get wrong."""

from __future__ import annotations

from pathlib import Path

from maas_sdk.distributed.launcher import launch

PROGRAM = f"""
import sys
sys.path.append({str(Path(__file__).parent.parent / "examples")!r})
"""
PROGRAM += """
import jax, jax.numpy as jnp, numpy as np, optax
from maas_sdk.distributed.hosts import join
from maas_sdk.sharding.layout import host_part, lay_out, place, place_batch, state_shardings
from maas_sdk.sharding.mesh import describe_mesh, make_mesh
from zero_parameter_server import make_zero

rows = np.arange(24, dtype=np.float32).reshape(8, 3) / 24
weights = {"w": np.arange(12, dtype=np.float32).reshape(3, 4) / 12}

def loss_fn(params, batch):
    return jnp.mean(jnp.square(batch["x"] @ params["w"]))

with join() as here:
    # Devices of one process lie along tensor, so each process reads rows of its own; with all four
    # along tensor, both read all of them.
    for axes, part in [({"data": 2, "tensor": 2}, (here.index, 2)), ({"tensor": 4}, (0, 1))]:
        mesh = make_mesh(axes)
        index, count = host_part(mesh)
        assert (index, count) == part, (axes, index, count)
        own = np.split(rows, count)[index]
        batch = place_batch(mesh, {"x": own})["x"]
        assert batch.shape == (8, 3), batch.shape
        for shard in batch.addressable_shards:
            np.testing.assert_array_equal(shard.data, rows[shard.index])
        layout = lay_out(weights, mesh, strategy="tensor", rules=[("w", (None, "tensor"))])
        for given in (weights, jax.tree.map(jnp.asarray, weights)):
            placed = place(given, layout.shardings)["w"]
            assert placed.shape == (3, 4)
            for shard in placed.addressable_shards:
                np.testing.assert_array_equal(shard.data, weights["w"][shard.index])
        again = place({"w": placed}, layout.shardings)["w"]  # already over both processes
        assert again.sharding == placed.sharding
        # jax puts all processes of one machine into one slice; here each is to be one.
        assert {axis.network for axis in describe_mesh(mesh)} == {"ici"}
        described = describe_mesh(mesh, slice_of=lambda device: device.process_index)
        print(axes, *described, float(jax.jit(loss_fn)({"w": placed}, {"x": batch})))

    mesh = make_mesh({"data": 4}, dcn={"data": 2}, slice_of=lambda device: device.process_index)
    zero = make_zero(loss_fn, optax.adam(0.1), weights, mesh)
    state, batch = zero.init(weights), place_batch(mesh, {"x": np.split(rows, 2)[here.index]})
    for _ in range(3):
        state, loss = zero.step(state, batch)
    print("zero", repr(float(loss)), flush=True)

# The same on one device, with nothing of this package.
params, optimizer = weights, optax.adam(0.1)
opt_state = optimizer.init(params)
with jax.default_device(jax.local_devices()[0]):
    for _ in range(3):
        loss, gradients = jax.value_and_grad(loss_fn)(params, {"x": rows})
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
print("plain", repr(float(loss)))
"""


def test_every_process_has_its_part(tmp_path: Path) -> None:
    """Rows and weights lie where the layout says, ZeRO over processes is the plain step."""
    script = tmp_path / "processes.py"
    script.write_text(PROGRAM)
    done = launch(script, processes=2, devices_per_process=2, timeout_s=240)
    for output in done.outputs:
        mixed, tensor, zero, plain = [
            line for line in output.splitlines() if line[:1] in ("{", "z", "p")
        ]
        assert "data 2 over dcn (2 slices × 1) tensor 2 over ici" in mixed
        assert "tensor 4 over dcn (2 slices × 2)" in tensor
        assert mixed.split()[-1] == tensor.split()[-1]
        assert abs(float(zero.split()[1]) - float(plain.split()[1])) < 1e-5
