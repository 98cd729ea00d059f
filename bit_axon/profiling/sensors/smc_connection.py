"""Opening the system management controller through IOKit, which needs no root on a real Mac.

Never run on Apple hardware so far: its tests put C functions of their own in IOKit's place;
`bit-axon thermal doctor` is the check on a real Mac.
"""

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from typing import Any, Protocol

from bit_axon.errors import SensorError, problem
from bit_axon.profiling.sensors.shared_library import IOKIT, LIBSYSTEM, Library, Loader, load_library
from bit_axon.profiling.sensors.smc_protocol import MESSAGE_BYTES

_CLASS = b"AppleSMC"
_ENDPOINT = b"AppleSMCKeysEndpoint"  # the service of that class which answers about keys
_SELECTOR = 2
_NAME_BYTES = 128  # io_name_t
_SYSCTL_BYTES = 256
_REASONS = {
    0xE00002E2: "not permitted; a sandbox or a virtual machine forbids it",
    0xE00002C1: "not privileged",
    0xE00002C5: "exclusive access, held by another program",
    0xE00002D8: "not ready",
}
_REMEDY = "Run outside a sandbox, or choose another thermal.source; `bit-axon thermal doctor` lists them."


class Connection(Protocol):
    """An open way to the controller."""

    def call(self, request: bytes) -> bytes:
        """Sends 80 bytes, returns 80.

        Raises:
            SensorError: the controller cannot be reached any more.
        """

    def close(self) -> None:
        """Ends the connection."""


class IoKitConnection:
    """A connection that IOKit opened.

    Args:
        iokit: the framework, loaded.
        port: what IOServiceOpen gave.
    """

    def __init__(self, iokit: Library, port: int):
        self._port = port
        self._call = iokit.function(
            "IOConnectCallStructMethod",
            c_uint32,
            c_uint32,
            c_uint32,
            c_void_p,
            c_size_t,
            c_void_p,
            POINTER(c_size_t),
        )
        self._close = iokit.function("IOServiceClose", c_uint32, c_uint32)

    def call(self, request: bytes) -> bytes:
        """As `Connection.call`."""
        answer, size = ctypes.create_string_buffer(MESSAGE_BYTES), c_size_t(MESSAGE_BYTES)
        status = self._call(self._port, _SELECTOR, request, len(request), answer, ctypes.byref(size))
        _check(status, "an answer of the SMC")
        if size.value != MESSAGE_BYTES:
            raise SensorError(problem("80 bytes of the SMC", f"{size.value}", _REMEDY))
        return answer.raw

    def close(self) -> None:
        """As `Connection.close`."""
        self._close(self._port)


def open_connection(load: Loader = load_library) -> Connection:
    """Finds the controller's service and opens it.

    Raises:
        SensorError: no library, no service, or not permitted.
    """
    iokit, system = load(IOKIT), load(LIBSYSTEM)
    task = c_uint32.from_address(system.address("mach_task_self_")).value
    open_service = iokit.function("IOServiceOpen", c_uint32, c_uint32, c_uint32, c_uint32, POINTER(c_uint32))
    registry = _Registry(iokit)
    service, port = registry.find_service(), c_uint32()
    try:
        _check(open_service(service, task, 0, ctypes.byref(port)), "to open the SMC")
    finally:
        registry.release(service)
    return IoKitConnection(iokit, port.value)


class _Registry:
    """IOKit's registry of services, as far as finding one takes."""

    def __init__(self, iokit: Library):
        self._matching = iokit.function("IOServiceMatching", c_void_p, c_char_p)
        self._services = iokit.function(
            "IOServiceGetMatchingServices", c_uint32, c_uint32, c_void_p, POINTER(c_uint32)
        )
        self._next = iokit.function("IOIteratorNext", c_uint32, c_uint32)
        self._name = iokit.function("IORegistryEntryGetName", c_uint32, c_uint32, c_char_p)
        self.release: Callable[[int], Any] = iokit.function("IOObjectRelease", c_uint32, c_uint32)

    def find_service(self) -> int:
        """The service by its name, else the first of its class; the caller's to release."""
        services = self._all_services()
        if not services:
            raise SensorError(
                problem("a service of the SMC", "none", "Only Macs have one; choose another thermal.source.")
            )
        chosen = next((s for s in services if self._name_of(s) == _ENDPOINT), services[0])
        for service in services:
            if service != chosen:
                self.release(service)
        return chosen

    def _all_services(self) -> list[int]:
        iterator = c_uint32()
        matching = self._matching(_CLASS)  # the next call takes it over, so it is not ours to release
        _check(self._services(0, matching, ctypes.byref(iterator)), "the services of the SMC")
        try:
            return list(iter(lambda: self._next(iterator.value), 0))
        finally:
            self.release(iterator.value)

    def _name_of(self, service: int) -> bytes:
        buffer = ctypes.create_string_buffer(_NAME_BYTES)
        return buffer.value if self._name(service, buffer) == 0 else b""


def machine_build(load: Loader = load_library) -> str | None:
    """Model and build of the system, `Mac14,2 24C101`: what the set of keys depends on; None if not told."""
    try:
        read = load(LIBSYSTEM).function(
            "sysctlbyname", c_int, c_char_p, c_void_p, POINTER(c_size_t), c_void_p, c_size_t
        )
    except SensorError:
        return None  # without it names are not kept, which costs a second at each start
    parts = []
    for name in (b"hw.model", b"kern.osversion"):
        buffer, size = ctypes.create_string_buffer(_SYSCTL_BYTES), c_size_t(_SYSCTL_BYTES)
        if read(name, buffer, ctypes.byref(size), None, 0) != 0 or not buffer.value:
            return None
        parts.append(buffer.value.decode(errors="replace"))
    return " ".join(parts)


def _check(status: int, wanted: str) -> None:
    if status != 0:
        reason = _REASONS.get(status)
        raise SensorError(problem(wanted, f"0x{status:08X}" + (f", {reason}" if reason else ""), _REMEDY))
