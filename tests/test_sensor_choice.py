"""Which source a run takes, and what it is told about it; sources and system are injected."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
from laboratory import Fake, reading

from bit_axon.errors import ConfigError
from bit_axon.profiling.clock import Clock, SystemClock, VirtualClock
from bit_axon.profiling.sensors.base import Probe, Source, Thresholds
from bit_axon.profiling.sensors.registry import Choice, all_sources, auto_order, choose
from bit_axon.profiling.thermal import ThermalMonitor
from bit_axon.schema import SimulationConfig, ThermalConfig
from bit_axon.training.cooling import assembly
from bit_axon.training.cooling.assembly import ThermalSetup, set_up

ON_MACOS = ("smc", "iohid", "macmon")
OF_A_GPU = Thresholds(warm=80.0, target=93.0, resume=88.0, pause=95.0, stop=103.0)


class Machine:
    """A system on which some sources answer; it remembers what was asked of them.

    Args:
        platform: as `sys.platform`.
        answers: the sources that answer, with what they offer; all others are refused.
    """

    def __init__(self, platform: str, **answers: Probe):
        self.platform, self._answers = platform, answers
        self.made: dict[str, Fake] = {}
        self.probed: list[str] = []

    @property
    def builders(self) -> Mapping[str, Callable[[Clock], Source]]:
        """For every name of the real ones."""
        return {source.name: partial(self._build, source.name) for source in all_sources()}

    def choose(self, device: str = "gpu", **options: object) -> Choice:
        config = ThermalConfig(**options)  # type: ignore[arg-type]
        return choose(config, VirtualClock(), device=device, platform=self.platform, builders=self.builders)

    @property
    def open(self) -> list[str]:
        """The sources that were probed and not closed since."""
        return [name for name in self.probed if not self.made[name].closed]

    def _build(self, name: str, clock: Clock) -> Source:
        probe = self._answers.get(name, Probe(False, f"{name} is not there"))
        self.made[name] = Asked(name, probe, self.probed)
        return self.made[name]


class Asked(Fake):
    """Notes that it is probed."""

    def __init__(self, name: str, probe: Probe, log: list[str]):
        super().__init__(name, reading(("gpu", 60.0)), probe)
        self._log = log

    def probe(self) -> Probe:
        self._log.append(self.name)
        return super().probe()


def there(detail: str = "two sensors", thresholds: Thresholds | None = None) -> Probe:
    return Probe(True, detail, thresholds)


def setup_of(machine: Machine, monkeypatch: pytest.MonkeyPatch, **options: object) -> ThermalSetup:
    """What a run on that machine would be held by."""
    injected = partial(choose, platform=machine.platform, builders=machine.builders)
    monkeypatch.setattr(assembly, "choose", injected)
    return set_up(ThermalConfig(**options), device="gpu")  # type: ignore[arg-type]


# Which one


@pytest.mark.parametrize(
    ("platform", "device", "order"),
    [
        ("darwin", "gpu", ON_MACOS),
        ("darwin", "cpu", ON_MACOS),
        ("linux", "gpu", ("nvml", "linux")),
        ("linux", "cpu", ("linux",)),
        ("win32", "gpu", ()),
    ],
)
def test_the_best_that_answers_is_taken(platform: str, device: str, order: tuple[str, ...]) -> None:
    assert auto_order(device, platform) == order
    for number, best in enumerate(order):
        machine = Machine(platform, **{name: there(f"that of {name}") for name in order[number:]})
        choice = machine.choose(device)
        assert (choice.name, choice.detail) == (best, f"that of {best}")
        rest = order[number + 1 :] if platform == "darwin" else ()  # elsewhere they measure other chips
        assert [source.name for source in choice.sources] == [best, *rest]
        assert choice.refused == tuple(f"{name}: {name} is not there" for name in order[:number])
        assert [name for name in machine.probed if name != "pressure"] == list(order[: number + 1])
        assert machine.open == [best]


def test_root_is_never_asked_for_unasked() -> None:
    for platform in ("darwin", "linux", "win32"):
        for device in ("cpu", "gpu"):
            assert "powermetrics" not in auto_order(device, platform)


def test_sources_to_fall_back_to_are_probed_by_the_monitor_when_their_turn_comes() -> None:
    machine = Machine("darwin", smc=there(), iohid=there(), macmon=there())
    choice = machine.choose()
    assert machine.probed == ["smc", "pressure"]
    clock = VirtualClock()
    monitor = ThermalMonitor(sources=choice.sources, clock=clock)
    monitor.poll()
    assert (monitor.source_name, machine.probed) == ("smc", ["smc", "pressure"])
    machine.made["smc"]._reading = OSError("gone")
    for _ in range(10):
        clock.advance(1.0)
        monitor.poll()
    assert (monitor.source_name, machine.probed) == ("iohid", ["smc", "pressure", "iohid"])


@pytest.mark.parametrize("source", ["auto", "smc", "iohid", "macmon"])
def test_pressure_is_read_beside_any_temperature_of_a_mac(source: str) -> None:
    machine = Machine("darwin", smc=there(), iohid=there(), macmon=there(), pressure=there("nominal"))
    choice = machine.choose(source=source)
    assert choice.pressure is machine.made["pressure"]
    assert choice.name == ("smc" if source == "auto" else source)
    assert set(machine.open) == {"pressure", choice.name}
    choice.close()
    assert machine.open == []


def test_pressure_is_of_macs_and_powermetrics_tells_its_own() -> None:
    machine = Machine("linux", linux=there(), pressure=there())
    assert machine.choose("cpu").pressure is None and machine.probed == ["linux"]
    machine = Machine("darwin", powermetrics=there(), pressure=there())
    choice = machine.choose(source="powermetrics")
    assert choice.name == "powermetrics" and machine.probed == ["powermetrics"]
    assert choice.pressure is machine.made["powermetrics"] and not choice.has_temperature
    machine = Machine("darwin", smc=there())
    assert machine.choose().pressure is None and machine.probed == ["smc", "pressure"]


def test_pressure_may_be_all_there_is() -> None:
    machine = Machine("darwin", pressure=there("nominal"))
    choice = machine.choose()
    assert choice.sources == () and choice.pressure is machine.made["pressure"]
    assert choice.name == "pressure" and choice.thresholds is None
    assert choice.refused == tuple(f"{name}: {name} is not there" for name in ON_MACOS)
    assert machine.open == ["pressure"]


def test_pressure_can_be_asked_for_alone() -> None:
    machine = Machine("darwin", smc=there(), pressure=there("nominal"))
    choice = machine.choose(source="pressure")
    assert (choice.name, choice.sources, choice.detail) == ("pressure", (), "nominal")
    assert machine.probed == ["pressure"]


# What if none answers


def test_with_a_warning_nothing_is_read() -> None:
    choice = Machine("linux").choose(on_missing="warn")
    assert choice == Choice(refused=("nvml: nvml is not there", "linux: linux is not there"))
    assert choice.name == "none"


def test_a_pressure_that_is_not_wanted_alone_is_given_back() -> None:
    machine = Machine("darwin", pressure=there())
    assert machine.choose(on_missing="warn").pressure is None
    assert machine.open == []


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_on_missing_error_names_what_was_tried(platform: str) -> None:
    machine = Machine(platform)
    with pytest.raises(ConfigError) as raised:
        machine.choose(on_missing="error")
    said = str(raised.value)
    assert raised.value.keys == ("thermal.on_missing",)
    assert "wanted a temperature sensor; got " in said and "thermal=off" in said
    for name in auto_order("gpu", platform):
        assert f"{name}: {name} is not there" in said
    assert machine.open == []
    assert platform != "win32" or "no source for this system" in said


def test_an_error_leaves_no_pressure_open() -> None:
    """It is probed, and no temperature: not enough for a run that demands one."""
    machine = Machine("darwin", pressure=there())
    with pytest.raises(ConfigError):
        machine.choose(on_missing="error")
    assert machine.open == []


# What was asked for


@pytest.mark.parametrize("name", ["smc", "iohid", "macmon", "powermetrics", "pressure", "linux", "nvml"])
def test_a_source_that_was_asked_for_and_does_not_answer_is_an_error(name: str) -> None:
    others = {source.name: there() for source in all_sources() if source.name != name}
    machine = Machine("linux", **others)
    with pytest.raises(ConfigError) as raised:
        machine.choose(source=name)
    assert raised.value.keys == ("thermal.source",)
    assert f"wanted thermal.source={name} to answer; got {name} is not there. " in str(raised.value)
    assert "bit-axon thermal doctor" in str(raised.value)
    assert machine.open == [] and machine.probed == [name]


def test_an_error_about_a_source_leaves_the_pressure_beside_it_closed() -> None:
    machine = Machine("darwin", pressure=there())
    with pytest.raises(ConfigError):
        machine.choose(source="smc")
    assert machine.open == []


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_source_that_was_asked_for_stands_alone(platform: str) -> None:
    """Whoever names a source wants no other in its place, and no other order."""
    machine = Machine(platform, **{source.name: there() for source in all_sources()})
    choice = machine.choose(source="linux")
    assert [source.name for source in choice.sources] == ["linux"] and choice.refused == ()


def test_sources_that_are_no_machine_have_no_pressure_beside_them(tmp_path: Path) -> None:
    machine = Machine("darwin", pressure=there())
    simulated = Fake("simulated", reading(("cpu", 50.0)))
    config, clock = ThermalConfig(source="simulated"), VirtualClock()
    found = choose(
        config,
        clock,
        device="gpu",
        simulated=simulated,
        platform=machine.platform,
        builders=machine.builders,
    )
    assert found.sources == (simulated,) and found.pressure is None
    assert machine.choose(source="none") == Choice()
    with pytest.raises(ConfigError, match="replay_file") as raised:
        machine.choose(source="replay")
    assert raised.value.keys == ("thermal.replay_file",)
    with pytest.raises(ConfigError, match=r"absent\.csv"):
        machine.choose(source="replay", replay_file=str(tmp_path / "absent.csv"))
    assert machine.probed == []


# Thresholds


def test_a_source_brings_its_thresholds_unless_the_config_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine("linux", nvml=there("a GPU", OF_A_GPU), linux=there("a CPU"))
    assert setup_of(machine, monkeypatch).thresholds == OF_A_GPU
    own = setup_of(machine, monkeypatch, stop_temp=99.0).thresholds
    assert own == Thresholds(warm=80.0, target=93.0, resume=88.0, pause=95.0, stop=99.0)
    own = setup_of(machine, monkeypatch, pause_temp=70.0).thresholds
    assert own == Thresholds(warm=55.0, target=68.0, resume=63.0, pause=70.0, stop=103.0)
    assert setup_of(machine, monkeypatch, source="linux").thresholds == Thresholds()


def test_limits_are_measured_by_the_thresholds_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """90 °C is full speed for a chip that pauses at 95 °C, whatever a fanless Mac does."""
    machine = Machine("linux", nvml=there("a GPU", OF_A_GPU))
    found = setup_of(machine, monkeypatch, max_speed_temp=90.0, target_temp=97.0).thresholds
    assert found == Thresholds(warm=90.0, target=97.0, resume=88.0, pause=95.0, stop=103.0)


def test_limits_that_do_not_suit_the_source_are_refused_and_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are in order for a fanless Mac, so that only the source can tell."""
    machine = Machine("linux", nvml=there("a GPU", Thresholds(40.0, 48.0, 45.0, 50.0, 60.0)))
    with pytest.raises(ConfigError, match=r"pause_temp below thermal\.stop_temp"):
        setup_of(machine, monkeypatch, pause_temp=70.0)
    assert machine.open == []


