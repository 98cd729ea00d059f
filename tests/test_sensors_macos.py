"""The macOS sources, against C functions of the tests' own; the SMC alone is in `test_sensors_smc.py`.

None of it shows that a Mac behaves like that: `bit-axon thermal doctor` does, on a Mac.
"""

import ctypes.util
import struct
import sys
import threading

import pytest
from macos_libraries import HidMac, NotifyingMac, Sensors

from bit_axon.errors import SensorError
from bit_axon.profiling.sensors.base import Source
from bit_axon.profiling.sensors.iohid import MOST_DIE_SENSORS, IoHidSource, choose
from bit_axon.profiling.sensors.iohid import group_of as hid_group
from bit_axon.profiling.sensors.pressure import PressureSource
from bit_axon.profiling.sensors.shared_library import Library, Loader, load_library
from bit_axon.profiling.sensors.smc import SmcSource
from bit_axon.profiling.sensors.smc_connection import machine_build, open_connection

# -- HID sensors

M1: Sensors = [
    *((f"pACC MTR Temp Sensor{n}", 70.0 + n) for n in range(2, 10)),
    ("eACC MTR Temp Sensor0", 60.0),
    ("eACC MTR Temp Sensor3", 61.0),
    ("GPU MTR Temp Sensor1", 80.0),
    ("GPU MTR Temp Sensor4", 81.0),
    ("SOC MTR Temp Sensor0", 55.0),
    ("PMU tcal", 51.85),
    *((f"PMU tdev{n}", -21.5) for n in range(1, 9)),
    *((f"PMU tdie{n}", 65.0 + n) for n in range(8, 0, -1)),
    ("NAND CH0 temp", 35.0),
    *(("gas gauge battery", 30.0 + n) for n in range(6)),
]
M2_AIR: Sensors = [
    *((f"PMU tdie{n}", 60.0 + n) for n in range(1, 12)),
    ("PMU2 tdie1", 62.0),
    ("NAND CH0 temp", 35.0),
]


def hid_source(mac: HidMac) -> IoHidSource:
    return IoHidSource(mac.load, platform="darwin")


def test_groups_of_hid_names() -> None:
    expected = {
        "pACC MTR Temp Sensor2": "cpu",
        "eACC MTR Temp Sensor0": "cpu",
        "sACC MTR Temp Sensor0": "cpu",
        "mACC MTR Temp Sensor0": "cpu",
        "PMU tdie1": "cpu",
        "PMU2 tdie8": "cpu",
        "GPU MTR Temp Sensor1": "gpu",
        "gas gauge battery": "chassis",
        "NAND CH0 temp": "chassis",
        "SOC MTR Temp Sensor0": "other",
        "PMGR SOC Die Temp Sensor0": "other",
        "PMU tdev4": "other",
        "PMU2 TR1Z": "other",
        "PMU tcal": None,
        "PMU2 tcal": None,
    }
    assert {name: hid_group(name) for name in expected} == expected


def test_a_poll_reads_the_gpu_first_and_sixteen_of_the_die() -> None:
    chosen = choose([str(name) for name, _ in M1])
    names = [c.name for c in chosen]
    assert names[:2] == ["GPU MTR Temp Sensor1", "GPU MTR Temp Sensor4"]
    assert names[-5:] == ["PMU tdie1", "PMU tdie2", "PMU tdie3", "PMU tdie4", "gas gauge battery"]
    assert len(names) == MOST_DIE_SENSORS + 1
    assert all(M1[c.place][0] == c.name for c in chosen)


def test_names_with_numbers_are_in_their_order() -> None:
    names = [c.name for c in choose(["PMU tdie10", "PMU tdie9", None, "PMU2 tdie1"])]
    assert names == ["PMU tdie9", "PMU tdie10", "PMU2 tdie1"]


def test_an_m1() -> None:
    mac = HidMac(M1)
    source = hid_source(mac)
    probe = source.probe()
    assert probe.detail == "2 GPU and 14 CPU sensors"
    assert mac.matching == {"PrimaryUsagePage": 0xFF00, "PrimaryUsage": 5}
    values = {s.name: (s.group, s.temp_c) for s in source.read().sensors}
    assert values["GPU MTR Temp Sensor4"] == ("gpu", 81.0)
    assert values["PMU tdie4"] == ("cpu", 69.0)
    assert values["gas gauge battery"] == ("chassis", 30.0)
    assert len(values) == 17
    mac.check()


