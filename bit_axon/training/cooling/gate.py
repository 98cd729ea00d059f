"""The thermal gate: asked before each piece of work, it waits while the machine is too hot."""

from collections.abc import Callable, Hashable, Mapping
from typing import Protocol

from bit_axon.errors import ThermalShutdownError
from bit_axon.profiling.clock import Clock
from bit_axon.profiling.reading import Reading
from bit_axon.profiling.sensors.base import Thresholds
from bit_axon.profiling.throughput import ThroughputWatch
from bit_axon.profiling.trace import Phase as TracePhase
from bit_axon.schema import ThermalConfig
from bit_axon.training.cooling.cooldown import CoolDown
from bit_axon.training.cooling.gates import Phase, Rest, nothing
from bit_axon.training.cooling.ledger import Ledger
from bit_axon.training.cooling.policies import Decision, Policy, View
from bit_axon.training.cooling.recorder import TraceRecorder
from bit_axon.training.cooling.workload import RealWorkload, Workload

_SHORTEST_SLEEP_SECONDS = 0.05  # shorter ones are put together
_LONGEST_SLEEP_SECONDS = 60.0  # after one long piece of work
_SILENCE_SECONDS = 300.0  # between two lines about pauses
_TRACED: Mapping[Phase, TracePhase] = {"train": "train", "eval": "eval", "generate": "eval"}
_MOST_ATTEMPTS = 3  # at one step: a step that never fits within the limits must not be tried for ever
_HINT = "Look at the lid, the sun and other load"


class Readings(Protocol):
    """Where the gate reads from; `ThermalMonitor` is one."""

    def latest(self) -> Reading | None:
        """The newest reading; temperatures are None in one that is too old to mean anything."""

    def note_duty(self, duty: float) -> None:
        """How busy the machine is, so that a value that never moves can be told from a steady one."""


