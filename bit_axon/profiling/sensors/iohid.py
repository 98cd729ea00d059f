"""Temperatures from the sensors of Apple's HID event system, without root: the choice after the SMC.

What there is depends on the chip: M1 names sensors of cores and GPU, later chips mostly offer
`PMU tdie*`, which rises with load on the CPU and hardly with load on the GPU. A sensor takes a good
millisecond to read, so one poll reads at most sixteen of the die and one of the case. The functions are not
in Apple's public headers, and nothing here was tried on Apple hardware so far: `bit-axon thermal doctor`
is the check on a real Mac.
"""

import re
import sys
import threading
from collections.abc import Sequence
from ctypes import c_double, c_int32, c_int64, c_void_p
from typing import Final, NamedTuple

from bit_axon.errors import SensorError, problem
from bit_axon.profiling.reading import Group, RawReading, SensorValue
from bit_axon.profiling.sensors.base import Probe
from bit_axon.profiling.sensors.corefoundation import CoreFoundation
from bit_axon.profiling.sensors.shared_library import (
    CORE_FOUNDATION,
    IOKIT,
    MACOS_ONLY,
    Library,
    Loader,
    load_library,
)

MOST_DIE_SENSORS: Final = 16
_VENDOR_PAGE, _TEMPERATURE_USAGE = 0xFF00, 5
_TEMPERATURE_EVENT = 15
_TEMPERATURE_FIELD = _TEMPERATURE_EVENT << 16
_CLOSE_SECONDS = 0.5  # a read takes some 25 ms
_REMEDY = "`bit-axon thermal doctor` shows which other sources there are."

# In the order in which they are chosen when there are more than one poll reads.
_DIE: Final[tuple[tuple[re.Pattern[str], Group], ...]] = (
    (re.compile(r"GPU MTR"), "gpu"),
    (re.compile(r"[psme]ACC "), "cpu"),
    (re.compile(r"PMU tdie"), "cpu"),
    (re.compile(r"PMU\d+ tdie"), "cpu"),
)
_CASE: Final = (re.compile(r"gas gauge battery"), re.compile(r"NAND"))
_DROPPED: Final = re.compile(r"PMU\d* tcal")  # a constant for calibration, 51.8 °C at all times


class Chosen(NamedTuple):
    """A sensor that polls read, and its place in the list it was chosen from."""

    place: int
    name: str
    group: Group


def group_of(name: str) -> Group | None:
    """What a sensor measures by its name; None for one that measures nothing."""
    if _DROPPED.match(name):
        return None
    if any(pattern.match(name) for pattern in _CASE):
        return "chassis"
    return next((group for pattern, group in _DIE if pattern.match(name)), "other")


def choose(names: Sequence[str | None]) -> tuple[Chosen, ...]:
    """At most sixteen sensors of the die, those of the GPU first, and one of the case.

    Of several with one name the first counts. None stands for a sensor without a name.
    """
    found: dict[str, Chosen] = {}
    for place, name in enumerate(names):
        if name is not None and name not in found and (group := group_of(name)) is not None:
            found[name] = Chosen(place, name, group)
    die = sorted((c for c in found.values() if c.group in ("cpu", "gpu")), key=_order)
    case = sorted((c for c in found.values() if c.group == "chassis"), key=_order)
    return (*die[:MOST_DIE_SENSORS], *case[:1])


def _order(chosen: Chosen) -> tuple[int, list[tuple[int, str]]]:
    """By kind, then by name with `10` after `9`."""
    patterns = (*(pattern for pattern, _ in _DIE), *_CASE)
    rank = next(n for n, pattern in enumerate(patterns) if pattern.match(chosen.name))
    pieces = re.findall(r"\d+|\D+", chosen.name)
    return rank, [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces]


