"""The Linux source on a fake /sys tree and a fake psutil."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bit_axon.errors import SensorError
from bit_axon.profiling.reading import SensorValue
from bit_axon.profiling.sensors.base import Thresholds
from bit_axon.profiling.sensors.linux import LinuxSource

Temperatures = dict[str, tuple[float, float | None]]  # label: °C, critical °C


class FakePsutil:
    """psutil on Linux, with an answer of the test's own."""

    def __init__(self, answer: dict[str, list[Any]] | None = None):
        self.answer = answer or {}
        self.calls = 0

    def sensors_temperatures(self) -> dict[str, list[Any]]:
        self.calls += 1
        return self.answer


def entry(label: str, current: float, critical: float | None = None) -> Any:
    return SimpleNamespace(label=label, current=current, high=None, critical=critical)


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")
    return path


def chip(root: Path, number: int, name: str, temperatures: Temperatures, device: str | None = None) -> Path:
    """A hwmon folder; a label that begins with "temp" is a file of that name without a label."""
    folder = root / "class/hwmon" / f"hwmon{number}"
    write(folder / "name", name)
    for index, (label, (temp, crit)) in enumerate(temperatures.items(), start=1):
        write(folder / f"temp{index}_input", round(temp * 1000))
        if not label.startswith("temp"):
            write(folder / f"temp{index}_label", label)
        if crit is not None:
            write(folder / f"temp{index}_crit", round(crit * 1000))
    if device is not None:
        target = root / "devices" / device
        target.mkdir(parents=True)
        (folder / "device").symlink_to(target)
    return folder


def zone(root: Path, number: int, kind: str, temp: float, critical: float | None = None) -> Path:
    folder = root / "class/thermal" / f"thermal_zone{number}"
    write(folder / "type", kind)
    write(folder / "temp", round(temp * 1000))
    write(folder / "trip_point_0_type", "passive")
    write(folder / "trip_point_0_temp", 60000)
    if critical is not None:
        write(folder / "trip_point_1_type", "critical")
        write(folder / "trip_point_1_temp", round(critical * 1000))
    return folder


def source(root: Path, psutil: Any = None) -> LinuxSource:
    return LinuxSource(root, psutil or FakePsutil())


def values(linux: LinuxSource) -> dict[str, tuple[str, float]]:
    return {sensor.name: (sensor.group, sensor.temp_c) for sensor in linux.read().sensors}


def test_an_intel_machine(tmp_path):
    chip(tmp_path, 0, "acpitz", {"temp1": (27.8, 119)})
    chip(tmp_path, 1, "nvme", {"Composite": (38.85, 84.85), "Sensor 1": (41.85, None)})
    chip(tmp_path, 2, "coretemp", {"Package id 0": (71, 100), "Core 0": (69, 100), "Core 4": (70.5, 100)})
    chip(tmp_path, 3, "iwlwifi_1", {"temp1": (44, None)})
    fan = write(tmp_path / "class/hwmon/hwmon4/fan1_input", 2100)
    write(fan.with_name("fan2_input"), 2400)
    zone(tmp_path, 0, "x86_pkg_temp", 71)  # the same sensor as coretemp's package
    zone(tmp_path, 1, "acpitz", 27.8)
    psutil = FakePsutil({"coretemp": [entry("Package id 0", 20)]})
    linux = source(tmp_path, psutil)
    probe = linux.probe()
    assert probe.ok and "coretemp Package id 0" in probe.detail and "nvme" not in probe.detail
    assert values(linux) == {
        "nvme Composite": ("chassis", 38.85),
        "nvme Sensor 1": ("other", 41.85),
        "coretemp Package id 0": ("cpu", 71.0),
        "coretemp Core 0": ("cpu", 69.0),
        "coretemp Core 4": ("cpu", 70.5),
        "iwlwifi_1 temp1": ("other", 44.0),
    }
    assert linux.read().fan_rpm == 2400
    assert psutil.calls == 0


@pytest.mark.parametrize(
    "temperatures, name, temp",
    [
        ({"Tctl": (90, None), "Tdie": (63, None), "Tccd1": (70, None)}, "k10temp Tdie", 63.0),
        ({"Tctl": (90, None), "Tccd1": (61, None), "Tccd2": (72, None)}, "k10temp Tccd", 72.0),
        ({"Tctl": (74.5, None)}, "k10temp Tctl", 74.5),
    ],
)
def test_a_ryzen_has_one_sensor_and_not_the_one_that_drives_the_fans(tmp_path, temperatures, name, temp):
    chip(tmp_path, 0, "k10temp", temperatures)
    linux = source(tmp_path)
    assert linux.probe().ok
    assert linux.read().sensors == (SensorValue(name, "cpu", temp),)


