"""The NVIDIA source on a fake pynvml module with error classes of its own."""

import logging
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bit_axon.errors import SensorError
from bit_axon.profiling.reading import RawReading, SensorValue
from bit_axon.profiling.sensors.base import Thresholds
from bit_axon.profiling.sensors.nvml import NvmlSource

UUIDS = ("GPU-8f2a1c00-aaaa", "GPU-51b7d9e3-bbbb")


class FakeNvml:
    """pynvml with two GPUs. `fails` maps a function's name to the error that it raises, `lacks` has none of
    the named functions, as an older module; handles are (index, "gpu") and (index, "mig")."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    class NVMLError_LibraryNotFound(NVMLError):
        pass

    class NVMLError_FunctionNotFound(NVMLError):
        pass

    class NVMLError_InvalidArgument(NVMLError):
        pass

    class NVMLError_GpuIsLost(NVMLError):
        pass

    def __init__(self, lacks: tuple[str, ...] = ()):
        self.fails: dict[str, Exception] = {}
        self.values: dict[str, Any] = {
            "nvmlDeviceGetTemperatureV": 61,
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetMarginTemperature": 26,
            "nvmlDeviceGetTemperatureThreshold": 92,
            "nvmlDeviceGetPowerUsage": 231500,
            "nvmlDeviceGetClockInfo": 1755,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=98, memory=40),
            "nvmlDeviceGetCurrentClocksEventReasons": 4,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 4,
            "nvmlDeviceGetName": "NVIDIA Test",
        }
        self.calls: list[tuple[Any, ...]] = []
        self.running = 0
        self.lacks = lacks

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in self.lacks or name not in self.values:
            raise AttributeError(f"module 'pynvml' has no attribute '{name}'")
        return lambda *arguments: self._answer(name, *arguments)

    def _answer(self, name: str, *arguments: Any) -> Any:
        self.calls.append((name, *arguments))
        if name in self.fails:
            raise self.fails[name]
        return self.values[name]

    def nvmlInit(self) -> None:
        if "nvmlInit" in self.fails:
            raise self.fails["nvmlInit"]
        self.running += 1

    def nvmlShutdown(self) -> None:
        self.running -= 1
        if "nvmlShutdown" in self.fails:
            raise self.fails["nvmlShutdown"]

    def nvmlDeviceGetCount(self) -> int:
        return len(UUIDS)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        if index >= len(UUIDS):
            raise self.NVMLError_InvalidArgument("Invalid Argument")
        return (index, "gpu")

    def nvmlDeviceGetUUID(self, device: Any) -> str:
        return UUIDS[device[0]]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        if uuid == "MIG-3c2f":
            return (1, "mig")
        if uuid in UUIDS:
            return (UUIDS.index(uuid), "gpu")
        raise self.NVMLError_InvalidArgument("Invalid Argument")

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, device: Any) -> Any:
        assert device[1] == "mig"
        return (device[0], "gpu")

    def not_supported(self, *names: str) -> None:
        self.fails |= {name: self.NVMLError_NotSupported("Not Supported") for name in names}


def nvml_source(module: Any, visible: str | None = None) -> NvmlSource:
    return NvmlSource(module, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})


def test_a_gpu():
    nvml = FakeNvml()
    gpu = nvml_source(nvml)
    probe = gpu.probe()
    assert probe.ok and probe.detail == "NVIDIA Test"
    assert gpu.read() == RawReading(
        sensors=(SensorValue("gpu", "gpu", 61.0),),
        throttle_bits=0,
        gpu_power_w=231.5,
        gpu_mhz=1755,
        gpu_util=0.98,
    )
    assert ("nvmlDeviceGetClockInfo", (0, "gpu"), 1) in nvml.calls  # the clock of the multiprocessors
    gpu.close()
    gpu.close()
    assert nvml.running == 0
    with pytest.raises(SensorError, match="Probe the source first"):
        gpu.read()


@pytest.mark.parametrize(
    "reasons, bits", [(0, 0), (1, 0), (4 | 8 | 128, 0), (32, 32), (64 | 8, 64), (97, 96)]
)
def test_only_thermal_reasons_are_throttle_bits(reasons, bits):
    nvml = FakeNvml()
    nvml.values["nvmlDeviceGetCurrentClocksEventReasons"] = reasons
    gpu = nvml_source(nvml)
    gpu.probe()
    assert gpu.read().throttle_bits == bits


def test_thresholds_come_from_the_margin():
    probe = nvml_source(FakeNvml()).probe()  # 61 + 26 = 87
    assert probe.thresholds == Thresholds(warm=67, target=75, resume=70, pause=77, stop=85)


@pytest.mark.parametrize("lost", ["error", "missing", "absurd"])
def test_thresholds_come_from_the_slowdown_temperature_without_a_margin(lost):
    nvml = FakeNvml(lacks=("nvmlDeviceGetMarginTemperature",) if lost == "missing" else ())
    nvml.values["nvmlDeviceGetMarginTemperature"] = -61
    if lost == "error":
        nvml.not_supported("nvmlDeviceGetMarginTemperature")
    probe = nvml_source(nvml).probe()
    assert probe.thresholds == Thresholds(warm=72, target=80, resume=75, pause=82, stop=90)
    assert ("nvmlDeviceGetTemperatureThreshold", (0, "gpu"), 1) in nvml.calls


def test_without_any_limit_the_thresholds_are_the_defaults():
    nvml = FakeNvml()
    nvml.not_supported("nvmlDeviceGetMarginTemperature", "nvmlDeviceGetTemperatureThreshold")
    probe = nvml_source(nvml).probe()
    assert probe.ok and probe.thresholds is None


@pytest.mark.parametrize("new", ["nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons"])
@pytest.mark.parametrize("lost", ["module", "driver"])
def test_older_names_of_functions_serve(new, lost):
    nvml = FakeNvml(lacks=(new,) if lost == "module" else ())
    if lost == "driver":
        nvml.fails[new] = nvml.NVMLError_FunctionNotFound("Function Not Found")
    gpu = nvml_source(nvml)
    assert gpu.probe().ok
    reading = gpu.read()
    assert reading.sensors[0].temp_c == 61 and reading.throttle_bits == 0


OPTIONAL = {
    "nvmlDeviceGetPowerUsage": "gpu_power_w",
    "nvmlDeviceGetClockInfo": "gpu_mhz",
    "nvmlDeviceGetUtilizationRates": "gpu_util",
    "nvmlDeviceGetCurrentClocksEventReasons": "throttle_bits",
}


@pytest.mark.parametrize("function, field", OPTIONAL.items())
def test_a_field_that_is_not_supported_is_none_for_ever_and_logged_once(function, field, caplog):
    nvml = FakeNvml(lacks=("nvmlDeviceGetCurrentClocksThrottleReasons",))
    nvml.not_supported(function)
    gpu = nvml_source(nvml)
    with caplog.at_level(logging.INFO):
        assert gpu.probe().ok
        first = vars(gpu.read())
        del nvml.fails[function]
        assert vars(gpu.read()) == first
    missing = {name for name, value in first.items() if value is None}
    assert missing & set(OPTIONAL.values()) == {field}
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert [call[0] for call in nvml.calls].count(function) == 1


@pytest.mark.parametrize("function, field", OPTIONAL.items())
def test_a_field_that_stops_being_supported_is_dropped_too(function, field, caplog):
    nvml = FakeNvml()
    gpu = nvml_source(nvml)
    gpu.probe()
    nvml.not_supported(function)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert vars(gpu.read())[field] is None
    assert len(caplog.records) == 1
    assert [call[0] for call in nvml.calls].count(function) == 2  # the probe and one read


def test_a_field_that_fails_for_a_moment_comes_back(caplog):
    nvml = FakeNvml()
    gpu = nvml_source(nvml)
    gpu.probe()
    nvml.fails["nvmlDeviceGetPowerUsage"] = nvml.NVMLError("Unknown Error")
    with caplog.at_level(logging.INFO):
        assert [gpu.read().gpu_power_w for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    nvml.fails.clear()
    assert gpu.read().gpu_power_w == 231.5


def test_nvml_lost_in_mid_run_is_an_error():
    nvml = FakeNvml()
    gpu = nvml_source(nvml)
    gpu.probe()
    nvml.fails["nvmlDeviceGetTemperatureV"] = nvml.NVMLError_GpuIsLost("GPU is lost")
    with pytest.raises(SensorError, match="GPU is lost"):
        gpu.read()
    nvml.fails["nvmlShutdown"] = nvml.NVMLError("Uninitialized")
    gpu.close()


@pytest.mark.parametrize(
    "visible, index",
    [
        (None, 0),
        ("0", 0),
        ("1,0", 1),
        (" 1 ", 1),
        ("GPU-51b7d9e3-bbbb", 1),
        ("GPU-51b7", 1),
        ("GPU-8f2a1c00-aaaa,1", 0),
        ("MIG-3c2f", 1),
        ("MIG-GPU-51b7d9e3-bbbb/7/0", 1),
    ],
)
def test_the_gpu_is_the_first_one_cuda_may_use(visible, index):
    nvml = FakeNvml()
    gpu = nvml_source(nvml, visible)
    assert gpu.probe().ok
    gpu.read()
    assert {call[1] for call in nvml.calls} == {(index, "gpu")}


@pytest.mark.parametrize("visible", ["", "-1", "2", "GPU-00", "MIG-none", "NoDevFiles"])
def test_a_gpu_that_is_hidden_or_not_there_is_no_source(visible):
    nvml = FakeNvml()
    probe = nvml_source(nvml, visible).probe()
    assert not probe.ok and "no GPU to read" in probe.detail
    assert nvml.running == 0


def test_the_variable_of_the_process_is_read_at_the_probe(monkeypatch):
    gpu = NvmlSource(FakeNvml())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    gpu.probe()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not gpu.probe().ok


def test_a_machine_without_the_driver():
    nvml = FakeNvml()
    nvml.fails["nvmlInit"] = nvml.NVMLError_LibraryNotFound("NVML Shared Library Not Found")
    probe = nvml_source(nvml).probe()
    assert not probe.ok
    assert "Shared Library Not Found" in probe.detail and "NVIDIA driver" in probe.detail


def test_a_machine_without_the_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # import fails, installed or not
    probe = NvmlSource().probe()
    assert not probe.ok and "bit-axon[nvidia]" in probe.detail


def test_the_module_is_imported_by_the_probe(monkeypatch):
    gpu = NvmlSource(environment={})
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    assert gpu.probe().detail == "NVIDIA Test"
    gpu.close()


def test_a_gpu_without_a_temperature_is_no_source():
    nvml = FakeNvml()
    nvml.not_supported("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
    probe = nvml_source(nvml).probe()
    assert not probe.ok and "temperature" in probe.detail
    assert nvml.running == 0
