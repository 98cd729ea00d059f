"""What a machine's sensors can do: each source tried, and a step test that measures how it warms up."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Final, Literal

import yaml

from bit_axon.errors import SensorError, problem
from bit_axon.files import write_atomic
from bit_axon.profiling.clock import Clock
from bit_axon.profiling.fitting import Fit
from bit_axon.profiling.reading import RawReading
from bit_axon.profiling.sensors.base import Source
from bit_axon.profiling.step_tests import StepTest

_READS: Final = 5
_SAMPLE_SECONDS: Final = 0.25
_LOAD_BEGINS, _LOAD_ENDS = 1 / 6, 7 / 12  # of the test: idle, load, and as long idle again
VALID_TEMP: Final = (15.0, 130.0)  # as the monitor has it by default: sensors of gated blocks lie below
_DIGITS: Final = 4

Load = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Examination:
    """One source on this machine.

    Attributes:
        ok: it was probed and it was read.
        detail: what it offers, in its own words; empty when it does not answer.
        values: its last answer.
        latency_ms: of a reading, the median of five.
        error: why it does not answer.
    """

    name: str
    ok: bool
    detail: str = ""
    values: RawReading | None = None
    latency_ms: float | None = None
    error: str | None = None


def examine(
    sources: Iterable[Source], seconds_now: Callable[[], float] = time.perf_counter
) -> list[Examination]:
    """Tries every source and closes it again; whatever goes wrong in one is its result, not an error."""
    return [_examined(source, seconds_now) for source in sources]


def _examined(source: Source, seconds_now: Callable[[], float]) -> Examination:
    try:
        probe = source.probe()
        if not probe.ok:
            return Examination(source.name, False, error=probe.detail)
        latencies = []
        for _ in range(_READS):
            begin = seconds_now()
            values = source.read()
            latencies.append((seconds_now() - begin) * 1000)
        return Examination(source.name, True, probe.detail, values, median(latencies))
    except SensorError as error:
        return Examination(source.name, False, error=str(error))
    except Exception as error:  # a doctor reports what ails a source, also what its author did not foresee
        return Examination(source.name, False, error=f"unexpected {type(error).__name__}: {error}")
    finally:
        source.close()


def control_temp(reading: RawReading) -> float | None:
    """The higher of the mean CPU and the mean GPU temperature, of believable values; None without any."""
    means = []
    for group in ("cpu", "gpu"):
        temps = [
            sensor.temp_c
            for sensor in reading.sensors
            if sensor.group == group and VALID_TEMP[0] <= sensor.temp_c <= VALID_TEMP[1]
        ]
        if temps:
            means.append(fmean(temps))
    return max(means, default=None)


def step_test(
    source: Source,
    clock: Clock,
    load: Load,
    seconds: float = 60.0,
    on_phase: Callable[[str, float], None] = lambda text, seconds: None,
) -> StepTest:
    """Idle for a sixth of the time, full load until seven twelfths, idle for the rest.

    Args:
        source: is probed and closed here.
        clock: of the samples, four a second.
        load: makes a context within which the device is busy.
        seconds: of the whole test.
        on_phase: told what begins now and how long it takes.

    Raises:
        SensorError: the source does not answer.
    """
    probe = source.probe()
    if not probe.ok:
        raise SensorError(problem(f"{source.name} to answer", probe.detail, "Use another source."))
    samples = _Samples(source, clock)
    try:
        on_phase("idle", seconds * _LOAD_BEGINS)
        samples.take_until(seconds * _LOAD_BEGINS)
        on_phase("full load", seconds * (_LOAD_ENDS - _LOAD_BEGINS))
        with load():
            began = samples.now()
            samples.take_until(seconds * _LOAD_ENDS)
        ended = samples.now()
        on_phase("idle again", seconds * (1 - _LOAD_ENDS))
        samples.take_until(seconds)
    finally:
        source.close()
    return samples.test(began, ended)


class _Samples:
    """Readings with their moments; those that fail are left out."""

    def __init__(self, source: Source, clock: Clock):
        self._source, self._clock = source, clock
        self._began = clock.monotonic()
        self._taken: list[tuple[float, float, RawReading]] = []

    def now(self) -> float:
        """Seconds since the test's beginning."""
        return self._clock.monotonic() - self._began

    def take_until(self, end_seconds: float) -> None:
        """Four readings a second, or as many as the source gives."""
        while (now := self.now()) < end_seconds:
            self._clock.sleep(min(_SAMPLE_SECONDS, end_seconds - now))
            self._take()

    def test(self, load_began: float, load_ended: float) -> StepTest:
        """All that was taken."""
        machine = [reading.sys_power_w for _, _, reading in self._taken]
        chip = [reading.gpu_power_w for _, _, reading in self._taken]
        power_of: Literal["machine", "chip"] | None = None
        if any(power is not None for power in machine):
            power_of = "machine"
        elif any(power is not None for power in chip):
            power_of = "chip"
        return StepTest(
            source=self._source.name,
            load_began_seconds=load_began,
            load_ended_seconds=load_ended,
            seconds=tuple(moment for moment, _, _ in self._taken),
            temps=tuple(temp for _, temp, _ in self._taken),
            powers_w=tuple(machine if power_of == "machine" else chip),
            power_of=power_of,
        )

    def _take(self) -> None:
        before = self.now()
        try:
            reading = self._source.read()
        except SensorError:
            return  # a moment without an answer; too few answers end the fit
        temp = control_temp(reading)
        if temp is not None:
            self._taken.append(((before + self.now()) / 2, temp, reading))


def write_preset(path: Path, fitted: Fit, *, source: str, base: str, seconds: float) -> None:
    """The parameters as a file for `thermal.simulation.preset`, with where each number comes from.

    Args:
        path: replaced as a whole.
        fitted: by `fitting.fit`.
        source: of the temperatures.
        base: name of the base preset.
        seconds: how long the test was.

    Raises:
        StorageError: it cannot be written.
    """
    lines = [
        "# How this machine warms up, for thermal.simulation.preset and bit_axon.profiling.rc_model.",
        f"# Written by `bit-axon thermal doctor --step-test`: {seconds:.0f} s, source {source}.",
        f"# The model misses the measured temperatures by {fitted.residual_temp:.2f} °C (root mean square).",
        *(f"# {remark}" for remark in fitted.remarks),
    ]
    for name, value in asdict(fitted.parameters).items():
        lines.append(f"{name}: {_short(value)}  # {origin(name, fitted, base)}")
    write_atomic(path, "\n".join(lines) + "\n")


def origin(name: str, fitted: Fit, base: str) -> str:
    """Where a parameter's value comes from."""
    errors: Mapping[str, float] = fitted.fitted
    if name in errors:
        return f"fitted, standard error {errors[name]:.0%}"
    return "measured" if name in fitted.measured else f"taken from {base}"


def _short(value: float) -> str:
    """Four significant digits, as a float that YAML reads as a number."""
    return str(yaml.safe_dump(float(f"{value:.{_DIGITS}g}"))).split("\n")[0]