def test_one_chiplet_that_falls_silent_leaves_the_others(tmp_path):
    folder = chip(tmp_path, 0, "k10temp", {"Tccd1": (61, None), "Tccd2": (72, None)})
    linux = source(tmp_path)
    linux.probe()
    (folder / "temp2_input").unlink()
    assert linux.read().sensors[0].temp_c == 61


def test_an_amd_gpu(tmp_path):
    chip(tmp_path, 0, "k10temp", {"Tctl": (60, None)})
    chip(tmp_path, 1, "amdgpu", {"edge": (66, 100), "junction": (84, 110), "mem": (90, 105)})
    linux = source(tmp_path)
    probe = linux.probe()
    assert values(linux)["amdgpu edge"] == ("gpu", 66.0)
    assert values(linux)["amdgpu junction"] == ("gpu", 84.0)
    assert values(linux)["amdgpu mem"] == ("other", 90.0)
    assert probe.thresholds == Thresholds(warm=75, target=83, resume=78, pause=85, stop=95)


def test_thermal_zones_serve_where_hwmon_has_no_such_part(tmp_path):
    zone(tmp_path, 0, "cpu-thermal", 64.2, critical=110)
    zone(tmp_path, 1, "soc_thermal", 60)
    zone(tmp_path, 2, "gpu-thermal", 58)
    zone(tmp_path, 3, "pmic-thermal", 45)
    linux = source(tmp_path)
    probe = linux.probe()
    assert values(linux) == {
        "cpu-thermal zone": ("cpu", 64.2),
        "soc_thermal zone": ("cpu", 60.0),
        "gpu-thermal zone": ("gpu", 58.0),
        "pmic-thermal zone": ("other", 45.0),
    }
    assert probe.thresholds == Thresholds(warm=85, target=93, resume=88, pause=95, stop=105)


def test_the_package_zone_alone_is_enough(tmp_path):
    zone(tmp_path, 0, "x86_pkg_temp", 71)
    linux = source(tmp_path)
    assert linux.probe().ok
    assert linux.read().sensors == (SensorValue("x86_pkg_temp zone", "cpu", 71.0),)


def test_names_do_not_depend_on_the_numbers_of_hwmon(tmp_path):
    names = []
    for boot, (first, second) in enumerate([(0, 1), (5, 2)]):
        root = tmp_path / f"boot{boot}"
        chip(root, first, "coretemp", {"Package id 0": (50, None), "Core 0": (51, None)}, "coretemp.0")
        chip(root, second, "coretemp", {"Package id 1": (60, None), "Core 0": (61, None)}, "coretemp.1")
        linux = source(root)
        linux.probe()
        names.append(values(linux))
    assert names[0] == names[1]
    assert names[0]["coretemp Core 0 #2"] == ("cpu", 61.0)


@pytest.mark.parametrize(
    "crit, expected",
    [
        (100, Thresholds(warm=75, target=83, resume=78, pause=85, stop=95)),
        (80, Thresholds(warm=55, target=63, resume=58, pause=65, stop=75)),
        (125, Thresholds(warm=100, target=108, resume=103, pause=110, stop=120)),
        (79.9, None),
        (125.1, None),
        (0, None),
        (65261.85, None),
        (None, None),
    ],
)
def test_thresholds_follow_a_critical_temperature_that_can_be_true(tmp_path, crit, expected):
    chip(tmp_path, 0, "coretemp", {"Package id 0": (50, crit)})
    chip(tmp_path, 1, "nvme", {"Composite": (40, 90)})  # a drive's limit is not the die's
    assert source(tmp_path).probe().thresholds == expected


def test_the_lowest_of_several_limits_counts(tmp_path):
    chip(tmp_path, 0, "coretemp", {"Package id 0": (50, 105), "Core 0": (50, 95), "Core 1": (50, 0)})
    thresholds = source(tmp_path).probe().thresholds
    assert thresholds is not None and (thresholds.pause, thresholds.stop) == (80, 90)


def test_a_throttle_counter_that_rises_is_a_bit_once(tmp_path):
    chip(tmp_path, 0, "coretemp", {"Package id 0": (99, None)})
    counters = tmp_path / "devices/system/cpu"
    write(counters / "cpu0/thermal_throttle/core_throttle_count", 7)
    package = write(counters / "cpu1/thermal_throttle/package_throttle_count", 40)
    linux = source(tmp_path)
    linux.probe()
    assert linux.read().throttle_bits == 0  # what was counted before the run is not the run's
    write(package, 42)
    assert linux.read().throttle_bits == 1
    assert linux.read().throttle_bits == 0
    package.unlink()  # the core went offline
    assert linux.read().throttle_bits == 0
    write(package, 43)
    assert linux.read().throttle_bits == 1


