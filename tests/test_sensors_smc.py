"""The system management controller: its messages byte by byte, the source, and opening it through IOKit.

None of it shows that a Mac behaves like that: `bit-axon thermal doctor` does, on a Mac.
"""

import ctypes
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from macos_smc import FakeSmc, SmcMac, float_bytes

from bit_axon.errors import SensorError
from bit_axon.profiling.sensors.smc import SmcSource
from bit_axon.profiling.sensors.smc_connection import machine_build, open_connection
from bit_axon.profiling.sensors.smc_protocol import (
    KeyInfo,
    SmcClient,
    SmcKeyInfo,
    SmcMessage,
    decode_value,
    encode_request,
    group_of,
    is_fan,
)


def floats(**values: float) -> dict[str, tuple[str, bytes]]:
    return {key: ("flt ", float_bytes(value)) for key, value in values.items()}


AIR = floats(Te05=50.0, Tp01=-4.0, Tp05=71.5, Tg05=80.25, Tg0D=79.0, TB1T=31.5, TV0s=40.0, PSTR=18.5) | {
    "Tp0Z": ("ui16", b"\x00\x20"),  # the name of a core, another type
    "FNum": ("ui8 ", b"\x00"),
}
STUDIO = floats(TCMb=60.0, TCMz=70.0, Tg0f=65.0, F0Ac=1330.0, F1Ac=1340.0)


def smc_source(
    smc: FakeSmc,
    cache_dir: Path,
    machine: str | None = "Mac14,2 24C101",
) -> SmcSource:
    return SmcSource(lambda: smc, lambda: machine, cache_dir=cache_dir, platform="darwin")


# -- the SMC's protocol


def test_the_layout_of_a_message() -> None:
    assert ctypes.sizeof(SmcMessage) == 80
    offsets = {name: getattr(SmcMessage, name).offset for name, *_ in SmcMessage._fields_}
    assert offsets == {
        "key": 0,
        "version": 4,
        "power_limit": 12,
        "key_info": 28,
        "result": 40,
        "status": 41,
        "data8": 42,
        "data32": 44,
        "bytes": 48,
    }
    assert [getattr(SmcKeyInfo, name).offset for name, *_ in SmcKeyInfo._fields_] == [0, 4, 8]


def test_requests_byte_by_byte() -> None:
    """`Tp09` and `flt ` are numbers with the first character in the highest byte, stored lowest first."""
    value = encode_request(5, key="Tp09", info=KeyInfo(4, "flt ", 0x80))
    recorded = bytearray(80)
    recorded[0:4], recorded[28:32], recorded[32:36] = b"90pT", b"\x04\0\0\0", b" tlf"
    recorded[36], recorded[42] = 0x80, 5
    assert value == recorded
    name = encode_request(8, index=3337)
    recorded = bytearray(80)
    recorded[42], recorded[44:48] = 8, b"\x09\x0d\0\0"
    assert name == recorded


@pytest.mark.parametrize(
    ("type_name", "data", "expected"),
    [
        ("flt ", bytes.fromhex("0000aa42"), 85.0),  # little-endian
        ("flt ", bytes.fromhex("000080c0"), -4.0),
        ("ui8 ", b"\x02", 2.0),
        ("ui16", b"\x01\x02", 258.0),  # big-endian
        ("ui32", b"\x00\x00\x0d\x0a", 3338.0),
        ("flt ", b"\x00\x00", None),
        ("ui8 ", b"", None),
        ("ch8*", b"abcd", None),
    ],
)
def test_values(type_name: str, data: bytes, expected: float | None) -> None:
    assert decode_value(KeyInfo(len(data), type_name, 0), data.ljust(32, b"\xff")) == expected


@pytest.mark.parametrize(
    ("keys", "group"),
    [
        ("Tp09 Tp0T Tp2a Tp8b Te05 Te0S TCMb TCMz", "cpu"),
        ("Tf04 Tf0E Tf44 Tf4E", "cpu"),  # M3
        ("Tf14 Tf1A Tf24 Tf2A", "gpu"),
        ("Tg05 Tg1b Tg0k tGAM", "gpu"),
        ("TB1T TB2T TaLP TaRF", "chassis"),
        ("TV0s TG0D TG0P Ts0P Ts1S Tm0P TH0x TC0c PSTR tgAM", None),
    ],
)
def test_groups_of_keys(keys: str, group: str | None) -> None:
    assert {key: group_of(key) for key in keys.split()} == dict.fromkeys(keys.split(), group)


def test_fans() -> None:
    assert [key for key in ("F0Ac", "F1Ac", "F0Mx", "FNum", "FPAc", "F!Ac") if is_fan(key)] == [
        "F0Ac",
        "F1Ac",
        "FPAc",
    ]


