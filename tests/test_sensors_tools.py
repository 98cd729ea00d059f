"""Sources that are other programs: the child process itself, macmon and powermetrics on canned output."""

import json
import math
import os
import plistlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from waiting import LONGEST_SECONDS, wait_for

from bit_axon.errors import SensorError
from bit_axon.profiling.clock import SystemClock, VirtualClock
from bit_axon.profiling.reading import SensorValue
from bit_axon.profiling.sensors import child as child_module
from bit_axon.profiling.sensors.child import Child, Patience
from bit_axon.profiling.sensors.macmon import MacmonSource, parse_line
from bit_axon.profiling.sensors.powermetrics import PowermetricsSource, parse_document

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups")

QUICK = Patience(grace_seconds=0.2)


def until(condition: Callable[[], bool]) -> None:
    """Waits for another process."""
    wait_for(condition, "another process", pause_seconds=0.005)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def ended(pid: int) -> bool:
    """Whether the process runs no more; its parent may still have to take notice."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def child_of(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Starts a child that runs a shell script, and ends it after the test."""
    children = []

    def start(text: str, clock: Any = None, terminator: bytes = b"\n", patience: Patience = QUICK) -> Child:
        command = (str(script(tmp_path / "tool", text)),)
        child = Child(command, clock=clock or SystemClock(), terminator=terminator, patience=patience)
        child.start()
        children.append(child)
        return child

    yield start
    for child in children:
        child.close()


# The child


def test_the_newest_complete_record_counts(child_of):
    child = child_of("printf 'one\\ntwo\\n\\n thr'; exec sleep 60")
    assert child.first(LONGEST_SECONDS) in (b"one", b"two")
    until(lambda: child.latest(LONGEST_SECONDS) == b"two")  # neither the blank line nor the torn one


def test_records_end_with_their_terminator(child_of):
    child = child_of("printf 'a\\nb\\0c\\nd\\0e'; exec sleep 60", terminator=b"\0")
    until(lambda: child.first(LONGEST_SECONDS) == b"c\nd")


def test_a_record_may_come_in_pieces(child_of):
    child = child_of("printf 'hal'; sleep 0.05; printf 'ves\\n'; exec sleep 60")
    assert child.first(LONGEST_SECONDS) == b"halves"


