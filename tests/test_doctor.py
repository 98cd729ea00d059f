"""The doctor: sources tried, a fitted preset written, and what a person reads of it."""

import dataclasses
import io
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from laboratory import AIR, OTHER_AIR, Fake, Laboratory, WithoutPower, reading
from rich.console import Console
from trace_cases import write_run
from typer.testing import CliRunner

from bit_axon.cli.thermal import thermal
from bit_axon.cli.thermal_doctor import Patient, Request, run_doctor
from bit_axon.cli.thermal_load import matrix_products
from bit_axon.cli.thermal_plot import write_overlay
from bit_axon.cli.thermal_report import described
from bit_axon.errors import ConfigError, SensorError, StorageError
from bit_axon.profiling.doctor import control_temp, examine, write_preset
from bit_axon.profiling.fitting import fit
from bit_axon.profiling.rc_model import load_preset
from bit_axon.profiling.reading import RawReading, SensorValue
from bit_axon.profiling.sensors.base import Probe, Source


def test_every_way_to_fail_is_a_result() -> None:
    sources = [
        Fake("good", reading(("gpu", 50.0))),
        Fake("absent", reading(), Probe(False, "macOS only")),
        Fake("silent", SensorError("no answer")),
        Fake("broken", OSError("bus fault")),
        Fake("broken probe", reading(), ValueError("bad struct")),
    ]
    found = {item.name: item for item in examine(sources)}
    assert [name for name, item in found.items() if item.ok] == ["good"]
    assert found["good"].detail == "what it offers"
    assert found["good"].values == reading(("gpu", 50.0))
    assert found["good"].error is None
    assert found["absent"].error == "macOS only"
    assert found["silent"].error == "no answer"
    assert found["broken"].error == "unexpected OSError: bus fault"
    assert found["broken probe"].error == "unexpected ValueError: bad struct"
    assert [source.closed for source in sources] == [1] * 5


def test_latency_is_the_median_of_five_readings() -> None:
    durations = iter([0.5, 0.002, 0.001, 0.003, 0.9])
    moments = itertools.accumulate(itertools.chain.from_iterable((0.0, duration) for duration in durations))
    (found,) = examine([Fake("slow at first", reading(("cpu", 40.0)))], lambda: next(moments))
    assert found.latency_ms == pytest.approx(3.0)


def test_the_control_temperature_is_the_higher_mean_of_what_can_be_believed() -> None:
    gated = reading(("cpu", 50.0), ("cpu", 54.0), ("gpu", 2.4), ("gpu", -4.0), ("chassis", 90.0))
    assert control_temp(gated) == pytest.approx(52.0)
    busy = reading(("cpu", 50.0), ("gpu", 80.0), ("gpu", 90.0), ("gpu", 200.0))
    assert control_temp(busy) == pytest.approx(85.0)
    assert control_temp(reading(("gpu", 60.0), ("gpu", 4.0))) == pytest.approx(60.0)
    assert control_temp(reading(("chassis", 40.0), pressure=0)) is None


def test_a_written_preset_is_read_back(tmp_path: Path) -> None:
    found = fit(Laboratory(OTHER_AIR, WithoutPower).step_test(), AIR)
    path = tmp_path / "new folder" / "mine.yaml"
    write_preset(path, found, source="smc", base="fanless_air", seconds=60.0)
    back = load_preset(str(path))
    for name, value in dataclasses.asdict(found.parameters).items():
        assert getattr(back, name) == pytest.approx(value, rel=1e-3)
    text = path.read_text(encoding="utf-8")
    assert "source smc" in text
    assert "# No power sensor" in text
    assert "case_j_per_k: 450.0  # taken from fanless_air" in text
    assert "hot_spot_seconds" in text and "# fitted, standard error" in text
    assert [entry.name for entry in path.parent.iterdir()] == ["mine.yaml"]


def test_very_small_and_large_numbers_survive(tmp_path: Path) -> None:
    found = fit(Laboratory(AIR).step_test(), AIR)
    extreme = dataclasses.replace(found.parameters, governor_gain=1.25e-7, case_j_per_k=4.5e21)
    path = tmp_path / "mine.yaml"
    write_preset(path, dataclasses.replace(found, parameters=extreme), source="x", base="y", seconds=1.0)
    back = load_preset(str(path))
    assert (back.governor_gain, back.case_j_per_k) == (1.25e-7, 4.5e21)