def test_names_of_all_keys() -> None:
    smc = FakeSmc(AIR, unnamed=[2, 5])
    client = SmcClient(smc.call)
    assert client.key_count() == len(AIR) + 3
    assert client.names() == ["#KEY", *AIR]
    assert smc.count(8) == len(AIR) + 3


def test_a_key_is_asked_for_its_type_once() -> None:
    smc = FakeSmc(AIR)
    client = SmcClient(smc.call)
    assert [client.value("Tg05") for _ in range(3)] == [80.25] * 3
    assert (smc.count(9), smc.count(5)) == (1, 3)
    assert client.value("Tx99") is None
    assert client.info("Tx99") is None


@pytest.mark.parametrize("count", [b"\x0a\x0d\x00\x00", b"\0\0\0\0"], ids=["other byte order", "none"])
def test_an_impossible_number_of_keys(count: bytes) -> None:
    class Odd(FakeSmc):
        def table(self) -> dict[str, tuple[str, bytes]]:
            return {"#KEY": ("ui32", count)}

    with pytest.raises(SensorError, match="number of SMC keys"):
        SmcClient(Odd({}).call).names()


# -- the SMC as a source


def test_a_fanless_mac(tmp_path: Path) -> None:
    source = smc_source(FakeSmc(AIR), tmp_path)
    probe = source.probe()
    assert probe.ok
    assert probe.detail == "2 GPU and 3 CPU keys, 1 of the case, system power, no fan"
    reading = source.read()
    assert [(s.name, s.group, s.temp_c) for s in reading.sensors] == [
        ("TB1T", "chassis", 31.5),
        ("Te05", "cpu", 50.0),
        ("Tg05", "gpu", 80.25),
        ("Tg0D", "gpu", 79.0),
        ("Tp01", "cpu", -4.0),  # what is not to be believed is the monitor's decision
        ("Tp05", "cpu", 71.5),
    ]
    assert (reading.sys_power_w, reading.fan_rpm, reading.pressure) == (18.5, None, None)


def test_a_mac_with_fans(tmp_path: Path) -> None:
    source = smc_source(FakeSmc(STUDIO), tmp_path)
    assert source.probe().detail == "1 GPU and 2 CPU keys, 0 of the case, no system power, 2 fans"
    assert (source.read().fan_rpm, source.read().sys_power_w) == (1340.0, None)


def test_without_a_gpu_key_the_probe_says_so(tmp_path: Path) -> None:
    probe = smc_source(FakeSmc(floats(Tp01=50.0)), tmp_path).probe()
    assert probe.ok
    assert "no sensor of the GPU" in probe.detail


def test_power_that_is_no_number_is_unknown(tmp_path: Path) -> None:
    smc = FakeSmc(AIR | floats(PSTR=math.nan, F0Ac=math.inf, Tp05=math.nan))
    source = smc_source(smc, tmp_path)
    assert source.probe().ok
    reading = source.read()
    assert (reading.sys_power_w, reading.fan_rpm) == (None, None)
    assert math.isnan(next(s.temp_c for s in reading.sensors if s.name == "Tp05"))


def test_without_a_key_of_the_die(tmp_path: Path) -> None:
    smc = FakeSmc(floats(TB1T=30.0, TV0s=40.0))
    probe = smc_source(smc, tmp_path).probe()
    assert not probe.ok
    assert "none among 3 keys" in probe.detail
    assert smc.closed == 1
    assert not list(tmp_path.iterdir())


def test_a_key_that_vanishes_is_left_out_until_none_is_left(tmp_path: Path) -> None:
    smc = FakeSmc(AIR)
    source = smc_source(smc, tmp_path)
    assert source.probe().ok
    del smc.keys["Tg05"]
    assert "Tg05" not in {s.name for s in source.read().sensors}
    smc.keys = floats(TB1T=30.0)
    with pytest.raises(SensorError, match="no answer"):
        source.read()


def test_a_lost_connection_is_a_sensor_error(tmp_path: Path) -> None:
    smc = FakeSmc(AIR)
    source = smc_source(smc, tmp_path)
    assert source.probe().ok
    smc.lost = True
    with pytest.raises(SensorError):
        source.read()
    assert not source.probe().ok
    assert smc.closed == 2


# -- names kept between starts


def test_names_are_asked_for_once(tmp_path: Path) -> None:
    first = smc_source(FakeSmc(AIR), tmp_path)
    assert first.probe().ok
    smc = FakeSmc(AIR)
    second = smc_source(smc, tmp_path)
    assert second.probe().ok
    assert smc.count(8) == 0
    assert second.read() == first.read()
    assert [path.name for path in tmp_path.iterdir()] == ["smc-keys-Mac14,2-24C101.json"]


def test_names_are_kept_in_the_outputs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIT_AXON_OUTPUTS", str(tmp_path))
    assert SmcSource(lambda: FakeSmc(AIR), lambda: "../Mac 1", platform="darwin").probe().ok
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["smc-keys-..-Mac-1.json"]


