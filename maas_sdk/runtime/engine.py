"""A loaded bundle: named inputs in, named outputs out.

The rule: what depends on the request alone is done per request; everything else was done at load.
Inputs are checked once: ``check`` gives a ``CheckedCall``, which ``run_checked`` runs without
looking at it again. An engine is safe to call from many threads at once, and all of them share one
copy of the weights: mapped pages of the file, handed to XLA as they are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from maas_sdk.bundle.manifest import Manifest, Program, Verification
from maas_sdk.errors import InputError, MaasError, ModelError, NotFoundError
from maas_sdk.runtime.buckets import pad_rows, plan
from maas_sdk.runtime.tiers import Tier
from maas_sdk.runtime.xla import Buffer, Executable
from maas_sdk.tensors import Array, TensorSpec, dtype_from_name

__all__ = ["CheckedCall", "Engine", "LoadReport", "LoadedProgram"]


class LoadReport(NamedTuple):
    """Tiers, stages and seconds of a load."""

    tier: Tier
    # Name of the target; None for the program tier.
    target: str | None
    # Why this tier, in a sentence.
    reason: str
    # Seconds by stage. Stages run side by side where they can: they do not add up.
    timings_s: Mapping[str, float]
    # Weights that could not be used in place and were copied: not aligned, or packed.
    copied_weights: tuple[str, ...]


class CheckedCall(NamedTuple):
    """Inputs that fit the signature of their program.

    Calls of one program whose rows are independent may be joined: inputs concatenated, rows added.
    """

    program: LoadedProgram
    # [B, …] each.
    inputs: Mapping[str, Array]
    # B.
    rows: int


class LoadedProgram:
    """One program: its executables by bucket, loaded when a batch first asks for one."""

    def __init__(
        self,
        name: str,
        program: Program,
        weights: Sequence[Buffer],
        load: Callable[[int], Executable],
        put: Callable[[Array], Buffer],
    ) -> None:
        self.name = name
        self.program = program
        self._weights = list(weights)
        self._load = load
        self._put = put
        self._executables: dict[int, Executable] = {}
        self._lock = threading.Lock()
        self._outputs = {bucket: self._result_specs(bucket) for bucket in program.buckets}

    def executable(self, bucket: int) -> Executable:
        """Return the executable of a bucket, loaded once however many threads ask."""
        found = self._executables.get(bucket)
        if found is None:
            with self._lock:
                found = self._executables.get(bucket)
                if found is None:
                    found = self._executables[bucket] = self._load(bucket)
        return found

    def check(self, inputs: Mapping[str, Array]) -> CheckedCall:
        """Hold inputs, [B, …] each, against the signature.

        Raises:
            InputError: names, dtypes or shapes do not fit.
        """
        return CheckedCall(self, inputs, self.program.signature.check(inputs))

    def run(self, inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """Run as many buckets as the rows need, and join the rows of the answers.

        Args:
            inputs: [B, …] each, checked.
            rows: B.

        Returns:
            Outputs by name, [B, …] where the signature's first dimension is open.

        Raises:
            InputError: the rows influence one another, and no bucket has B rows.
        """
        program = self.program
        signature = program.signature
        if not rows and program.row_independent:
            return {name: _empty(spec) for name, spec in signature.outputs.items()}
        runs = plan(rows, program.buckets, row_independent=program.row_independent)
        parts = [self._run_bucket(inputs, rows, *run) for run in runs]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run_bucket(
        self, inputs: Mapping[str, Array], rows: int, start: int, stop: int, bucket: int
    ) -> dict[str, Array]:
        put = self._put
        arguments = list(self._weights)
        for name in self.program.signature.inputs:
            array = inputs[name]
            if not array.dtype.isnative:
                array = array.astype(array.dtype.newbyteorder("="))
            if stop - start != rows:
                array = array[start:stop]
            if stop - start != bucket:
                array = pad_rows(array, bucket)
            elif not array.flags.c_contiguous:
                array = np.ascontiguousarray(array)
            arguments.append(put(array))
        results = self.executable(bucket).run(arguments, self._outputs[bucket])
        taken = stop - start
        return {
            name: result[:taken] if taken != bucket and spec.shape[:1] == (None,) else result
            for (name, spec), result in zip(
                self.program.signature.outputs.items(), results, strict=True
            )
        }

    def _result_specs(self, bucket: int) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        return [
            (
                tuple(bucket if size is None else size for size in spec.shape),
                dtype_from_name(spec.dtype),
            )
            for spec in self.program.signature.outputs.values()
        ]


class Engine:
    """A loaded model. Thread-safe.

    Attributes:
        manifest: the bundle's.
        report: which tier was opened, why, and how long the stages took.
    """

    def __init__(
        self,
        manifest: Manifest,
        report: LoadReport,
        programs: Mapping[str, LoadedProgram],
        golden: Callable[[str], Mapping[str, Array]],
    ) -> None:
        self.manifest = manifest
        self.report = report
        self._programs = dict(programs)
        self._golden = golden
        self._fault: MaasError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, inputs: Mapping[str, Array], *, program: str = "predict") -> dict[str, Array]:
        """Answer one batch.

        Args:
            inputs: arrays by name, [B, …] as the program's signature says, any B: a batch is padded
                up to a compiled size and split above the largest.
            program: which of the bundle's programs.

        Returns:
            Outputs by name; read-only arrays.

        Raises:
            NotFoundError: no such program.
            InputError: names, dtypes or shapes do not fit.
            ModelError: the program failed while it ran.
            CorruptError: the weights turned out not to be the ones that were sealed.
        """
        return self.run_checked(self.check(program, inputs))

    def check(self, program: str, inputs: Mapping[str, Array]) -> CheckedCall:
        """Find a program and hold inputs against its signature, once for all that follows.

        Args:
            program: which of the bundle's programs.
            inputs: as for ``run``.

        Raises:
            NotFoundError: no such program.
            InputError: names, dtypes or shapes do not fit.
            MaasError: every call is refused: see ``fault``.
        """
        if self._fault is not None:
            raise self._fault.copy()
        loaded = self._programs.get(program)
        if loaded is None:
            raise NotFoundError(
                f"model {self.manifest.name!r} has no program {program!r}; it has "
                f"{', '.join(sorted(self.manifest.programs))}",
                program=program,
            )
        return loaded.check(inputs)

    def run_checked(self, call: CheckedCall) -> dict[str, Array]:
        """Answer a call of ``check``, or several joined, without checking it again.

        Returns:
            Outputs by name; read-only arrays.

        Raises:
            InputError: the rows influence one another, and no bucket has that many.
            ModelError: the program failed while it ran.
            MaasError: every call is refused: see ``fault``.
        """
        # Again: the weights may have turned out to be wrong since the call was checked.
        if self._fault is not None:
            raise self._fault.copy()
        return call.program.run(call.inputs, call.rows)

    def predict(
        self, x: Array | Mapping[str, Array], *, program: str = "predict"
    ) -> Array | dict[str, Array]:
        """Answer one batch of a program, by the shortest call.

        Args:
            x: the array, if the program has one input; arrays by name otherwise.
            program: which of the bundle's programs.

        Returns:
            The array, if the program has one output; arrays by name otherwise. Raises as ``run``.
        """
        if not isinstance(x, Mapping):
            known = self.manifest.programs.get(program)
            names = list(known.signature.inputs) if known else ["input"]
            if len(names) != 1:
                raise InputError(
                    f"program {program!r} has inputs {names}: hand in a dict of arrays by name"
                )
            x = {names[0]: np.asarray(x)}
        outputs = self.run(x, program=program)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def prime(self) -> None:
        """Run every program's golden inputs once and compare with the golden outputs.

        Raises:
            ModelError: an answer is off by more than the tolerance that export verified.
        """
        for name, loaded in self._programs.items():
            golden = self._golden(name)
            call = loaded.check(_of(golden, "input/"))
            answers = loaded.run(call.inputs, call.rows)
            check = loaded.program.verification
            if check is None:
                continue
            for output, expected in _of(golden, "output/").items():
                _hold_to(answers[output], expected, check, f"program {name!r}, output {output!r}")

    @property
    def fault(self) -> MaasError | None:
        """The error that every call raises from now on, if any: see ``poison``."""
        return self._fault

    def poison(self, error: MaasError) -> None:
        """Make every later call raise ``error``, since the loaded files cannot be trusted."""
        self._fault = error

    def close(self) -> None:
        """Free executables and weights; a later call raises ``ModelError``."""
        self.poison(ModelError("the engine is closed"))
        self._programs = {}


def _of(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}


def _hold_to(answer: Array, expected: Array, check: Verification, where: str) -> None:
    from maas_sdk.bundle.files.tolerance import Tolerance, compare

    off = compare(answer, expected).max_abs_error
    allowed = Tolerance(atol=check.atol, rtol=check.rtol).allowed(expected)
    if off > allowed:
        raise ModelError(
            f"{where}: a golden input is answered {off:.3g} off, allowed is {allowed:.3g}: this "
            "machine computes something else than the model that was exported"
        )


def _empty(spec: TensorSpec) -> Array:
    return np.empty([size or 0 for size in spec.shape], dtype_from_name(spec.dtype))