class ThermalGate:
    """Asks a policy, waits as it says, and keeps the books.

    Args:
        readings: of a monitor; None = there is no sensor, so nothing is ever done.
        policy: decides.
        clock: of every wait.
        config: limits of pauses.
        thresholds: of the policy, for `wait_until_cool`.
        workload: is told when work begins and ends.
        recorder: of the trace.
        stop_requested: ends any wait.
        say: a line for a person.
    """

    def __init__(
        self,
        readings: Readings | None,
        policy: Policy,
        clock: Clock,
        config: ThermalConfig,
        thresholds: Thresholds,
        *,
        workload: Workload | None = None,
        recorder: TraceRecorder | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda text: None,
    ):
        self._readings, self._policy, self._clock = readings, policy, clock
        self._config, self._thresholds = config, thresholds
        self._ledger = Ledger(clock, workload or RealWorkload())
        self._recorder = recorder or TraceRecorder(None)
        self._stop_requested, self._say = stop_requested, say
        self._watch = ThroughputWatch()
        self._decision = Decision("run", "unknown")
        self._reading: Reading | None = None  # the one decided on
        self._pauses = self._stops_in_a_row = 0
        self._stopped_at: tuple[Phase, int] = ("train", -1)
        self._has_temperature = False  # ever had
        self._cool_down = CoolDown(self._latest, clock, config, thresholds, stop_requested, say)
        self._gaps = 0  # of the readings that were decided on
        self._last_line: float | None = None

    @property
    def paused_seconds(self) -> float:
        """Seconds of this process spent waiting; those of a virtual clock are not this process's."""
        return 0.0 if self._clock.is_virtual else self._ledger.waited

    @property
    def waited_seconds(self) -> float:
        """Seconds of the gate's clock spent waiting."""
        return self._ledger.waited

    @property
    def longest_work_seconds(self) -> float:
        """The longest time between two checks: so long nothing could have been done about heat."""
        return self._ledger.longest_work

    @property
    def throughput_ratio(self) -> float | None:
        """Speed now against this session's own start, at equal shapes."""
        return self._watch.ratio

    @property
    def splits_batches(self) -> bool:
        """Whether the policy wants smaller pieces of work."""
        return self._decision.reduce_batch

    def check(
        self, phase: Phase, step: int, drain: Callable[[], None] = nothing, *, share: float = 1.0
    ) -> None:
        """Ends the piece of work that was going on, waits if need be, and begins the next one.

        Raises:
            ThermalShutdownError: it stays too hot.
        """
        self._ledger.end()
        self._recorder.doing(_TRACED[phase], step)
        self._recorder.micro_batch()
        decision = self._decide(None)
        self._ledger.reckon(decision.duty, phase)
        waits = decision.action != "run" or self._ledger.owed >= _SHORTEST_SLEEP_SECONDS
        if waits:
            self._drain(drain)
        try:
            if decision.action == "stop":
                self._stop(decision, phase, step)
            elif decision.action == "pause":
                self._pause(decision, phase, step)
            elif waits:
                self._sleep()
        except ThermalShutdownError as error:
            if phase == "train" or self._config.on_stop != "wait":
                raise  # what was summed up of the step is given up, and the step done again
            self._say(str(error))
            if not self.wait_until_cool():
                raise
            self._recorder.doing(_TRACED[phase], step)
        self._note_duty(self._decision.duty)
        self._ledger.begin(phase, share)

    def rest(self, phase: Rest, step: int) -> None:
        """The device has nothing to do for a while."""
        self._ledger.end()
        self._recorder.doing(phase, step)

    def after_step(
        self, step: int, tokens: int, tokens_total: int, shape: Hashable, *, compiled: bool
    ) -> Mapping[str, float]:
        """Watches the speed, and says what is known now."""
        active = self._ledger.take_step()
        if active > 0 and not compiled:
            self._recorder.step_done(tokens_total, tokens / active)
            self._watch.add(shape, tokens, active)
            self._warn_of_slowness()
        reading = self._latest()
        known = {
            "temp_c": reading.temp_ctrl_c if reading else None,
            "temp_filtered_c": reading.temp_filt_c if reading else None,
            "pressure": reading.pressure if reading else None,
            "power_w": reading.raw.sys_power_w or reading.raw.gpu_power_w if reading else None,
            "duty": self._decision.duty if reading else None,
            "waited_seconds": self._ledger.waited if reading else None,
            "throughput_ratio": self._watch.ratio,
        }
        return {name: float(value) for name, value in known.items() if value is not None}

    def wait_until_cool(self) -> bool:
        """With `on_stop: wait`, waits until the machine is at or below the resume temperature."""
        wanted = self._config.on_stop == "wait" and not self._stop_requested()
        if not wanted or self._stops_in_a_row > _MOST_ATTEMPTS:
            return False
        self._ledger.end()
        self._recorder.doing("cooldown", self._stopped_at[1])
        self._recorder.action("cooldown", self._reading)
        self._note_duty(0.0)
        began = self._clock.monotonic()
        cool = self._cool_down.wait(has_temperature=self._has_temperature)
        self._ledger.waited += self._clock.monotonic() - began
        if cool:
            self._policy.reset()
            self._decision = Decision("run", "unknown")
            self._recorder.action("resume", self._latest())
        return cool

    def _latest(self) -> Reading | None:
        return self._readings.latest() if self._readings is not None else None

    def _decide(self, pausing_seconds: float | None) -> Decision:
        reading = self._reading = self._latest()
        if reading is None:
            return self._decision
        view = View(
            now=self._clock.monotonic(),
            number=reading.number,
            temp_ctrl_c=reading.temp_ctrl_c,
            temp_filt_c=reading.temp_filt_c,
            pressure=reading.pressure,
            pausing_seconds=pausing_seconds,
            gap=reading.gaps != self._gaps,
        )
        self._gaps = reading.gaps
        self._has_temperature = self._has_temperature or reading.temp_ctrl_c is not None
        before, self._decision = self._decision, self._policy.decide(view)
        if before.reduce_batch != self._decision.reduce_batch:
            self._recorder.action("split" if self._decision.reduce_batch else "unsplit", reading)
        self._recorder.decided(self._decision)
        return self._decision

    def _drain(self, drain: Callable[[], None]) -> None:
        """What the device had still to do was work too."""
        began = self._clock.monotonic()
        drain()
        self._ledger.book(self._clock.monotonic() - began)
        self._ledger.reckon(self._decision.duty)

    def _sleep(self) -> None:
        began = self._clock.monotonic()
        self._clock.sleep(min(self._ledger.owed, _LONGEST_SLEEP_SECONDS), self._stop_requested)
        slept = self._clock.monotonic() - began
        self._ledger.forgive()
        self._ledger.waited += slept
        self._recorder.slept(slept)

    def _pause(self, decision: Decision, phase: Phase, step: int) -> None:
        """Waits until the policy lets go; the stop is looked for all the while."""
        began = self._clock.monotonic()
        self._ledger.forgive()
        self._pauses += 1
        self._recorder.doing("pause", step)
        self._recorder.action("pause", self._reading)
        self._say_seldom(f"{_place(phase, step)}: paused to cool down ({decision.reason}).")
        self._note_duty(0.0)
        try:
            self._wait_out(began, phase, step)
        finally:
            self._ledger.waited += self._clock.monotonic() - began
        self._recorder.doing(_TRACED[phase], step)
        self._recorder.action("resume", self._reading)

    def _wait_out(self, began: float, phase: Phase, step: int) -> None:
        while True:
            self._clock.sleep(self._config.poll_interval, self._stop_requested)
            if self._stop_requested():
                return
            paused = self._clock.monotonic() - began
            decision = self._decide(paused)
            if decision.action == "run":
                return
            if decision.action == "stop":
                self._stop(decision, phase, step)
            if paused > self._config.max_pause_seconds:
                limit = f"after a pause of {paused:.0f} s (thermal.max_pause_seconds). {_HINT}"
                reason = f"still {self._shown_temperature()} {limit}"
                self._stop(Decision("stop", decision.tier, reason=reason), phase, step)

    def _shown_temperature(self) -> str:
        reading = self._reading
        if reading is None or reading.temp_ctrl_c is None or reading.temp_filt_c is None:
            return "no valid temperature"
        return f"{max(reading.temp_ctrl_c, reading.temp_filt_c):.1f} °C"

    def _stop(self, decision: Decision, phase: Phase, step: int) -> None:
        """Ends the run, or what it is at; the sums of a step that is not done are void."""
        self._recorder.action("stop", self._reading)
        self._ledger.drop_step()
        again = (phase, step) == self._stopped_at and phase == "train"
        self._stops_in_a_row = self._stops_in_a_row + 1 if again else 1
        self._stopped_at = phase, step
        often = f"for the {self._stops_in_a_row}. time " if again else ""
        raise ThermalShutdownError(f"{_place(phase, step)}: stopped {often}({decision.reason}).")

    def _note_duty(self, duty: float) -> None:
        if self._readings is not None:
            self._readings.note_duty(duty)

    def _warn_of_slowness(self) -> None:
        well = self._decision.tier not in ("hot", "critical") and not (
            self._reading and self._reading.pressure
        )
        if well and (text := self._watch.warning()) is not None:
            self._recorder.action("slow", self._reading)
            self._say(text)

    def _say_seldom(self, text: str) -> None:
        now = self._clock.monotonic()
        if self._last_line is not None and now - self._last_line < _SILENCE_SECONDS:
            return
        self._last_line = now
        waited = f"{self._ledger.waited:.0f} s of waiting in all"
        more = f" {self._pauses} pauses so far, {waited}." if self._pauses > 1 else ""
        self._say(text + more)


def _place(phase: Phase, step: int) -> str:
    """Where in the run, at the beginning of a line."""
    if phase == "train":
        return f"Step {step}"
    return f"Evaluation after step {step}" if phase == "eval" else f"Answers after step {step}"