@pytest.mark.parametrize("machine", ["Mac14,2 25A1", "Mac16,1 24C101"])
def test_another_system_has_names_of_its_own(tmp_path: Path, machine: str) -> None:
    assert smc_source(FakeSmc(AIR), tmp_path).probe().ok
    smc = FakeSmc(AIR)
    assert smc_source(smc, tmp_path, machine).probe().ok
    assert smc.count(8) == len(AIR) + 1
    assert len(list(tmp_path.iterdir())) == 2


def test_a_machine_without_a_name_keeps_nothing(tmp_path: Path) -> None:
    assert smc_source(FakeSmc(AIR), tmp_path, None).probe().ok
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: "{",
        lambda kept: "[]",
        lambda kept: json.dumps(kept | {"key_count": kept["key_count"] - 1}),
        lambda kept: json.dumps(kept | {"names": "Tp01"}),
        lambda kept: json.dumps(kept | {"names": [1, None, "Tp☃1", "T", "Tp77"]}),
        lambda kept: "\udcff",
    ],
    ids=["torn", "another shape", "another count", "no list", "useless names", "no text"],
)
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: Callable[[dict[str, object]], str]) -> None:
    assert smc_source(FakeSmc(AIR), tmp_path).probe().ok
    path = next(tmp_path.iterdir())
    whole = path.read_text()
    path.write_bytes(damage(json.loads(whole)).encode("utf-8", "surrogateescape"))
    smc = FakeSmc(AIR)
    source = smc_source(smc, tmp_path)
    assert source.probe().ok
    assert (smc.count(8), len(source.read().sensors)) == (len(AIR) + 1, 6)
    assert path.read_text() == whole


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = smc_source(FakeSmc(AIR), tmp_path / "file" / "cache")
    assert source.probe().ok
    assert len(source.read().sensors) == 6


# -- opening the SMC


def opened(mac: SmcMac, cache_dir: Path) -> SmcSource:
    return SmcSource(
        lambda: open_connection(mac.load),
        lambda: machine_build(mac.load),
        cache_dir=cache_dir,
        platform="darwin",
    )


def test_open_read_close(tmp_path: Path) -> None:
    mac = SmcMac(FakeSmc(AIR), services=["AppleSMC", "AppleSMCKeysEndpoint", "Other"])
    source = opened(mac, tmp_path)
    assert source.probe().ok
    assert source.read().sys_power_w == 18.5
    assert mac.opened == ["AppleSMCKeysEndpoint"]
    mac.check()
    assert mac.smc.closed == 0
    source.close()
    source.close()
    assert mac.smc.closed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["smc-keys-Mac14,2-24C101.json"]
    mac.check()


def test_probing_again_leaves_one_connection(tmp_path: Path) -> None:
    mac = SmcMac(FakeSmc(AIR))
    source = opened(mac, tmp_path)
    assert source.probe().ok
    assert source.probe().ok
    assert mac.smc.closed == 1
    source.close()
    assert mac.smc.closed == 2
    mac.check()


def test_the_first_service_where_none_has_the_name(tmp_path: Path) -> None:
    mac = SmcMac(FakeSmc(AIR), services=["SMCA", "SMCB"])
    assert opened(mac, tmp_path).probe().ok
    assert mac.opened == ["SMCA"]
    mac.check()


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ({"open_status": 0xE00002E2}, "0xE00002E2, not permitted; a sandbox or a virtual machine"),
        ({"open_status": 0xE00002C1}, "0xE00002C1, not privileged"),
        ({"open_status": 0x10000003}, "0x10000003"),
        ({"list_status": 0xE00002BC}, "the services of the SMC; got 0xE00002BC"),
        ({"services": []}, "a service of the SMC; got none"),
        ({"call_status": 0xE00002D8}, "an answer of the SMC; got 0xE00002D8"),
        ({"answer_bytes": 40}, "80 bytes of the SMC; got 40"),
    ],
)
def test_what_hinders_opening_is_said(tmp_path: Path, machine: dict[str, Any], words: str) -> None:
    mac = SmcMac(FakeSmc(AIR), **machine)
    probe = opened(mac, tmp_path).probe()
    assert not probe.ok
    assert words in probe.detail
    assert mac.smc.closed == (1 if mac.opened else 0)
    mac.check()


def test_model_and_build() -> None:
    mac = SmcMac(FakeSmc(AIR))
    assert machine_build(mac.load) == "Mac14,2 24C101"
    mac.check()
    assert machine_build(SmcMac(FakeSmc(AIR), settings={b"hw.model": b"Mac14,2"}).load) is None
    assert (
        machine_build(SmcMac(FakeSmc(AIR), settings={b"hw.model": b"", b"kern.osversion": b"1"}).load) is None
    )
