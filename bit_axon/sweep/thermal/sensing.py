"""From `thermal` in the config to sensors that are read between trials."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bit_axon.errors import ConfigError, problem
from bit_axon.profiling.clock import SystemClock
from bit_axon.profiling.thermal import ThermalMonitor
from bit_axon.schema import ThermalConfig
from bit_axon.sweep.thermal.baseline import last_base
from bit_axon.sweep.thermal.cooldown import Cooldown
from bit_axon.sweep.thermal.starts import COOLDOWN_KEY, CooldownOptions, Sensing
from bit_axon.training.cooling.assembly import ThermalSetup, monitor_options, set_up
from bit_axon.training.cooling.presence import presence

_GIVEN = ("simulated", "replay")  # each trial begins such a machine anew


def build_cooldown(
    options: CooldownOptions,
    thermal: ThermalConfig,
    *,
    device: str,
    trials: Iterable[Mapping[str, Any]] = (),
    stop_requested: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda text: None,
) -> Cooldown:
    """The cool-down of a sweep on this machine.

    Args:
        options: of the waits.
        thermal: of the trials.
        device: "cpu" or "gpu": what they run on.
        trials: attributes of those that are there already, oldest first.
        stop_requested: ends a wait.
        say: a line for a person.

    Raises:
        ConfigError: no sensor answers where one was asked for.
    """
    if options.enabled is True:
        with sensing(thermal, device=device) as found:
            if found is None:
                key = f"{COOLDOWN_KEY}.enabled"
                remedy = "Use auto, and see what answers with `bit-axon thermal doctor`."
                raise ConfigError(problem(f"a temperature for {key}=true", "none", remedy), keys=(key,))
    return Cooldown(
        options,
        lambda: sensing(thermal, device=device),
        SystemClock(),
        base=last_base(trials, platform.node()),
        stop_requested=stop_requested,
        say=say,
    )


@contextmanager
def sensing(thermal: ThermalConfig, *, device: str) -> Iterator[Sensing | None]:
    """Opens the sensors a trial would read, and polls them as long as it is entered.

    Raises:
        ConfigError: the source that was asked for does not answer.
    """
    setup = set_up(thermal, device=device)
    with ExitStack() as stack:
        stack.callback(setup.choice.close)
        if not setup.choice.has_temperature:
            yield None
            return
        is_given = setup.choice.name in _GIVEN
        other = None if is_given else other_run()
        monitor = _monitor(setup)
        stack.enter_context(monitor)
        yield Sensing(
            monitor,
            setup.choice.name,
            warm_temp=setup.thresholds.warm,
            poll_interval=thermal.poll_interval,
            rest_temp=_rest_temp(thermal, setup),
            is_given=is_given,
            other=other,
        )


def other_run(lock: Path | None = None) -> int | None:
    """The process id of a run that heats this machine now (0 = not known); None = there is none."""
    with presence(lock) as other:
        return other  # the lock is given back at once: a run that starts must not be told of this look


def _monitor(setup: ThermalSetup) -> ThermalMonitor:
    config = setup.config
    options = monitor_options(config)
    return ThermalMonitor(
        config.poll_interval, sources=setup.choice.sources, clock=setup.clock, options=options
    )


def _rest_temp(thermal: ThermalConfig, setup: ThermalSetup) -> float | None:
    """Of a simulated machine, as after a long idle time."""
    if setup.machine is None:
        return None
    idle = replace(thermal, simulation=replace(thermal.simulation, start_temp=None))
    machine = set_up(idle, device="cpu").machine
    assert machine is not None
    return machine.sensor_temp