def test_without_a_gpu_sensor_the_probe_says_so() -> None:
    mac = HidMac(M2_AIR)
    assert hid_source(mac).probe().detail == (
        "0 GPU and 12 CPU sensors, no sensor of the GPU: load on it hardly shows"
    )
    mac.check()


def test_every_poll_releases_what_it_took_and_asks_for_no_more_than_it_shows() -> None:
    mac = HidMac(M1)
    source = hid_source(mac)
    assert source.probe().ok
    held = mac.heap.live()
    assert len(held) == 2 + len(M1)  # the client, the list, and the list's sensors
    for library in (mac.core, mac.iokit):
        library.calls.clear()
    for _ in range(3):
        source.read()
    assert mac.heap.live() == held
    assert {name for name, *_ in mac.iokit.calls} == {
        "IOHIDServiceClientCopyEvent",
        "IOHIDEventGetFloatValue",
    }
    assert len(mac.iokit.called("IOHIDServiceClientCopyEvent")) == 3 * 17
    assert len(mac.core.called("CFRelease")) == 3 * 17
    source.close()
    source.close()
    assert mac.heap.live() == []
    mac.check()


def test_probing_again_holds_no_more() -> None:
    mac = HidMac(M2_AIR)
    source = hid_source(mac)
    source.probe()
    held = len(mac.heap.live())
    assert source.probe().ok
    assert len(mac.heap.live()) == held
    source.close()
    assert mac.heap.live() == []
    mac.check()


def test_names_that_are_missing_too_long_or_no_text() -> None:
    mac = HidMac([(None, 50.0), (42, 50.0), ("PMU tdie" + "1" * 300, 50.0), ("PMU tdie1", 51.0)])
    source = hid_source(mac)
    assert source.probe().ok
    assert [s.name for s in source.read().sensors] == ["PMU tdie1"]
    source.close()
    assert mac.heap.live() == []
    mac.check()


def test_a_sensor_without_an_answer_is_left_out_until_none_is_left() -> None:
    mac = HidMac([("PMU tdie1", 60.0), ("PMU tdie2", 61.0), ("gas gauge battery", 30.0)])
    source = hid_source(mac)
    assert source.probe().ok
    mac.sensors[0] = ("PMU tdie1", None)
    assert [s.name for s in source.read().sensors] == ["PMU tdie2", "gas gauge battery"]
    mac.sensors[1] = ("PMU tdie2", None)
    with pytest.raises(SensorError, match="no answer"):
        source.read()
    mac.check()


@pytest.mark.parametrize(
    ("mac", "words"),
    [
        (HidMac([]), "none among 0 sensors"),
        (HidMac([("PMU tcal", 51.8), ("gas gauge battery", 30.0)]), "none among 2 sensors"),
        (HidMac([("PMU tdie1", None)]), "no answer from any sensor"),
        (HidMac(M1, gives_client=False), "a client of the HID event system; got NULL"),
        (HidMac(M1, gives_services=False), "a list of HID temperature sensors; got NULL"),
    ],
)
def test_hid_probes_that_fail_release_everything(mac: HidMac, words: str) -> None:
    probe = hid_source(mac).probe()
    assert not probe.ok
    assert words in probe.detail
    assert mac.heap.live() == []
    mac.check()


def test_close_during_a_read_that_hangs_leaves_what_it_uses() -> None:
    mac = HidMac(M2_AIR)
    source = hid_source(mac)
    assert source.probe().ok
    held = mac.heap.live()
    mac.stuck = threading.Event()
    reader = threading.Thread(target=source.read)
    reader.start()
    assert mac.reading.wait(timeout=300)
    source.close()
    assert all(part in mac.heap.live() for part in held)
    mac.stuck.set()
    reader.join()
    source.close()
    assert mac.heap.live() == []
    mac.check()


# -- pressure


def test_pressure_registers_once_and_reads_many_times() -> None:
    mac = NotifyingMac(level=0)
    source = PressureSource(mac.load, platform="darwin")
    assert source.probe().detail == "thermal pressure, now nominal"
    for mac.level in (0, 1, 2, 3, 4):
        reading = source.read()
        assert (reading.pressure, reading.sensors, reading.sys_power_w) == (mac.level, (), None)
    assert len(mac.system.called("notify_register_check")) == 1
    source.close()
    source.close()
    assert mac.system.called("notify_cancel") == [(mac.token,)]
    mac.check()


