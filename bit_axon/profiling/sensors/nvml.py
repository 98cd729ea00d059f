"""NVIDIA GPUs through NVML, the library of the driver (the extra `nvidia`: the module `pynvml`)."""

import importlib
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from bit_axon.errors import SensorError, problem
from bit_axon.profiling.reading import RawReading, SensorValue
from bit_axon.profiling.sensors.base import Probe, Thresholds
from bit_axon.profiling.sensors.linux import thresholds_around

_log = logging.getLogger(__name__)

# Numbers of nvml.h, which never change.
_GPU_SENSOR: Final = 0
_SLOWDOWN_THRESHOLD: Final = 1
_SM_CLOCK: Final = 1
_THERMAL_REASONS: Final = 32 | 64  # slowdown by software and by hardware; 8 may be power too

_SANE_SLOWDOWN: Final = (60.0, 125.0)  # °C
_PAUSE_MARGIN: Final = 10  # °C below the slowdown temperature
_STOP_MARGIN: Final = 2

_Call = Callable[[], Any]


class NvmlSource:
    """The temperature of the GPU that CUDA uses first, its clock, power and work.

    A GPU given by number is taken in NVML's order, that of the PCI bus; CUDA's own order differs between
    unlike GPUs unless CUDA_DEVICE_ORDER=PCI_BUS_ID. A part of a GPU (MIG) is measured as its whole GPU.

    Args:
        module: `pynvml`; imported by the probe when not given.
        environment: for CUDA_VISIBLE_DEVICES; the process's own when not given.
    """

    name = "nvml"

    def __init__(self, module: Any = None, environment: Mapping[str, str] | None = None):
        self._given = module
        self._environment = os.environ if environment is None else environment
        self._nvml: Any = None  # while it is initialised
        self._fields: dict[str, _Call] = {}
        self._warned: set[str] = set()

    def probe(self) -> Probe:
        """Loads the library, finds the GPU and tries each call once; what is not supported stays out."""
        self.close()
        try:
            nvml = importlib.import_module("pynvml") if self._given is None else self._given
        except ImportError:
            return Probe(False, "no Python module pynvml: install it with `pip install 'bit-axon[nvidia]'`")
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            return Probe(False, f"NVML does not start: {error}; is there an NVIDIA driver?")
        self._nvml = nvml
        try:
            device = _device(nvml, self._environment.get("CUDA_VISIBLE_DEVICES"))
            self._fields = self._supported(_calls(nvml, device))
            if "temperature" not in self._fields:
                raise SensorError("the GPU does not tell its temperature")
            return Probe(True, str(nvml.nvmlDeviceGetName(device)), self._thresholds(device))
        except (nvml.NVMLError, SensorError) as error:
            self.close()
            return Probe(False, f"no GPU to read: {error}")

    def read(self) -> RawReading:
        """Temperature, clock, power, work and thermal reasons for a lower clock, as far as known.

        Raises:
            SensorError: NVML or the GPU is lost.
        """
        if self._nvml is None:
            raise SensorError(problem("an answer of NVML", "no GPU", "Probe the source first."))
        try:
            temp = float(self._fields["temperature"]())
        except self._nvml.NVMLError as error:
            remedy = "See `nvidia-smi`; a GPU that fell off the bus needs a reboot."
            raise SensorError(problem("the GPU's temperature", f"from NVML: {error}", remedy)) from error
        milliwatts, reasons = self._value("power"), self._value("clock reasons")
        work = self._value("utilisation")
        return RawReading(
            sensors=(SensorValue("gpu", "gpu", temp),),
            throttle_bits=None if reasons is None else int(reasons) & _THERMAL_REASONS,
            gpu_power_w=None if milliwatts is None else milliwatts / 1000,
            gpu_mhz=self._value("clock"),
            gpu_util=None if work is None else work.gpu / 100,
        )

    def close(self) -> None:
        """Shuts NVML down."""
        if self._nvml is not None:
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError as error:
                _log.info("NVML did not shut down: %s", error)
        self._nvml, self._fields = None, {}

    def _supported(self, calls: Mapping[str, tuple[_Call, ...]]) -> dict[str, _Call]:
        """For each field the first call that answers; a missing function is a module older than it."""
        fields = {}
        for field, alternatives in calls.items():
            reason = ""
            for call in alternatives:
                try:
                    call()
                except (self._nvml.NVMLError, AttributeError) as error:
                    reason = str(error)
                else:
                    fields[field] = call
                    break
            if field not in fields:
                self._note(field, reason)
        return fields

    def _value(self, field: str) -> Any:
        """None for a field that is not supported, for ever, or that has no answer just now."""
        try:
            return self._fields[field]() if field in self._fields else None
        except self._nvml.NVMLError_NotSupported as error:
            del self._fields[field]
            self._note(field, str(error))
        except self._nvml.NVMLError as error:
            self._note(field, str(error))
        return None

    def _note(self, field: str, reason: str) -> None:
        if field not in self._warned:
            self._warned.add(field)
            _log.info("NVML gives no %s: %s", field, reason)

    def _thresholds(self, device: Any) -> Thresholds | None:
        """From the temperature at which the driver lowers the clock; None where it does not tell."""
        nvml = self._nvml
        temperature = self._fields["temperature"]
        calls = (
            lambda: temperature() + nvml.nvmlDeviceGetMarginTemperature(device),
            lambda: nvml.nvmlDeviceGetTemperatureThreshold(device, _SLOWDOWN_THRESHOLD),
        )
        for call in calls:
            try:
                slowdown_temp = float(call())
            except (nvml.NVMLError, AttributeError):
                continue
            if _SANE_SLOWDOWN[0] <= slowdown_temp <= _SANE_SLOWDOWN[1]:
                return thresholds_around(slowdown_temp - _PAUSE_MARGIN, slowdown_temp - _STOP_MARGIN)
        return None


def _calls(nvml: Any, device: Any) -> dict[str, tuple[_Call, ...]]:
    """What is read, newest function first."""
    return {
        "temperature": (
            lambda: nvml.nvmlDeviceGetTemperatureV(device, _GPU_SENSOR),
            lambda: nvml.nvmlDeviceGetTemperature(device, _GPU_SENSOR),
        ),
        "power": (lambda: nvml.nvmlDeviceGetPowerUsage(device),),
        "clock": (lambda: nvml.nvmlDeviceGetClockInfo(device, _SM_CLOCK),),
        "utilisation": (lambda: nvml.nvmlDeviceGetUtilizationRates(device),),
        "clock reasons": (
            lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(device),
            lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device),
        ),
    }


def _device(nvml: Any, visible: str | None) -> Any:
    """The GPU of the first entry of CUDA_VISIBLE_DEVICES: a number, a UUID or its beginning, or a MIG part.

    Raises:
        SensorError: the variable hides all GPUs, or names none that there is.
    """
    entry = "0" if visible is None else visible.split(",")[0].strip()
    if entry.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(entry))
    if entry.startswith("MIG-GPU-"):  # MIG-GPU-<uuid>/<instance>/<compute instance>, of drivers before 470
        return nvml.nvmlDeviceGetHandleByUUID(entry.removeprefix("MIG-").split("/")[0])
    if entry.startswith("MIG-"):
        part = nvml.nvmlDeviceGetHandleByUUID(entry)
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)
    if entry.startswith("GPU-"):
        for index in range(nvml.nvmlDeviceGetCount()):
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            if str(nvml.nvmlDeviceGetUUID(device)).startswith(entry):
                return device
    raise SensorError(f"CUDA_VISIBLE_DEVICES={visible} names no GPU of this machine")
