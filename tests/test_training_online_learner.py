"""A digits model that learns on: a shifted stream, a poisoned batch, and what is published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.bundle import Bundle, open_bundle
from maas_sdk.demo.digits import load_split
from maas_sdk.errors import ConfigError, InputError, MaasError
from maas_sdk.export import default_targets, export
from maas_sdk.export.reweight import reweight
from maas_sdk.models.convnet import ConvNet
from maas_sdk.runtime import load
from maas_sdk.store.opening import LocalStore
from maas_sdk.training.checkpoints.named_state import raw
from maas_sdk.training.data import Examples
from maas_sdk.training.losses import cross_entropy
from maas_sdk.training.online.config import OnlineConfig, OnlineRecord
from maas_sdk.training.online.learner import OnlineLearner
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.run.trainer import TrainConfig, Trainer

DATA = load_split()
# What is held out, in two: a guard, and what the model is judged by in the end.
GUARD = DATA.test.take(np.arange(0, 180))
JUDGE = DATA.test.take(np.arange(180, len(DATA.test)))


def inverted(examples: Examples) -> Examples:
    """White ink on black paper: what every pixel says has changed."""
    return replace(examples, inputs=1 - examples.inputs)


def batch(number: int) -> Examples:
    rows = np.random.default_rng(number).choice(len(DATA.train), 64, replace=False)
    return DATA.train.take(rows)


def poisoned(examples: Examples, seed: int) -> Examples:
    labels = np.random.default_rng(seed).integers(0, 10, len(examples)).astype(np.int32)
    return replace(examples, labels=labels)


def state_of(model: nnx.Module) -> list[bytes]:
    return [np.asarray(raw(leaf)).tobytes() for leaf in jax.tree.leaves(nnx.state(model))]


@dataclass
class Story:
    """What happened to one learner over a stream."""

    store: LocalStore
    learner: OnlineLearner
    before: dict[str, dict[str, float]]
    calm: list[OnlineRecord]
    shifted: list[OnlineRecord]
    after: dict[str, dict[str, float]]
    poison: OnlineRecord
    # Weights before and after the poisoned batch.
    weights: tuple[list[bytes], list[bytes]]
    traces: int


def judged(learner: OnlineLearner) -> dict[str, dict[str, float]]:
    return {"old": learner.measure(JUDGE), "new": learner.measure(inverted(JUDGE))}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("online")
    model = Trainer(TrainConfig(epochs=3)).fit(ConvNet(rngs=nnx.Rngs(0)), DATA).model
    bundle = export(
        model,
        {"image": DATA.test.inputs[:4]},
        path=folder / "digits.maas",
        name="digits",
        buckets=(1, 8),
        targets=default_targets()[:1],
    )
    store = LocalStore(folder / "store")
    store.publish(bundle.path, "digits")
    traces: list[None] = []

    def counted(logits: jax.Array, labels: jax.Array) -> jax.Array:
        traces.append(None)
        return cross_entropy()(logits, labels)

    def publish(trained: nnx.Module) -> Bundle:
        return reweight(store.resolve("digits"), trained)

    config = OnlineConfig(loss=counted, drift_steps=24)
    learner = OnlineLearner(model, config, guard=GUARD, memory=DATA.train, publish=publish)
    before = judged(learner)
    calm = [learner.update(batch(n)) for n in range(3)]
    shifted = [learner.update(inverted(batch(n))) for n in range(10, 17)]
    after = judged(learner)
    weights = state_of(learner.model)
    poison = learner.update(poisoned(inverted(batch(20)), seed=0))
    return Story(
        store=store,
        learner=learner,
        before=before,
        calm=calm,
        shifted=shifted,
        after=after,
        poison=poison,
        weights=(weights, state_of(learner.model)),
        traces=len(traces),
    )


@pytest.mark.slow
def test_updates_follow_a_stream_that_has_shifted(story: Story) -> None:
    """Inverted digits: from a tenth right to nine in ten, and yesterday's digits are not lost."""
    assert story.before["old"]["accuracy"] > 0.9
    assert story.before["new"]["accuracy"] < 0.2
    assert story.after["new"]["accuracy"] > 0.8
    assert story.after["old"]["accuracy"] > story.before["old"]["accuracy"] - 0.03
    assert story.shifted[0].before["accuracy"] < 0.2
    assert story.shifted[-1].before["accuracy"] > 0.75


@pytest.mark.slow
def test_the_shift_is_noticed(story: Story) -> None:
    """Not before it is there; within three batches; and it is answered with more steps."""
    assert not any(record.drifted for record in story.calm)
    alarms = [index for index, record in enumerate(story.shifted) if record.drifted]
    assert alarms[0] <= 2
    assert story.shifted[alarms[0]].steps == 24
    assert story.calm[0].steps == 8