def test_an_old_record_is_none(child_of):
    clock = VirtualClock()
    child = child_of("echo one; exec sleep 60", clock)
    assert child.first(LONGEST_SECONDS) == b"one"
    clock.advance(4.9)
    assert child.latest(5) == b"one"
    clock.advance(0.2)
    with pytest.raises(SensorError, match=r"wanted a record not older than 5 s .* got silence"):
        child.latest(5)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code and the last words of a process are waited for, on a busy machine too."""
    monkeypatch.setattr(child_module, "_SLICE_SECONDS", LONGEST_SECONDS)


def test_a_child_is_restarted_three_times_with_longer_and_longer_pauses(child_of, tmp_path, patient):
    clock = VirtualClock()
    starts = tmp_path / "starts"
    child = child_of(f"printf x >> {starts}; echo broken sensor >&2; exit 3", clock)
    for pause in (1.0, 2.0, 4.0):
        until(lambda: not child.alive)
        with pytest.raises(SensorError, match=r"broken sensor.*started again soon"):
            child.latest(5)
        clock.advance(pause - 0.1)
        before = starts.read_text()
        with pytest.raises(SensorError):
            child.latest(5)
        assert starts.read_text() == before
        clock.advance(0.2)
        with pytest.raises(SensorError):
            child.latest(5)
        until(lambda before=before: len(starts.read_text()) == len(before) + 1)
    until(lambda: not child.alive)
    for _ in range(3):
        clock.advance(100)
        with pytest.raises(SensorError, match=r"exit code 3: broken sensor.*started again 3 times"):
            child.latest(5)
    assert starts.read_text() == "xxxx"


def test_a_short_absence_is_bridged_by_the_last_record(child_of, tmp_path):
    clock = VirtualClock()
    child = child_of(f"echo {{}} >> {tmp_path}/n; wc -l < {tmp_path}/n", clock)
    assert child.first(LONGEST_SECONDS).strip() == b"1"
    until(lambda: not child.alive)
    assert child.latest(5).strip() == b"1"
    clock.advance(1.1)
    assert child.latest(5).strip() in (b"1", b"2")  # the new process may have written, or not yet
    until(lambda: child.latest(5).strip() == b"2")


def test_a_child_that_falls_silent_is_replaced(child_of, tmp_path):
    clock = VirtualClock()
    child = child_of("echo one; exec sleep 60", clock)
    assert child.first(LONGEST_SECONDS) == b"one"
    first_pid = child.pid
    clock.advance(9.9)
    with pytest.raises(SensorError):
        child.latest(5)
    assert child.alive
    clock.advance(0.2)
    with pytest.raises(SensorError):
        child.latest(5)
    until(lambda: not child.alive and ended(first_pid))
    clock.advance(1.1)
    until(lambda: bool(fresh(child)))
    assert child.pid != first_pid


def fresh(child: Child) -> bytes | None:
    try:
        return child.latest(5)
    except SensorError:
        return None


def test_close_ends_the_whole_group_even_one_that_does_not_listen(child_of):
    child = child_of("trap '' TERM; sleep 60 & echo $!; while true; do sleep 60; done")
    own, helper = child.pid, int(child.first(LONGEST_SECONDS))
    child.close()
    assert not child.alive
    until(lambda: ended(own) and ended(helper))
    child.close()
    with pytest.raises(SensorError, match="was closed"):
        child.latest(5)


@pytest.fixture
def open_stdin() -> Iterator[None]:
    """An input of this process that never ends, as a terminal; pytest's own is empty."""
    kept = os.dup(0)
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    yield
    os.dup2(kept, 0)
    for descriptor in (kept, reading, writing):
        os.close(descriptor)


def test_the_child_cannot_prompt_and_does_not_hear_ctrl_c(child_of, open_stdin):
    child = child_of("cat; echo done; exec sleep 60")  # cat ends at once: its input is empty
    assert child.first(LONGEST_SECONDS) == b"done"
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
    assert os.getsid(child.pid) == os.getsid(0)  # sudo finds its ticket by the terminal of the session


def test_a_child_that_writes_nothing_is_an_error_in_time(child_of, patient):
    with pytest.raises(SensorError, match=r"its first record within 0.1 s .* got silence"):
        child_of("exec sleep 60").first(0.1)
    with pytest.raises(SensorError, match="exit code 4: no such sampler"):
        child_of("echo no such sampler >&2; exit 4").first(LONGEST_SECONDS)


def test_much_text_on_stderr_does_not_block_the_child(child_of):
    noise = f"{sys.executable} -S -c 'import sys; sys.stderr.write(\"x\" * 300000)'"
    assert child_of(f"{noise}; echo after; exec sleep 60").first(LONGEST_SECONDS) == b"after"


def test_a_command_that_is_not_there_is_an_error(tmp_path):
    child = Child((str(tmp_path / "absent"), "pipe"), clock=SystemClock())
    with pytest.raises(SensorError, match=r"absent pipe.*No such file"):
        child.start()


