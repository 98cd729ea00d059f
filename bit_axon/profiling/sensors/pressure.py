"""Darwin's thermal pressure: the cheapest signal of a Mac, about 0.01 ms a read, without root.

Levels 0 nominal, 1 moderate, 2 heavy (clocks are being cut), 3 trapping, 4 sleeping. Nominal proves
nothing: Macs were seen to slow down at that level. It is the state of a Darwin notification, the one
`powermetrics` prints; `NSProcessInfo.thermalState` keeps its first value in a process without a main run
loop, so it is not used. Never run on Apple hardware so far: `bit-axon thermal doctor` is the check there.
"""

import ctypes
import sys
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_uint32, c_uint64
from typing import Any

from bit_axon.errors import SensorError, problem
from bit_axon.profiling.reading import PRESSURE_NAMES, RawReading
from bit_axon.profiling.sensors.base import Probe
from bit_axon.profiling.sensors.shared_library import LIBSYSTEM, MACOS_ONLY, Loader, load_library

_NOTIFICATION = b"com.apple.system.thermalpressurelevel"
_REMEDY = "The run goes on without thermal pressure; `bit-axon thermal doctor` shows what else there is."


class PressureSource:
    """The pressure level and nothing else: registered once by `probe`, then read again and again.

    Args:
        load: loads a library by its path.
        platform: as `sys.platform`.
    """

    name = "pressure"

    def __init__(self, load: Loader = load_library, *, platform: str = sys.platform):
        self._load, self._platform = load, platform
        self._registration: _Registration | None = None

    def probe(self) -> Probe:
        """Registers for the level and reads it."""
        if self._platform != "darwin":
            return Probe(False, MACOS_ONLY)
        self.close()
        try:
            self._registration = _Registration(self._load)
            level = self._registration.level()
        except SensorError as error:
            self.close()
            return Probe(False, str(error))
        return Probe(True, f"thermal pressure, now {PRESSURE_NAMES[level]}")

    def read(self) -> RawReading:
        """The level now; no temperatures.

        Raises:
            SensorError: the system does not say, or says a level that is not known.
        """
        registration = self._registration
        if registration is None:
            raise SensorError(problem("the thermal pressure", "a source that was not opened", _REMEDY))
        return RawReading(pressure=registration.level())

    def close(self) -> None:
        """Cancels the registration."""
        if self._registration is not None:
            self._registration.cancel()
            self._registration = None


class _Registration:
    def __init__(self, load: Loader):
        system = load(LIBSYSTEM)
        register = system.function("notify_register_check", c_uint32, c_char_p, POINTER(c_int))
        self._get_state = system.function("notify_get_state", c_uint32, c_int, POINTER(c_uint64))
        self._cancel: Callable[..., Any] = system.function("notify_cancel", c_uint32, c_int)
        token = c_int(-1)
        _check(register(_NOTIFICATION, ctypes.byref(token)), "to register for thermal pressure")
        self._token = token.value

    def level(self) -> int:
        state = c_uint64()
        _check(self._get_state(self._token, ctypes.byref(state)), "the thermal pressure")
        if state.value >= len(PRESSURE_NAMES):
            raise SensorError(
                problem(f"a pressure level below {len(PRESSURE_NAMES)}", f"{state.value}", _REMEDY)
            )
        return state.value

    def cancel(self) -> None:
        self._cancel(self._token)


def _check(status: int, wanted: str) -> None:
    if status != 0:
        raise SensorError(problem(wanted, f"notification status {status}", _REMEDY))