@pytest.mark.slow
def test_a_poisoned_batch_is_rolled_back(story: Story) -> None:
    """Random labels: the guard falls, the weights are bit for bit what they were."""
    assert not story.poison.kept
    assert story.poison.published is None
    assert story.poison.guard_after < story.poison.guard_before - 0.03
    assert story.weights[0] == story.weights[1]


@pytest.mark.slow
def test_the_step_is_compiled_once(story: Story) -> None:
    """Once for training, once for measuring, however many updates and sizes there were."""
    assert story.traces == 2


@pytest.mark.slow
def test_what_is_published_is_served(story: Story) -> None:
    """A version per update that was kept, the last one answering as the model in this process."""
    published = [r.published for r in (*story.calm, *story.shifted) if r.kept]
    assert len(published) >= 5
    assert story.store.versions("digits") == [str(n) for n in range(1, len(published) + 2)]
    assert [p.path.name for p in published] == story.store.versions("digits")[1:]
    trained: Any = story.learner.model
    with load(story.store.resolve("digits")) as engine:
        assert engine.report.tier == "executable"
        answers = engine.predict(JUDGE.inputs)
        engine.prime()
    np.testing.assert_allclose(answers, trained(JUDGE.inputs), rtol=1e-4, atol=1e-4)
    # The programs and executables are those of the first version: nothing was compiled.
    first, last = (open_bundle(story.store.resolve("digits", v)).manifest for v in (1, None))
    changed = {name for name, entry in last.files.items() if first.files[name] != entry}
    assert changed == {"weights.safetensors", "golden/predict.safetensors"}
    print(f"published in {sorted(round(r.publish_s, 3) for r in story.calm if r.kept)} s")


class Line(nnx.Module):
    """A model of two numbers, with statistics and dropout beside them."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.norm = nnx.BatchNorm(2, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.dropout(self.norm(x)))


def cloud(seed: int, rows: int) -> Examples:
    """Three classes around three points."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows)
    points = np.array([[2.0, 0.0], [-2.0, 1.0], [0.0, -2.0]])[labels]
    inputs = (points + 0.3 * generator.normal(size=(rows, 2))).astype(np.float32)
    return Examples(inputs=inputs, labels=labels.astype(np.int32))


def small(make: Callable[[], nnx.Module] = Line, **options: Any) -> OnlineLearner:
    fast = OptimizerConfig(learning_rate=0.1, schedule="constant")
    config = OnlineConfig(batch_rows=16, replay_rows=16, steps=24, optimizer=fast, **options)
    return OnlineLearner(make(), config, guard=cloud(99, 60))


def test_the_same_stream_gives_the_same_model() -> None:
    """Updates of any size, from an empty memory on, twice: bit for bit."""
    digests = []
    for _ in range(2):
        learner = small()
        for number, rows in enumerate([40, 2, 100, 17]):
            learner.update(cloud(number, rows))
        digests.append(state_of(learner.model))
        assert learner.measure(cloud(50, 200))["accuracy"] > 0.9
    assert digests[0] == digests[1]


def test_a_roll_back_leaves_no_trace() -> None:
    """Two that met different poison go on, bit for bit, the same."""
    learners = [small(guard_margin=0.0, seed=1) for _ in range(2)]
    for learner in learners:
        assert learner.update(cloud(0, 200)).kept
    bad = [replace(cloud(n, 200), labels=(cloud(n, 200).labels + 1) % 3) for n in (1, 2)]
    for learner, examples in zip(learners, bad, strict=True):
        assert not learner.update(examples).kept
        learner.detector = OnlineConfig().drift  # what it has seen of the stream may differ
        learner._alert = 0
    for learner in learners:
        assert learner.update(cloud(3, 100)).kept
    assert state_of(learners[0].model) == state_of(learners[1].model)
    assert learners[0].memory.seen == learners[1].memory.seen


