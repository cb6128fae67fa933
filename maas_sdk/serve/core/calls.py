"""The calls of one request → their answers, in order; small calls of a program are batched.

A thousand calls of one row cost a thousand runs; put together they cost a few. So calls
of a program whose rows are independent are concatenated up to its largest bucket, run once, and the
outputs split again. No further: a larger batch would be split by the engine, and between batches
there is a moment to see which deadlines have passed.

The rule: one call's trouble is that call's. Each is checked before it joins a batch, once, and each
gets its own result or its own failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from maas_sdk.bundle.manifest import Manifest, Program
from maas_sdk.errors import DeadlineError, MaasError, NotFoundError
from maas_sdk.serve.logs import log
from maas_sdk.wire.calls import Call, Failure, Result

if TYPE_CHECKING:
    from maas_sdk.runtime.engine import CheckedCall
    from maas_sdk.serve.core.served import ServedEngine

__all__ = ["DEFAULT_PROGRAM", "answer_calls", "find_program", "late_failure"]

DEFAULT_PROGRAM: Final = "predict"
# TensorFlow Serving's word for the program that a call without a name means.
_SERVING_DEFAULT: Final = "serving_default"


def find_program(manifest: Manifest, name: str | None) -> str:
    """Return the name of the program that a call goes to.

    Args:
        manifest: of the model.
        name: as the call has it. None, empty and ``serving_default`` mean the default program:
            ``predict``, or the only one.

    Raises:
        NotFoundError: no such program, or no default one.
    """
    if name and name in manifest.programs:
        return name
    if not name or name == _SERVING_DEFAULT:
        if DEFAULT_PROGRAM in manifest.programs:
            return DEFAULT_PROGRAM
        if len(manifest.programs) == 1:
            return next(iter(manifest.programs))
    listed = ", ".join(sorted(manifest.programs))
    asked = f"no program {name!r}" if name else "which program?"
    raise NotFoundError(f"{asked} Model {manifest.name} has {listed}", program=name)


def late_failure(call: Call, elapsed_s: float) -> Failure:
    """Return the failure of a call whose deadline passed before it was started."""
    error = DeadlineError(
        f"the call's timeout of {call.timeout_s:g} s had passed {elapsed_s:.3g} s after it "
        "arrived; it was not started"
    )
    return Failure.from_error(call.id, error)


@dataclass(slots=True)
class _Batch:
    """Calls that run together: places in the request, and what was checked of each."""

    calls: list[tuple[int, CheckedCall]] = field(default_factory=list)
    # Rows of all.
    rows: int = 0


def answer_calls(
    engine: ServedEngine, calls: Sequence[Call | Failure], elapsed_s: Callable[[], float]
) -> list[Result | Failure]:
    """Run calls, higher priority first, and return their answers in the order of ``calls``.

    Args:
        engine: the model.
        calls: a ``Failure`` stands for a call that could not be read, and stays as it is.
        elapsed_s: seconds since the calls arrived; a call whose timeout has passed is not started.
    """
    if len(calls) == 1:  # the most frequent request: nothing to order, check apart or join
        return [_answer_one(engine, calls[0], elapsed_s)]
    answers: list[Result | Failure | None] = [
        call if isinstance(call, Failure) else None for call in calls
    ]
    for batch in _plan(engine, calls, answers):
        _run(engine, batch, calls, answers, elapsed_s)
    return [answer for answer in answers if answer is not None]


def _answer_one(
    engine: ServedEngine, call: Call | Failure, elapsed_s: Callable[[], float]
) -> Result | Failure:
    if isinstance(call, Failure):
        return call
    now = elapsed_s()
    try:
        # First: no program is the caller's mistake, however late the call is.
        name = find_program(engine.manifest, call.program)
        if call.timeout_s is not None and now >= call.timeout_s:
            return late_failure(call, now)
        return Result(call.id, engine.run_checked(engine.check(name, call.inputs)))
    except Exception as error:
        _log_foreign(error, call.program or "predict")
        return Failure.from_error(call.id, error)


def _log_foreign(error: Exception, program: str) -> None:
    """Log an unexpected error in full, since callers are told little of it."""
    if not isinstance(error, MaasError):
        log("ERROR", f"program {program} failed: {error}", error=error)


def _plan(
    engine: ServedEngine,
    calls: Sequence[Call | Failure],
    answers: list[Result | Failure | None],
) -> list[_Batch]:
    """Group calls into batches; a call that does not fit its program gets its failure here."""
    batches: list[_Batch] = []
    open_batches: dict[str, _Batch] = {}
    # Calls alike are checked once: program, then name, dtype and shape of each input.
    known: dict[tuple[object, ...], CheckedCall] = {}
    for place in _by_priority(calls):
        call = calls[place]
        assert isinstance(call, Call)
        kind = (call.program, *((n, a.dtype, a.shape) for n, a in call.inputs.items()))
        alike = known.get(kind)
        if alike is None:
            try:
                name = find_program(engine.manifest, call.program)
                checked = known[kind] = engine.check(name, call.inputs)
            except MaasError as error:
                answers[place] = Failure.from_error(call.id, error)
                continue
        else:
            checked = alike._replace(inputs=call.inputs)
        program = checked.program.program
        name, largest = checked.program.name, program.buckets[-1]
        batch = open_batches.get(name)
        if not _joins(program) or not 0 < checked.rows < largest:
            batch = _Batch()
            batches.append(batch)
        elif batch is None or batch.rows + checked.rows > largest:
            batch = open_batches[name] = _Batch()
            batches.append(batch)
        batch.calls.append((place, checked))
        batch.rows += checked.rows
    return batches


def _by_priority(calls: Sequence[Call | Failure]) -> list[int]:
    readable = [(place, call) for place, call in enumerate(calls) if isinstance(call, Call)]
    readable.sort(key=lambda item: -item[1].priority)  # stable: equal ones stay in order
    return [place for place, _ in readable]


def _joins(program: Program) -> bool:
    """Return True when batches of this program may be concatenated and its outputs split."""
    specs = (*program.signature.inputs.values(), *program.signature.outputs.values())
    return program.row_independent and all(spec.shape[:1] == (None,) for spec in specs)


def _run(
    engine: ServedEngine,
    batch: _Batch,
    calls: Sequence[Call | Failure],
    answers: list[Result | Failure | None],
    elapsed_s: Callable[[], float],
) -> None:
    now = elapsed_s()
    going: list[tuple[int, str, CheckedCall]] = []
    for place, checked in batch.calls:
        call = calls[place]
        assert isinstance(call, Call)
        if call.timeout_s is not None and now >= call.timeout_s:
            answers[place] = late_failure(call, now)
        else:
            going.append((place, call.id, checked))
    if not going:
        return
    try:
        outputs = engine.run_checked(_joined([checked for _, _, checked in going]))
    except Exception as error:  # the model's, whatever it is: the other batches go on
        _log_foreign(error, going[0][2].program.name)
        for place, id, _ in going:
            answers[place] = Failure.from_error(id, error)
        return
    if len(going) == 1:
        place, id, _ = going[0]
        answers[place] = Result(id, outputs)
        return
    start = 0
    for place, id, checked in going:
        stop = start + checked.rows
        part = {name: array[start:stop] for name, array in outputs.items()}
        answers[place] = Result(id, part)
        start = stop


def _joined(calls: Sequence[CheckedCall]) -> CheckedCall:
    """Calls of the same program as one, their rows one after another along B."""
    first = calls[0]
    if len(calls) == 1:
        return first
    return first._replace(
        inputs={
            name: np.concatenate([call.inputs[name] for call in calls]) for name in first.inputs
        },
        rows=sum(call.rows for call in calls),
    )