class IoHidSource:
    """The sensors of the event system; client and list of sensors live from `probe` to `close`.

    Args:
        load: loads a library by its path.
        platform: as `sys.platform`.
    """

    name = "iohid"

    def __init__(self, load: Loader = load_library, *, platform: str = sys.platform):
        self._load, self._platform = load, platform
        self._client: _HidClient | None = None
        self._chosen: tuple[Chosen, ...] = ()
        self._lock = threading.Lock()  # references must not be released while another thread reads

    def probe(self) -> Probe:
        """Makes a client, chooses among its sensors and reads them once."""
        if self._platform != "darwin":
            return Probe(False, MACOS_ONLY)
        self.close()
        try:
            with self._lock:
                self._open()
            self.read()
        except SensorError as error:
            self.close()
            return Probe(False, str(error))
        return Probe(True, self._describe())

    def read(self) -> RawReading:
        """The chosen sensors as they answer now; those without an answer are left out.

        Raises:
            SensorError: no sensor of the die answered.
        """
        with self._lock:
            client = self._client
            if client is None:
                raise SensorError(problem("HID temperatures", "a source that was not opened", _REMEDY))
            values = [(c.name, c.group, client.temperature(c.place)) for c in self._chosen]
        sensors = tuple(SensorValue(name, group, value) for name, group, value in values if value is not None)
        if not any(sensor.group in ("cpu", "gpu") for sensor in sensors):
            raise SensorError(problem("HID temperatures", "no answer from any sensor", _REMEDY))
        return RawReading(sensors)

    def close(self) -> None:
        """Releases client and sensors."""
        if not self._lock.acquire(timeout=_CLOSE_SECONDS):
            return  # a read hangs: what it uses must stay, and goes with the process
        try:
            if self._client is not None:
                self._client.close()
            self._client, self._chosen = None, ()
        finally:
            self._lock.release()

    def _open(self) -> None:
        self._client = _HidClient(CoreFoundation(self._load(CORE_FOUNDATION)), self._load(IOKIT))
        self._client.open()
        names = self._client.names()
        self._chosen = choose(names)
        if not any(chosen.group in ("cpu", "gpu") for chosen in self._chosen):
            raise SensorError(
                problem("HID temperatures of the die", f"none among {len(names)} sensors", _REMEDY)
            )

    def _describe(self) -> str:
        gpu = sum(1 for chosen in self._chosen if chosen.group == "gpu")
        cpu = sum(1 for chosen in self._chosen if chosen.group == "cpu")
        text = f"{gpu} GPU and {cpu} CPU sensors"
        return text if gpu else f"{text}, no sensor of the GPU: load on it hardly shows"


class _HidClient:
    """The event system's client and its list of temperature sensors."""

    def __init__(self, core: CoreFoundation, iokit: Library):
        self._core = core
        self._create = iokit.function("IOHIDEventSystemClientCreate", c_void_p, c_void_p)
        self._set_matching = iokit.function("IOHIDEventSystemClientSetMatching", c_int32, c_void_p, c_void_p)
        self._copy_services = iokit.function("IOHIDEventSystemClientCopyServices", c_void_p, c_void_p)
        self._copy_property = iokit.function("IOHIDServiceClientCopyProperty", c_void_p, c_void_p, c_void_p)
        self._copy_event = iokit.function(
            "IOHIDServiceClientCopyEvent", c_void_p, c_void_p, c_int64, c_int32, c_int64
        )
        self._float_value = iokit.function("IOHIDEventGetFloatValue", c_double, c_void_p, c_int32)
        self._client: int | None = None
        self._array: int | None = None  # it keeps the services alive
        self._services: list[int] = []

    def open(self) -> None:
        """Makes the client and takes its list of sensors.

        Raises:
            SensorError: the event system gives neither.
        """
        self._client = self._create(None)
        if self._client is None:
            raise SensorError(problem("a client of the HID event system", "NULL", _REMEDY))
        matching = {"PrimaryUsagePage": _VENDOR_PAGE, "PrimaryUsage": _TEMPERATURE_USAGE}
        with self._core.owned(self._core.create_dictionary(matching)) as dictionary:
            self._set_matching(self._client, dictionary)
        self._array = self._copy_services(self._client)
        if self._array is None:
            raise SensorError(problem("a list of HID temperature sensors", "NULL", _REMEDY))
        self._services = self._core.items(self._array)

    def names(self) -> list[str | None]:
        """The sensors' names, in their order."""
        with self._core.owned(self._core.create_string("Product")) as key:
            return [self._name(service, key) for service in self._services]

    def temperature(self, place: int) -> float | None:
        """A sensor's temperature now, in °C; None without an answer."""
        event = self._copy_event(self._services[place], _TEMPERATURE_EVENT, 0, 0)
        if event is None:
            return None
        with self._core.owned(event):
            return self._float_value(event, _TEMPERATURE_FIELD)

    def close(self) -> None:
        """Releases what `open` took."""
        self._services = []
        self._core.release(self._array)
        self._core.release(self._client)
        self._array = self._client = None

    def _name(self, service: int, key: int) -> str | None:
        found = self._copy_property(service, key)
        if found is None:
            return None
        with self._core.owned(found):
            return self._core.text(found)