@pytest.mark.parametrize(
    ("mac", "words", "cancelled"),
    [
        (NotifyingMac(register_status=1_000_000), "to register for thermal pressure; got notification", 0),
        (NotifyingMac(state_status=2), "the thermal pressure; got notification status 2", 1),
        (NotifyingMac(level=30), "a pressure level below 5; got 30", 1),
        (NotifyingMac(level=1 << 40), f"got {1 << 40}", 1),
    ],
)
def test_pressure_that_is_not_told(mac: NotifyingMac, words: str, cancelled: int) -> None:
    source = PressureSource(mac.load, platform="darwin")
    probe = source.probe()
    assert not probe.ok
    assert words in probe.detail
    source.close()
    assert len(mac.system.called("notify_cancel")) == cancelled
    mac.check()


def test_pressure_that_is_lost_later() -> None:
    mac = NotifyingMac()
    source = PressureSource(mac.load, platform="darwin")
    assert source.probe().ok
    mac.state_status = 1
    with pytest.raises(SensorError, match="notification status 1"):
        source.read()


# -- all of them


def no_library(path: str) -> Library:
    raise SensorError(f"no library {path}")


def must_not_load(path: str) -> Library:
    raise AssertionError(f"{path} was loaded")


def sources(load: Loader, platform: str) -> list[Source]:
    smc = SmcSource(lambda: open_connection(load), lambda: machine_build(load), platform=platform)
    return [smc, IoHidSource(load, platform=platform), PressureSource(load, platform=platform)]


def test_names() -> None:
    assert [source.name for source in sources(must_not_load, "linux")] == ["smc", "iohid", "pressure"]


@pytest.mark.parametrize("which", range(3))
def test_off_macos_nothing_is_loaded(which: int) -> None:
    probe = sources(must_not_load, "linux")[which].probe()
    assert (probe.ok, probe.detail) == (False, "macOS only")


@pytest.mark.parametrize("which", range(3))
def test_an_absent_library_is_a_probe_that_fails(which: int) -> None:
    source = sources(no_library, "darwin")[which]
    probe = source.probe()
    assert not probe.ok
    assert "no library /" in probe.detail
    source.close()
    source.close()
    assert machine_build(no_library) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has these libraries")
@pytest.mark.parametrize("which", range(3))
def test_without_apples_libraries_on_disk(which: int) -> None:
    probe = sources(load_library, "darwin")[which].probe()
    assert not probe.ok
    assert "wanted the library /" in probe.detail


@pytest.mark.parametrize("which", range(3))
def test_before_a_probe_there_is_no_answer(which: int) -> None:
    source = sources(must_not_load, "darwin")[which]
    with pytest.raises(SensorError, match="not opened"):
        source.read()
    source.close()


@pytest.mark.skipif(sys.platform != "darwin", reason="needs a Mac")
@pytest.mark.parametrize("source", [SmcSource(), IoHidSource(), PressureSource()])
def test_this_mac(source: Source) -> None:
    probe = source.probe()
    if not probe.ok:
        pytest.skip(probe.detail)
    reading = source.read()
    source.close()
    assert reading.sensors or reading.pressure is not None


# -- loading libraries


def c_library() -> Library:
    path = ctypes.util.find_library("c")
    if path is None:
        pytest.skip("no C library to be found")
    return load_library(path)


def test_a_function_has_the_types_it_was_asked_for_with() -> None:
    library = c_library()
    length = library.function("strlen", ctypes.c_size_t, ctypes.c_char_p)
    find = library.function("strchr", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    again = library.function("strchr", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
    assert length(b"smc") == 3
    text = ctypes.create_string_buffer(b"a key")
    assert find(text, ord("k")) == ctypes.addressof(text) + 2  # not cut to 32 bits
    assert again(b"a key", ord("k")) == b"key"
    assert find(text, ord("z")) is None


def test_a_variable_of_a_library() -> None:
    symbol = "mach_task_self_" if sys.platform == "darwin" else "environ"
    address = c_library().address(symbol)
    assert struct.unpack("I", ctypes.string_at(address, 4))[0] > 0


def test_what_a_library_lacks_is_a_sensor_error() -> None:
    library = c_library()
    with pytest.raises(SensorError, match="no_such_function"):
        library.function("no_such_function", None)
    with pytest.raises(SensorError, match="no_such_variable"):
        library.address("no_such_variable")
