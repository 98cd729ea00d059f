"""The sources by name, and which of them a run takes.

A source is one small file; this is the one place that knows them all.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bit_axon.errors import ConfigError, problem
from bit_axon.profiling.clock import Clock, SystemClock
from bit_axon.profiling.sensors.base import Probe, Source, Thresholds
from bit_axon.profiling.sensors.iohid import IoHidSource
from bit_axon.profiling.sensors.linux import LinuxSource
from bit_axon.profiling.sensors.macmon import MacmonSource
from bit_axon.profiling.sensors.nvml import NvmlSource
from bit_axon.profiling.sensors.powermetrics import PowermetricsSource
from bit_axon.profiling.sensors.pressure import PressureSource
from bit_axon.profiling.sensors.replay import ReplaySource
from bit_axon.profiling.sensors.smc import SmcSource
from bit_axon.schema import ThermalConfig

_BUILDERS: Mapping[str, Callable[[Clock], Source]] = {
    "smc": lambda clock: SmcSource(),
    "iohid": lambda clock: IoHidSource(),
    "macmon": lambda clock: MacmonSource(clock=clock),
    "pressure": lambda clock: PressureSource(),
    "powermetrics": lambda clock: PowermetricsSource(clock=clock),
    "nvml": lambda clock: NvmlSource(),
    "linux": lambda clock: LinuxSource(),
}
# Best first. The GPU's own sensor counts only where the GPU does the work. `powermetrics` needs root: it is
# taken only when it is asked for.
_AUTO = {
    ("darwin", "gpu"): ("smc", "iohid", "macmon"),
    ("darwin", "cpu"): ("smc", "iohid", "macmon"),
    ("linux", "gpu"): ("nvml", "linux"),
    ("linux", "cpu"): ("linux",),
}


_PRESSURE_ONLY = ("pressure", "powermetrics")


@dataclass(frozen=True)
class Choice:
    """What a run reads.

    Attributes:
        sources: the one that answered first, then those to fall back to, unprobed; none where there is
            only pressure.
        pressure: the system's own signal, read beside them; it may be all there is.
        detail: what the first source offers.
        thresholds: tiers that suit it.
        refused: why each source that is better did not answer.
    """

    sources: tuple[Source, ...] = ()
    pressure: Source | None = None
    detail: str = ""
    thresholds: Thresholds | None = None
    refused: tuple[str, ...] = ()

    @property
    def has_temperature(self) -> bool:
        """Whether there is more than thermal pressure."""
        return bool(self.sources)

    @property
    def name(self) -> str:
        """Of the source that decides."""
        if self.sources:
            return self.sources[0].name
        return self.pressure.name if self.pressure else "none"

    def close(self) -> None:
        """Gives everything back."""
        for source in (*self.sources, *([self.pressure] if self.pressure else [])):
            source.close()


def all_sources(clock: Clock | None = None) -> list[Source]:
    """Every source that reads a machine, in the order the doctor shows them."""
    return [build(clock or SystemClock()) for build in _BUILDERS.values()]


def auto_order(device: str, platform: str = sys.platform) -> tuple[str, ...]:
    """The sources `thermal.source=auto` tries, best first; `device` is "cpu" or "gpu"."""
    return _AUTO.get((platform, device), ())


def choose(
    config: ThermalConfig,
    clock: Clock,
    *,
    device: str,
    simulated: Source | None = None,
    platform: str = sys.platform,
    builders: Mapping[str, Callable[[Clock], Source]] = _BUILDERS,
) -> Choice:
    """The best source that answers, or the one that was asked for.

    Args:
        config: names the source.
        clock: of sources that run a child or replay.
        device: "cpu" or "gpu": what the model runs on.
        simulated: the source of `thermal.source=simulated`.
        platform: as `sys.platform`.
        builders: by name; tests bring their own.

    Raises:
        ConfigError: the source that was asked for does not answer, or none does and
            `thermal.on_missing=error`.
    """
    if config.source == "none":
        return Choice()
    if config.source == "simulated":
        assert simulated is not None
        return _asked_for(simulated)
    if config.source == "replay":
        return _asked_for(ReplaySource(_replay_file(config), clock))
    if config.source != "auto":
        found = _asked_for(builders[config.source](clock))
        beside = None if found.pressure else _pressure(config, clock, platform, builders)
        return found if beside is None else replace(found, pressure=beside)
    return _best(config, clock, auto_order(device, platform), platform, builders)


def _asked_for(source: Source) -> Choice:
    probe = source.probe()
    if not probe.ok:
        source.close()
        remedy = "See what answers with `bit-axon thermal doctor`, or use thermal=auto."
        text = problem(f"thermal.source={source.name} to answer", probe.detail, remedy)
        raise ConfigError(text, keys=("thermal.source",))
    if source.name in _PRESSURE_ONLY:
        return Choice((), source, probe.detail, probe.thresholds)
    return Choice((source,), None, probe.detail, probe.thresholds)


def _best(
    config: ThermalConfig,
    clock: Clock,
    names: Sequence[str],
    platform: str,
    builders: Mapping[str, Callable[[Clock], Source]],
) -> Choice:
    refused: list[str] = []
    found: tuple[Source, Probe] | None = None
    rest: list[Source] = []
    for name in names:
        source = builders[name](clock)
        if found is not None:
            if platform == "darwin":  # its sources measure the same chip; elsewhere limits would not fit
                rest.append(source)
            continue
        probe = source.probe()
        if probe.ok:
            found = source, probe
        else:
            source.close()
            refused.append(f"{name}: {probe.detail}")
    if found is None and config.on_missing == "error":
        raise _none_answers(refused)
    wanted = found is not None or config.on_missing == "pressure"
    pressure = _pressure(config, clock, platform, builders) if wanted else None
    if found is not None:
        source, probe = found
        return Choice((source, *rest), pressure, probe.detail, probe.thresholds, tuple(refused))
    if pressure is not None:
        return Choice((), pressure, "the system's own signal", None, tuple(refused))
    return Choice(refused=tuple(refused))


def _none_answers(refused: Sequence[str]) -> ConfigError:
    got = "; ".join(refused) or "no source for this system"
    remedy = "Use thermal.on_missing=warn, or thermal=off."
    return ConfigError(problem("a temperature sensor", got, remedy), keys=("thermal.on_missing",))


def _pressure(
    config: ThermalConfig, clock: Clock, platform: str, builders: Mapping[str, Callable[[Clock], Source]]
) -> Source | None:
    """The Darwin signal beside a source of temperatures; powermetrics reports it itself."""
    if platform != "darwin" or config.source in ("pressure", "powermetrics"):
        return None
    source = builders["pressure"](clock)
    if source.probe().ok:
        return source
    source.close()
    return None


def _replay_file(config: ThermalConfig) -> Path:
    if config.replay_file is None:
        remedy = "Set thermal.replay_file to the thermal.csv of a run."
        raise ConfigError(problem("a trace to replay", "none", remedy), keys=("thermal.replay_file",))
    return Path(config.replay_file)