def test_an_update_that_breaks_off_leaves_the_weights() -> None:
    """Stopped between two of its steps: the weights are those before it, and it learns on."""
    learner = small()
    assert learner.update(cloud(0, 64)).kept
    before = state_of(learner.model)
    draw, left = learner.memory.draw, iter(range(3))

    def stop(*args: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return draw(*args, **options)

    learner.memory.draw = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        learner.update(cloud(1, 64))
    assert state_of(learner.model) == before
    learner.memory.draw = draw  # type: ignore[method-assign]
    learner.update(cloud(1, 64))


def test_the_given_model_and_the_handed_out_one_are_left_alone() -> None:
    """Updates donate buffers of the learner's own; a model once taken stays as it was."""
    line = Line()
    given = state_of(line)
    learner = small(lambda: line)
    learner.update(cloud(0, 64))
    taken = learner.model
    before = state_of(taken)
    learner.update(cloud(1, 64))
    assert state_of(taken) == before != state_of(learner.model)
    assert state_of(line) == given
    assert not line.dropout.deterministic


def test_learning_on_in_int8() -> None:
    """Quantized products, master weights in float32; what is handed out is the plain module."""
    learner = small(precision="int8")
    for number in range(3):
        learner.update(cloud(number, 64))
    assert learner.measure(cloud(50, 200))["accuracy"] > 0.9
    model: Any = learner.model
    assert isinstance(model, Line)
    assert model.head.kernel[...].dtype == jnp.float32
    right = np.asarray(model(cloud(50, 200).inputs)).argmax(-1) == cloud(50, 200).labels
    assert right.mean() > 0.9


def test_published_now_and_then() -> None:
    """Every second update that was kept; what ``publish`` returns is in the record."""
    published: list[nnx.Module] = []

    def publish(model: nnx.Module) -> int:
        published.append(model)
        return len(published)

    config = OnlineConfig(batch_rows=16, replay_rows=0, publish_every=2)
    learner = OnlineLearner(Line(), config, guard=cloud(99, 60), publish=publish)
    records = [learner.update(cloud(number, 64)) for number in range(4)]
    assert [record.published for record in records] == [None, 1, None, 2]
    assert [record.publish_s > 0 for record in records] == [False, True, False, True]


def test_an_update_is_kept_when_it_cannot_be_published() -> None:
    """Its record comes with the error, whose cause is what ``publish`` raised; it learns on."""
    calls = []

    def publish(model: nnx.Module) -> str:
        calls.append(state_of(model))
        if len(calls) == 1:
            raise OSError("no room")
        return "here"

    config = OnlineConfig(batch_rows=16, replay_rows=0)
    learner = OnlineLearner(Line(), config, guard=cloud(99, 60), publish=publish)
    before = state_of(learner.model)
    with pytest.raises(
        MaasError, match="update 1 is learned and kept, but publish failed with OSError: no room"
    ) as caught:
        learner.update(cloud(0, 64))
    assert isinstance(caught.value.__cause__, OSError)
    record = caught.value.evidence["record"]
    assert isinstance(record, OnlineRecord)
    assert (record.update, record.kept, record.published) == (1, True, None)
    assert state_of(learner.model) == calls[0] != before
    assert learner.memory.seen > 0
    following = learner.update(cloud(1, 64))
    assert (following.update, following.published) == (2, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 7], np.int32)}, r"batch, labels: .*7"),
        ({"inputs": np.ones((2, 3), np.float32)}, r"rows of float32\[2\] like the guard's"),
        ({"inputs": np.array([[0, 1], [np.nan, 1]], np.float32)}, "row 1 holds NaN or infinity"),
        ({"inputs": np.ones((2, 2), np.int32)}, r"got int32\[2\]"),
        ({"inputs": np.ones((3, 2), np.float32)}, "3 inputs and 2 labels"),
        ({"weights": np.ones(2)}, "expected inputs and labels, got inputs, labels, weights"),
    ],
)
def test_a_batch_that_does_not_belong_changes_nothing(change: dict[str, Any], message: str) -> None:
    """Labels out of range, other shapes, NaN: said before anything is learned or counted."""
    learner = small()
    good = {"inputs": np.ones((2, 2), np.float32), "labels": np.zeros(2, np.int32)}
    before = state_of(learner.model)
    with pytest.raises(InputError, match=message):
        learner.update({**good, **change})
    assert state_of(learner.model) == before
    assert (learner.updates, learner.detector.count, learner.memory.seen) == (0, 0, 0)


def test_a_regression_is_guarded_by_its_loss() -> None:
    """No accuracy: said when the learner is made; with the loss as the guard it learns on."""
    line = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    rows = Examples(inputs=line, labels=3 * line[:, 0])
    model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="guard_metric 'accuracy': the model's metrics are loss"):
        OnlineLearner(model, OnlineConfig(loss="mse"), guard=rows)
    config = OnlineConfig(loss="mse", guard_metric="loss", guard_margin=0.1)
    learner = OnlineLearner(model, config, guard=rows)
    start = learner.measure(rows)["loss"]
    records = [learner.update(rows) for _ in range(5)]
    assert all(record.kept for record in records)
    assert learner.measure(rows)["loss"] < start
    assert jnp.isfinite(learner.measure(rows)["loss"])


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"replay_rows": -1},
        {"guard_every": 1},
        {"guard_margin": -0.1},
        {"guard_margin": float("nan")},
        {"guard_metric": "f1"},
        {"optimizer": OptimizerConfig(ema_decay=0.9)},
    ],
)
def test_settings_are_checked(options: dict[str, Any]) -> None:
    """Each setting that cannot work is named."""
    [name] = options
    with pytest.raises(ConfigError, match=f"{name}: expected"):
        OnlineConfig(**options)


@pytest.mark.slow
def test_bundles_know_where_they_come_from(story: Story, tmp_path: Path) -> None:
    """Each version names the manifest that it was made from."""
    del tmp_path
    for version in story.store.versions("digits")[1:]:
        manifest = open_bundle(story.store.resolve("digits", version)).manifest
        assert manifest.metadata["reweighted_from"].startswith("sha256:")