def doctor(
    sources: Sequence[Source], request: Request, *, order: Sequence[str] = (), platform: str = "linux",
    device: str = "gpu", laboratory: Laboratory | None = None, width: int = 200,
) -> tuple[int, str]:  # fmt: skip
    laboratory = laboratory or Laboratory(AIR)
    patient = Patient(lambda: sources, order, device, platform, laboratory.clock, laboratory.load)
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    code = run_doctor(request, patient, console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def test_the_report_names_each_source_and_the_one_a_run_takes() -> None:
    sources = [
        Fake("smc", reading(), Probe(False, "not permitted")),
        Fake("iohid", reading(("cpu", 44.0), ("cpu", 48.0), ("gpu", 4.0))),
        Fake("macmon", reading(("gpu", 45.0))),
        Fake("pressure", reading(pressure=1)),
        Fake("powermetrics", SensorError("asks for sudo")),
    ]
    code, text = doctor(sources, Request(), order=("smc", "iohid", "macmon"), platform="darwin")
    assert code == 0
    for line in (
        "smc            no        not permitted",
        "CPU 46.0 °C (2 sensors, 44.0 to 48.0)",
        "GPU without a believable value (1 sensor)",
        "asks for sudo",
        "pressure moderate",
        "A run on the GPU with thermal=auto reads iohid; if it is lost, macmon.",
        "Beside it, the system's thermal pressure",
    ):
        assert line in text
    assert "What may help" not in text


@pytest.mark.parametrize(("platform", "said"), [("linux", "container"), ("darwin", "brew install macmon")])
def test_without_a_sensor_it_says_so_and_what_may_help(platform: str, said: str) -> None:
    code, text = doctor(
        [Fake("x", reading(), Probe(False, "gone"))], Request(), order=("x",), platform=platform
    )
    assert code == 1
    assert "No source of temperature answers here" in text
    assert "without thermal control" in text
    assert said in text
    assert "thermal=simulated_air" in text


def test_pressure_alone_is_a_source_yet_no_temperature() -> None:
    code, text = doctor([Fake("pressure", reading(pressure=0))], Request(), platform="darwin")
    assert code == 0
    assert "goes by the system's thermal pressure alone" in text
    assert "What may help" in text


def test_a_source_outside_auto_is_offered_on_request() -> None:
    sources = [Fake("linux", reading(("cpu", 40.0))), Fake("nvml", reading(("gpu", 40.0)))]
    _, text = doctor(sources, Request(), order=("linux",), device="cpu")
    assert "A run on the CPU with thermal=auto reads linux." in text
    assert "Only on request (thermal.source=NAME): nvml." in text


def test_one_source_alone(tmp_path: Path) -> None:
    sources = [Fake("smc", reading(), Probe(False, "no")), Fake("iohid", reading(("cpu", 40.0)))]
    assert doctor(sources, Request(source="iohid"))[0] == 0
    code, text = doctor(sources, Request(source="smc"))
    assert code == 1
    assert "iohid" not in text
    with pytest.raises(ConfigError, match="Did you mean 'iohid'"):
        doctor(sources, Request(source="iohit"))


def test_a_step_test_is_shown_and_written(tmp_path: Path) -> None:
    laboratory, path = Laboratory(OTHER_AIR), tmp_path / "my machine.yaml"
    code, text = doctor([laboratory.source], Request(write=path), order=("simulated",), laboratory=laboratory)
    assert code == 0
    for line in ("Step test of simulated, 60 s", "full load for 25 s", "fitted, standard error", "measured"):
        assert line in text
    assert f"Written to {path}" in text
    assert f"""thermal.simulation.preset='"{path}"'""" in text
    assert load_preset(str(path)).hot_spot_k_per_w == pytest.approx(0.8, rel=0.03)


def test_a_step_test_without_a_file_writes_nothing(tmp_path: Path) -> None:
    laboratory = Laboratory(AIR)
    _, text = doctor([laboratory.source], Request(step_test=True), laboratory=laboratory)
    assert "Nothing was written" in text
    assert list(tmp_path.iterdir()) == []


def test_wrong_options_are_found_before_the_machine_is_loaded(tmp_path: Path) -> None:
    source = Fake("x", reading(("cpu", 40.0)))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--base.*Did you mean 'desktop'"):
        doctor([source], Request(step_test=True, base="dekstop"))
    with pytest.raises(StorageError, match="no right to write"):
        doctor([source], Request(write=tmp_path / "file" / "mine.yaml"))
    with pytest.raises(SensorError, match="a CPU or GPU temperature for the step test"):
        doctor([Fake("pressure", reading(pressure=0))], Request(step_test=True))


def test_all_that_a_reading_may_hold_is_described() -> None:
    full = RawReading(
        sensors=(SensorValue("a", "gpu", 80.0), SensorValue("b", "gpu", 90.0), SensorValue("c", "gpu", 4.0)),
        pressure=2, throttle_bits=0x40, sys_power_w=21.04, gpu_power_w=18.0, gpu_mhz=1470.0,
        gpu_util=0.5, fan_rpm=2100.0,
    )  # fmt: skip
    assert described(full) == (
        "GPU 85.0 °C (2 sensors, 80.0 to 90.0, 1 without a believable value), pressure heavy, "
        "machine 21.0 W, GPU 18.0 W, GPU 1,470 MHz, GPU 50% busy, fan 2,100 rpm, throttled (mask 0x40)"
    )
    assert described(RawReading()) == ""


def test_the_load_runs_within_its_block_and_ends_with_it() -> None:
    def running() -> bool:
        return any(thread.name == "load" for thread in threading.enumerate())

    with matrix_products():
        assert running()
    assert not running()


def test_the_command_runs_on_this_machine() -> None:
    result = CliRunner().invoke(thermal, ["doctor"], env={"COLUMNS": "120"})
    assert result.exit_code in (0, 1)
    assert "linux" in result.output and "nvml" in result.output
    assert ("thermal=auto reads" in result.output) or ("What may help" in result.output)


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.SVG", b"<?xml")])
def test_runs_are_drawn_over_each_other(tmp_path: Path, name: str, magic: bytes) -> None:
    runs = [write_run(tmp_path / run, minutes=2.0, seed=seed) for seed, run in enumerate(("one", "two"))]
    out = tmp_path / "pictures" / name
    result = CliRunner().invoke(thermal, ["plot", *map(str, runs), "--out", str(out)])
    assert result.exit_code == 0
    assert str(out) in result.output.replace("\n", "")
    assert out.read_bytes().startswith(magic)


def test_a_picture_needs_a_known_ending_and_runs_a_trace(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", minutes=1.0)
    for name in ("thermal", "thermal.bmp"):
        with pytest.raises(ConfigError, match=r"\.png, \.pdf or \.svg"):
            write_overlay([run], tmp_path / name)
    with pytest.raises(ConfigError, match="a thermal trace"):
        write_overlay([run, tmp_path / "gone"], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