def test_without_throttle_counters_nothing_is_known_of_throttling(tmp_path):
    chip(tmp_path, 0, "k10temp", {"Tctl": (60, None)})
    linux = source(tmp_path)
    linux.probe()
    assert linux.read().throttle_bits is None
    assert linux.read().fan_rpm is None


def test_a_sensor_that_vanishes_or_talks_nonsense_is_left_out(tmp_path):
    folder = chip(
        tmp_path, 0, "coretemp", {"Package id 0": (71, None), "Core 0": (70, None), "Core 1": (69, None)}
    )
    linux = source(tmp_path)
    linux.probe()
    (folder / "temp1_input").unlink()
    (folder / "temp2_input").write_text("N/A\n")
    assert [sensor.name for sensor in linux.read().sensors] == ["coretemp Core 1"]
    write(folder / "temp2_input", 65000)  # it was busy for a moment
    assert len(linux.read().sensors) == 2
    write(folder / "temp9_input", 99000)  # not there at the probe
    assert len(linux.read().sensors) == 2
    shutil.rmtree(folder)
    with pytest.raises(SensorError, match="no answer from coretemp Package id 0, coretemp Core 0"):
        linux.read()


def test_a_drive_alone_does_not_tell_how_hot_the_die_is(tmp_path):
    folder = chip(tmp_path, 0, "k10temp", {"Tctl": (60, None)})
    chip(tmp_path, 1, "nvme", {"Composite": (40, None)})
    linux = source(tmp_path)
    assert linux.probe().ok
    (folder / "temp1_input").unlink()
    with pytest.raises(SensorError, match="a temperature of CPU or GPU"):
        linux.read()
    assert not source(tmp_path).probe().ok


def test_nonsense_values_are_passed_on_for_the_monitor_to_judge(tmp_path):
    chip(tmp_path, 0, "coretemp", {"Package id 0": (-128, None), "Core 0": (0, None)})
    linux = source(tmp_path)
    linux.probe()
    assert [sensor.temp_c for sensor in linux.read().sensors] == [-128.0, 0.0]


def test_psutil_serves_where_the_tree_shows_nothing(tmp_path):
    answer = {
        "coretemp": [entry("Package id 0", 71.0, 100.0), entry("Core 0", 70.0), entry("Core 1", 69.0)],
        "acpitz": [entry("", 27.8)],
        "nvme": [entry("Composite", 40.0, 84.0)],
        "cpu_thermal": [entry("", 66.0, None)],
    }
    psutil = FakePsutil(answer)
    linux = source(tmp_path / "absent", psutil)
    probe = linux.probe()
    assert probe.ok
    assert probe.thresholds == Thresholds(warm=75, target=83, resume=78, pause=85, stop=95)
    assert values(linux) == {
        "coretemp Package id 0": ("cpu", 71.0),
        "coretemp Core 0": ("cpu", 70.0),
        "coretemp Core 1": ("cpu", 69.0),
        "nvme Composite": ("chassis", 40.0),
        "cpu_thermal temp1": ("cpu", 66.0),
    }
    del answer["coretemp"][1]  # psutil leaves out what does not answer
    assert values(linux)["coretemp Core 1"] == ("cpu", 69.0)
    assert "coretemp Core 0" not in values(linux)
    answer.clear()
    with pytest.raises(SensorError):
        linux.read()


@pytest.mark.parametrize("psutil", [FakePsutil(), SimpleNamespace()])
def test_an_empty_machine_says_what_was_looked_for(tmp_path, psutil):
    """A virtual machine; and macOS, where psutil has no such function."""
    (tmp_path / "class/thermal").mkdir(parents=True)
    linux = LinuxSource(tmp_path, psutil)
    probe = linux.probe()
    assert not probe.ok
    for words in ("hwmon*/temp*_input", "thermal_zone*/temp", "psutil", "virtual machines"):
        assert words in probe.detail
    with pytest.raises(SensorError):
        linux.read()
    linux.close()
    linux.close()


def test_many_cores_are_counted_not_listed(tmp_path):
    chip(tmp_path, 0, "coretemp", {f"Core {core}": (60, None) for core in range(64)})
    detail = source(tmp_path).probe().detail
    assert "and 60 more" in detail and len(detail) < 100


def test_a_second_probe_finds_what_came_later(tmp_path):
    linux = source(tmp_path)
    assert not linux.probe().ok
    chip(tmp_path, 0, "k10temp", {"Tctl": (60, None)})
    assert linux.probe().ok


def test_this_machine_answers_or_says_why_not():
    linux = LinuxSource()
    probe = linux.probe()
    assert probe.detail
    if probe.ok:
        assert linux.read().sensors
    linux.close()