# What a run is told


def refusing(name: str) -> str:
    return f"{name}: {name} is not there"


@pytest.mark.parametrize(
    ("platform", "answers", "options", "note"),
    [
        (
            "darwin",
            {"smc": there("8 GPU and 21 CPU keys")},
            {},
            "Temperature from smc: 8 GPU and 21 CPU keys. The run is held at 83 °C and stopped at 95 °C.",
        ),
        (
            "darwin",
            {"macmon": there("macmon 0.8")},
            {"policy": "tiers", "pause_temp": 80.5},
            f"Temperature from macmon: macmon 0.8 (not {refusing('smc')}; {refusing('iohid')}). "
            "The run is paused at 80.5 °C and stopped at 95 °C.",
        ),
        (
            "linux",
            {"nvml": there("a GPU", OF_A_GPU)},
            {"policy": "off"},
            "Temperature from nvml: a GPU. It is recorded; nothing is done about it (thermal.policy=off).",
        ),
        (
            "linux",
            {},
            {},
            "No temperature sensor answers (tried: nvml, linux; `bit-axon thermal doctor` says more): "
            "this run has no thermal limits.",
        ),
        (
            "win32",
            {},
            {"policy": "off"},
            "No temperature sensor answers (tried: none known; `bit-axon thermal doctor` says more): "
            "this run has no thermal limits.",
        ),
    ],
)
def test_one_plain_note(
    platform: str,
    answers: dict[str, Probe],
    options: dict[str, object],
    note: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert setup_of(Machine(platform, **answers), monkeypatch, **options).notes() == (note,)


def test_simulated_time_is_said_and_real_time_is_not() -> None:
    (note,) = set_up(ThermalConfig(source="simulated"), device="cpu").notes()
    assert note.startswith("Temperature from simulated: simulated chip of 18 W")
    assert note.endswith("stopped at 95 °C. Time is simulated.")
    real = ThermalConfig(source="simulated", simulation=SimulationConfig(clock="real"))
    (note,) = set_up(real, device="cpu").notes()
    assert note.endswith("stopped at 95 °C.")


def test_no_source_wanted_is_no_news() -> None:
    assert set_up(ThermalConfig(source="none"), device="cpu").notes() == ()


def test_pressure_alone_is_not_called_a_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be held at a temperature that nobody reads."""
    (note,) = setup_of(Machine("darwin", pressure=there("nominal")), monkeypatch).notes()
    assert "pressure" in note and refusing("smc") in note
    assert not note.startswith("Temperature") and "°C" not in note


# What a run is tagged with


@pytest.mark.parametrize(
    ("machine", "options", "gated"),
    [
        (Machine("darwin", smc=there()), {}, True),
        (Machine("darwin", smc=there()), {"policy": "tiers"}, True),
        (Machine("darwin", smc=there()), {"policy": "off"}, False),
        (Machine("darwin", pressure=there()), {}, True),
        (Machine("darwin", pressure=there()), {"on_missing": "warn"}, False),
        (Machine("linux"), {}, False),
        (Machine("linux"), {"policy": "tiers"}, False),
        (Machine("linux", linux=there()), {"source": "none"}, False),
    ],
)
def test_gated_only_with_a_sensor_and_a_policy(
    machine: Machine, options: dict[str, object], gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = setup_of(machine, monkeypatch, **options)
    assert setup.facts["gated"] is gated
    assert (setup.facts["thresholds"] is None) == (setup.facts["source"] == "none")
    assert setup.facts["policy"] == setup.config.policy and setup.facts["simulated"] is False


def test_a_simulation_is_tagged_as_one() -> None:
    facts = set_up(ThermalConfig(source="simulated", policy="off"), device="cpu").facts
    assert (facts["source"], facts["simulated"], facts["gated"]) == ("simulated", True, False)


def test_this_machine_has_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real sources on the real system: one note, whatever it says."""
    setup = set_up(ThermalConfig(), device="cpu")
    setup.choice.close()
    assert isinstance(setup.clock, SystemClock)
    assert len(setup.notes()) == 1 and setup.facts["gated"] == setup.has_sensor
