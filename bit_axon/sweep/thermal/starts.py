"""Between two trials: what a machine is watched with, and how the next trial starts."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final, Literal, Protocol

from annotated_types import Ge

from bit_axon.profiling.reading import Reading
from bit_axon.schema import Positive, options
from bit_axon.sweep.thermal.heat_rules import START, START_TEMP

COOLDOWN_KEY: Final = "hydra.sweeper.cooldown"

Outcome = Literal["cool", "settled", "timeout", "busy", "off", "given", "unknown", "interrupted"]


@options
class CooldownOptions:
    """`hydra.sweeper.cooldown`.

    Attributes:
        enabled: auto = where a temperature can be read; true = and it is an error where none can.
        above_base: °C above the machine's temperature at rest at which a trial may start.
        max_seconds: a trial starts after this time in any case; in less than two minutes a machine cannot be
            seen to rest.
    """

    enabled: bool | Literal["auto"] = "auto"
    above_base: Positive = 5.0
    max_seconds: Annotated[float, Ge(120)] = 600.0


class Readings(Protocol):
    """Where temperatures come from; `ThermalMonitor` is one."""

    def latest(self) -> Reading | None:
        """The newest reading; its temperatures are None where they are not known."""


@dataclass(frozen=True)
class Sensing:
    """A machine that can be watched while nothing runs.

    Attributes:
        readings: of its sensors.
        source: name of what is read.
        warm_temp: °C from which on no machine is called cool.
        poll_interval: seconds between two readings.
        rest_temp: °C, where it is known without watching. A machine that is simulated or replayed anew for
            each trial starts every trial alike: it is looked at once, and nothing is waited for.
        is_given: it is such a machine.
        other: process id of a run that heats the machine now; None = there is none.
    """

    readings: Readings
    source: str
    warm_temp: float
    poll_interval: float = 1.0
    rest_temp: float | None = None
    is_given: bool = False
    other: int | None = None


@dataclass(frozen=True)
class Start:
    """How a trial starts.

    Attributes:
        outcome: cool; settled (nothing gets cooler any more); timeout; busy (another run heats the
            machine); off (not asked for); given (see `Sensing`); unknown (no temperature); interrupted.
        cool: whether heat may be held against the trial; None = not known.
        temp_c: through the filters.
        base_c: the machine's temperature at rest.
        base_wall_ms: Unix time in milliseconds at which that was measured.
        chassis_c: a slow sensor, where there is one: the case stays warm long after the chip.
        waited_seconds: of study time.
        source: of the temperatures.
        host: the machine.
    """

    outcome: Outcome
    cool: bool | None = None
    temp_c: float | None = None
    base_c: float | None = None
    base_wall_ms: int | None = None
    chassis_c: float | None = None
    waited_seconds: float = 0.0
    source: str = "none"
    host: str = ""

    def attributes(self) -> dict[str, Any]:
        """For the trial, before it is launched."""
        known = {} if self.temp_c is None else {START_TEMP: round(self.temp_c, 3)}
        values = asdict(self)
        shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}
        return {**known, START: shown}