def test_a_program_that_ends_takes_its_child_with_it(tmp_path):
    tool = script(tmp_path / "tool", "echo ready; exec sleep 60")
    program = (
        "from bit_axon.profiling.clock import SystemClock\n"
        "from bit_axon.profiling.sensors.child import Child\n"
        f"child = Child(({str(tool)!r},), clock=SystemClock())\n"
        "child.start()\n"
        f"child.first({LONGEST_SECONDS})\n"
        "print(child.pid)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    until(lambda: ended(int(done.stdout)))
    assert done.stderr == ""


# macmon

LINE_07 = (
    '{"timestamp":"2026-04-02T10:00:00.000000+00:00","temp":{"cpu_temp_avg":71.5,"gpu_temp_avg":83.25},'
    '"memory":{"ram_total":25769803776,"ram_usage":20985479168,"swap_total":0,"swap_usage":0},'
    '"ecpu_usage":[1181,0.08],"pcpu_usage":[1974,0.02],"gpu_usage":[1338,0.75],"cpu_usage_pct":0.04,'
    '"cpu_power":1.25,"gpu_power":11.5,"ane_power":0.0,"all_power":12.75,"sys_power":17.5,'
    '"ram_power":0.5,"gpu_ram_power":0.01}'
)
LINE_08 = (
    '{"timestamp":"2026-08-05T10:00:00.000000+00:00","temp":{"cpu_temp_avg":71.5,"gpu_temp_avg":83.25},'
    '"memory":{"ram_total":25769803776,"ram_usage":20985479168,"swap_total":0,"swap_usage":0},'
    '"fans":[{"name":"fan0","rpm":1999,"max_rpm":4900},{"name":"fan1","rpm":2200,"max_rpm":5200}],'
    '"cpu_scaled_ratio":0.03,"cpu_active_ratio":0.09,"gpu_freq_mhz":1338,"gpu_scaled_ratio":0.75,'
    '"gpu_active_ratio":0.95,"gpu_usage":[1338,0.75],"cpu_power":1.25,"gpu_power":11.5,"ane_power":0.0,'
    '"all_power":12.75,"sys_power":17.5,"ram_power":0.5,"gpu_ram_power":0.01}'
)


def without_module(name: str) -> Any:
    raise ModuleNotFoundError(f"No module named '{name}'")


def macmon(module: Any = None, program: Path | None = None, clock: Any = None) -> MacmonSource:
    return MacmonSource(
        platform="darwin",
        clock=clock,
        load=without_module if module is None else lambda name: module,
        which=lambda name: None if program is None else str(program),
    )


def test_a_line_of_macmon_0_7():
    reading = parse_line(LINE_07.encode())
    assert reading.sensors == (
        SensorValue("cpu average", "cpu", 71.5),
        SensorValue("gpu average", "gpu", 83.25),
    )
    assert (reading.gpu_mhz, reading.gpu_util) == (1338, 0.75)
    assert (reading.sys_power_w, reading.gpu_power_w) == (17.5, 11.5)
    assert reading.fan_rpm is None and reading.pressure is None and reading.throttle_bits is None


def test_a_line_of_macmon_0_8():
    reading = parse_line(LINE_08.encode())
    assert [sensor.temp_c for sensor in reading.sensors] == [71.5, 83.25]
    assert (reading.gpu_mhz, reading.gpu_util) == (1338, 0.95)
    assert reading.fan_rpm == 2200


def test_macmon_zero_means_no_sensor_and_is_passed_on():
    sample = json.loads(LINE_08) | {"temp": {"cpu_temp_avg": 71.5, "gpu_temp_avg": 0.0}, "sys_power": 0.0}
    reading = parse_line(json.dumps(sample | {"fans": []}).encode())
    assert [sensor.temp_c for sensor in reading.sensors] == [71.5, 0.0]
    assert reading.sys_power_w == 12.75  # the Mac does not tell its total
    assert reading.fan_rpm is None
    assert parse_line(json.dumps(sample | {"all_power": 0.0}).encode()).sys_power_w is None


@pytest.mark.parametrize("line", [b"not JSON", b"[1]", b"{}", b'{"temp": 71}', b"\xff\xfe"])
def test_what_is_no_sample_of_macmon_is_an_error(line):
    with pytest.raises(SensorError, match="wanted a sample of macmon"):
        parse_line(line)


def test_macmon_of_other_types_loses_only_those_fields():
    odd = {
        "temp": {"cpu_temp_avg": 50.0, "gpu_temp_avg": None},
        "gpu_usage": "x",
        "fans": [3],
        "gpu_power": True,
    }
    reading = parse_line(json.dumps(odd).encode())
    assert reading.sensors == (SensorValue("cpu average", "cpu", 50.0),)
    assert (reading.gpu_mhz, reading.fan_rpm, reading.gpu_power_w) == (None, None, None)


def test_macmon_without_a_number_knows_nothing():
    sample = json.loads(LINE_08)
    sample["temp"]["gpu_temp_avg"] = sample["sys_power"] = sample["gpu_power"] = math.nan
    reading = parse_line(json.dumps(sample).encode())
    assert [sensor.name for sensor in reading.sensors] == ["cpu average"]
    assert (reading.sys_power_w, reading.gpu_power_w) == (12.75, None)


def test_the_macmon_program_is_read_line_by_line(tmp_path):
    arguments = tmp_path / "arguments"
    tool = script(
        tmp_path / "macmon", f"echo \"$@\" > {arguments}\ncat <<'END'\n{LINE_08}\nEND\nexec sleep 60"
    )
    clock = VirtualClock()
    source = macmon(program=tool, clock=clock)
    try:
        probe = source.probe()
        assert probe.ok and "program" in probe.detail and probe.thresholds is None
        assert source.read().sensors[1].temp_c == 83.25
        assert arguments.read_text().split() == ["pipe", "-i", "1000"]
        clock.advance(5.1)
        with pytest.raises(SensorError, match="not older than 5 s"):
            source.read()
    finally:
        source.close()
    with pytest.raises(SensorError, match="Probe the source first"):
        source.read()


def test_without_macmon_the_probe_says_how_to_get_it():
    source = macmon()
    probe = source.probe()
    assert not probe.ok
    assert "bit-axon[macmon]" in probe.detail and "brew install macmon" in probe.detail
    source.close()


def test_macmon_without_any_temperature_is_no_source(tmp_path):
    sample = json.loads(LINE_08) | {"temp": {"cpu_temp_avg": 0.0, "gpu_temp_avg": 0.0}}
    tool = script(tmp_path / "macmon", f"cat <<'END'\n{json.dumps(sample)}\nEND\nexec sleep 60")
    probe = macmon(program=tool).probe()
    assert not probe.ok and "has no temperature" in probe.detail


class FakeSampler:
    """As in macmon-lib 0.7.2; its errors are RuntimeErrors."""

    broken = False
    closed = 0

    def metrics(self) -> Any:
        if self.broken:
            raise RuntimeError("IOReport is gone")
        return SimpleNamespace(
            cpu_usage=[],
            gpu_usage=[SimpleNamespace(name="GPU", units=10, frequency_mhz=1338, usage=0.75)],
            power=SimpleNamespace(package=12.75, cpu=1.25, gpu=11.5, board=17.5),
            temperature=SimpleNamespace(cpu_average=71.5, gpu_average=83.25),
        )

    def close(self) -> None:
        self.closed += 1


def test_the_macmon_library_is_preferred_to_the_program(tmp_path):
    sampler = FakeSampler()
    source = macmon(SimpleNamespace(Sampler=lambda: sampler), tmp_path / "never started")
    probe = source.probe()
    assert probe.ok and "library" in probe.detail
    reading = source.read()
    assert reading == parse_line(LINE_07.encode())
    sampler.broken = True
    with pytest.raises(SensorError, match="IOReport is gone"):
        source.read()
    source.close()
    source.close()
    assert sampler.closed == 1


def test_a_macmon_module_that_is_another_thing_falls_back_to_the_program(tmp_path):
    tool = script(tmp_path / "macmon", f"cat <<'END'\n{LINE_07}\nEND\nexec sleep 60")
    source = macmon(SimpleNamespace(), tool)  # a folder named macmon imports as an empty module
    assert "program" in source.probe().detail
    source.close()


# powermetrics

PRESSURES = ("Nominal", "Moderate", "Heavy", "Trapping", "Sleeping")


def document(**changes: Any) -> bytes:
    sample = {
        "is_delta": True,
        "elapsed_ns": 1003000000,
        "hw_model": "Mac16,12",
        "thermal_pressure": "Heavy",
        "processor": {
            "clusters": [{"name": "E-Cluster", "freq_hz": 1.2e9, "idle_ratio": 0.9}],
            "cpu_power": 1250.0,
            "gpu_power": 11500.0,
            "ane_power": 0.0,
            "combined_power": 12750.0,
        },
        "gpu": {"freq_hz": 776.3, "idle_ratio": 0.25},
    }
    return plistlib.dumps(sample | changes)


@pytest.mark.parametrize("level, name", list(enumerate(PRESSURES)))
def test_a_document_of_powermetrics(level, name):
    reading = parse_document(b"\0" + document(thermal_pressure=name) + b"\n\0")
    assert reading.pressure == level
    assert (reading.sys_power_w, reading.gpu_power_w) == (12.75, 11.5)
    assert (reading.gpu_mhz, reading.gpu_util) == (776.3, 0.75)
    assert reading.sensors == ()  # there is no temperature in it


def test_powermetrics_without_power_or_with_a_clock_in_hertz():
    reading = parse_document(document(processor={}, gpu={"freq_hz": 776.3e6}))
    assert reading.pressure == 2
    assert (reading.sys_power_w, reading.gpu_power_w, reading.gpu_util) == (None, None, None)
    assert reading.gpu_mhz == pytest.approx(776.3)


@pytest.mark.parametrize(
    "text, words",
    [
        (b"", "no property list"),
        (document()[:200], "no property list"),
        (plistlib.dumps([1]), "without keys"),
        (document(thermal_pressure="Critical"), "'Critical'"),
        (document(thermal_pressure=3), "nominal, moderate, heavy"),
    ],
)
def test_what_is_no_sample_of_powermetrics_is_an_error(text, words):
    with pytest.raises(SensorError, match=words):
        parse_document(text)


@pytest.fixture
def sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a `sudo` of the test's own on PATH; returns the file with the arguments of all its calls."""

    def install(text: str) -> Path:
        calls = tmp_path / "calls"
        script(tmp_path / "sudo", f'printf "%s\\n" "$*" >> {calls}\n{text}')
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        return calls

    return install


@pytest.mark.parametrize("before, after", [(b"", b"\0"), (b"\0", b"")])
def test_powermetrics_runs_as_one_child_under_sudo_that_never_asks(tmp_path, sudo, before, after):
    """Whether the NUL ends a document or comes before it, the newest document is read at once."""
    stream = tmp_path / "stream"
    stream.write_bytes(before + document(thermal_pressure="Nominal") + after + before + document() + after)
    calls = sudo(f'[ "$2" = true ] || {{ cat {stream}; exec sleep 60; }}')
    source = PowermetricsSource(interval_seconds=0.5, platform="darwin")
    try:
        probe = source.probe()
        assert probe.ok and "no temperature" in probe.detail
        until(lambda: source.read().pressure == 2)
        assert calls.read_text().splitlines() == [
            "-n true",
            "-n powermetrics -s cpu_power,gpu_power,thermal -i 500 -f plist",
        ]
    finally:
        source.close()


def test_a_sudo_that_would_ask_is_refused_before_anything_starts(sudo):
    calls = sudo("echo 'sudo: a password is required' >&2; exit 1")
    source = PowermetricsSource(platform="darwin")
    probe = source.probe()
    assert not probe.ok
    assert "a password is required" in probe.detail and "sudo -v" in probe.detail
    assert calls.read_text().splitlines() == ["-n true"]
    with pytest.raises(SensorError, match="Probe the source first"):
        source.read()


def test_a_powermetrics_that_fails_says_so_in_the_probe(sudo):
    sudo('[ "$2" = true ] || { echo "powermetrics: unrecognized sampler: smc" >&2; exit 64; }')
    probe = PowermetricsSource(platform="darwin").probe()
    assert not probe.ok and "unrecognized sampler" in probe.detail


def test_powermetrics_is_for_macos(sudo):
    calls = sudo("exit 0")
    assert not PowermetricsSource(platform="linux").probe().ok
    assert not calls.exists()
