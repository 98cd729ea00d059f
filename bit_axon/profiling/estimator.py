"""From raw answers to filtered readings: population, control statistic, median, mean, and what is held."""

from dataclasses import dataclass, replace
from typing import Literal

from bit_axon.profiling.filters import ExponentialMean, RunningMedian
from bit_axon.profiling.population import Aggregate, Population
from bit_axon.profiling.reading import RawReading, Reading
from bit_axon.profiling.stuck import StuckJudge

Control = Literal["hot", "max", "cpu_avg", "gpu_avg"]


@dataclass(frozen=True)
class MonitorOptions:
    """How readings are made of what the sensors say; as in `thermal` of the config.

    Attributes:
        control: the statistic that decides, see `control_temp`.
        median_samples: width of the median against spikes, in polls.
        filter_seconds: time constant of the mean.
        valid_temp: a sensor outside, in °C, is not believed.
        stale_after_seconds: how long values are held that cannot be read anew.
    """

    control: Control = "hot"
    median_samples: int = 3
    filter_seconds: float = 15.0
    valid_temp: tuple[float, float] = (15.0, 130.0)
    stale_after_seconds: float = 5.0


def control_temp(aggregate: Aggregate, control: Control) -> float | None:
    """The temperature that decides, in °C.

    `hot`: the higher of the CPU's and the GPU's mean. `max`: the highest sensor of both. `cpu_avg`,
    `gpu_avg`: that mean, or the other where that part has no sensor. Whatever is not known is left out.
    """
    cpu, gpu = aggregate.cpu_avg_c, aggregate.gpu_avg_c
    if control == "cpu_avg":
        return gpu if cpu is None else cpu
    if control == "gpu_avg":
        return cpu if gpu is None else gpu
    both = (cpu, gpu) if control == "hot" else (aggregate.cpu_max_c, aggregate.gpu_max_c)
    return max((temp for temp in both if temp is not None), default=None)


class Estimator:
    """What is known of the temperatures, from one source; not thread-safe.

    Args:
        options: of the monitor.
        hold_seconds: how long a value counts that is not read anew.
    """

    def __init__(self, options: MonitorOptions, hold_seconds: float):
        self._options, self._hold_seconds = options, hold_seconds
        self._median = RunningMedian(options.median_samples)
        self._mean = ExponentialMean(options.filter_seconds)
        self._judge = StuckJudge()
        self._known: Reading | None = None
        self._has_answered = False
        self._since: float | None = None  # of the last valid value, or of the beginning
        self.begin_source(is_function=False)

    @property
    def has_answered(self) -> bool:
        """Whether this source ever gave a valid value."""
        return self._has_answered

    def begin_source(self, *, is_function: bool) -> None:
        """Another source: its sensors are others. A function's constant may well be meant."""
        judge = None if is_function else self._judge
        self._population = Population(self._options.valid_temp, self._hold_seconds, judge)
        self._has_answered = False
        self.forget()

    def forget(self) -> None:
        """Starts anew, as after a time of which nothing is known."""
        self._population.reset()
        self._median.reset()
        self._mean.reset()
        self._known = self._since = None

    def clear(self) -> None:
        """Nothing is held any longer; the filters go on."""
        self._known = None

    def note_duty(self, duty: float, now: float) -> None:
        """The fraction of time for which the machine works from now on."""
        self._judge.note_duty(duty, now)

    def is_overdue(self, now: float) -> bool:
        """Whether the last valid value is too old to mean anything."""
        return self._since is not None and now - self._since > self._hold_seconds

    def valid_seconds(self, now: float) -> float:
        """The moment at which the values of the last reading were read."""
        return self._known.t_mono_s if self._known else now

    def has_valid(self, raw: RawReading) -> bool:
        """Whether a temperature could be made of it."""
        return self._population.has_valid(raw.sensors)

    def take(self, poll: Reading, *, answered: bool) -> tuple[Reading, Aggregate | None]:
        """Fills in the temperatures and the quality of one poll.

        Args:
            poll: number, moments, source and raw values.
            answered: whether the source gave an answer, be it nonsense.

        Returns:
            The reading, and what the sensors said together; None without an answer.
        """
        now = poll.t_mono_s
        overdue = self.is_overdue(now)
        if overdue and self._known is not None:
            since = self._since
            self.forget()
            self._since = since
        if self._since is None:
            self._since = now
        aggregate = self._population.update(poll.raw.sensors, now) if answered else None
        temp = control_temp(aggregate, self._options.control) if aggregate and aggregate.n_valid else None
        if aggregate is None or temp is None:
            return self._without_value(poll, answered=answered, overdue=overdue), aggregate
        self._known, self._since = self._with_value(poll, aggregate, temp), now
        self._has_answered = True
        return self._known, aggregate

    def _with_value(self, poll: Reading, aggregate: Aggregate, temp: float) -> Reading:
        steady = self._median.add(temp)
        return replace(
            poll,
            quality="ok",
            temp_ctrl_c=steady,
            temp_filt_c=self._mean.add(steady, poll.t_mono_s),
            cpu_avg_c=aggregate.cpu_avg_c,
            cpu_max_c=aggregate.cpu_max_c,
            gpu_avg_c=aggregate.gpu_avg_c,
            gpu_max_c=aggregate.gpu_max_c,
            chassis_c=aggregate.chassis_c,
            n_valid=aggregate.n_valid,
        )

    def _without_value(self, poll: Reading, *, answered: bool, overdue: bool) -> Reading:
        """The last values for a while, then none."""
        if overdue or (self._known is None and not answered):
            return replace(poll, quality="stale")
        quality: Literal["invalid", "held"] = "invalid" if answered else "held"
        if self._known is None:
            return replace(poll, quality=quality)
        return replace(
            self._known,
            number=poll.number,
            t_mono_s=poll.t_mono_s,
            t_wall_ms=poll.t_wall_ms,
            source=poll.source,
            raw=poll.raw,
            n_valid=0,
            quality=quality,
        )
