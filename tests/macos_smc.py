"""A Mac's system management controller for tests on any system, and the IOKit that leads to it.

The controller takes messages apart by offsets of its own, not with the structures of the code under test.
"""

import ctypes
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from macos_libraries import FakeLibrary, Heap

from bit_axon.errors import SensorError
from bit_axon.profiling.sensors.shared_library import IOKIT, LIBSYSTEM

# One message, byte by byte: key; version; power limit; size, type and attributes of the value; result,
# status, command; index; value.
MESSAGE = struct.Struct("<I 4BH2x 2H3I IIB3x BBBx I 32s")
assert MESSAGE.size == 80


def four(name: str) -> int:
    return struct.unpack(">I", name.encode())[0]


def float_bytes(value: float) -> bytes:
    return struct.pack("<f", value)


class FakeSmc:
    """A controller with a table of keys: name -> type and bytes of the value."""

    def __init__(self, keys: Mapping[str, tuple[str, bytes]], unnamed: Sequence[int] = ()):
        self.keys, self.unnamed = dict(keys), unnamed
        self.lost = False
        self.commands: list[tuple[int, str]] = []
        self.closed = 0

    def call(self, request: bytes) -> bytes:
        if self.lost:
            raise SensorError("the connection is gone")
        code, *_, size, kind, _, result, status, command, index, _ = MESSAGE.unpack(request)
        assert (result, status) == (0, 0)
        name = struct.pack(">I", code).decode("latin-1")
        self.commands.append((command, name))
        return {8: self._name_at, 9: self._info, 5: self._value}[command](name, index, size, kind)

    def close(self) -> None:
        self.closed += 1

    def count(self, command: int) -> int:
        return sum(1 for sent, _ in self.commands if sent == command)

    def table(self) -> dict[str, tuple[str, bytes]]:
        count = len(self.keys) + len(self.unnamed) + 1
        return {"#KEY": ("ui32", struct.pack(">I", count)), **self.keys}

    def _name_at(self, name: str, index: int, size: int, kind: int) -> bytes:
        listed: list[str | None] = list(self.table())
        for place in self.unnamed:
            listed.insert(place, None)
        found = listed[index] if index < len(listed) else None
        return self._answer(result=132) if found is None else self._answer(key=four(found))

    def _info(self, name: str, index: int, size: int, kind: int) -> bytes:
        if name not in self.table():
            return self._answer(result=132)
        type_name, data = self.table()[name]
        return self._answer(size=len(data), kind=four(type_name))

    def _value(self, name: str, index: int, size: int, kind: int) -> bytes:
        if name not in self.table():
            return self._answer(result=132)
        type_name, data = self.table()[name]
        assert (size, kind) == (len(data), four(type_name)), "a value is asked for with its key's info"
        return self._answer(data=data)

    def _answer(
        self, *, key: int = 0, size: int = 0, kind: int = 0, result: int = 0, data: bytes = b""
    ) -> bytes:
        return MESSAGE.pack(key, *[0] * 10, size, kind, 0x80, result, 0, 0, 0, data)


TASK = 0x1203
PORT = 0x4A07


@dataclass
class SmcMac:
    """IOKit and libSystem of a Mac, as far as opening the controller takes.

    Attributes:
        smc: what answers.
        services: names of the services of the class AppleSMC, in the registry's order.
        open_status, call_status, list_status: what IOKit returns.
        answer_bytes: how long IOKit says an answer is.
    """

    smc: FakeSmc
    services: Sequence[str] = ("AppleSMCKeysEndpoint",)
    open_status: int = 0
    call_status: int = 0
    list_status: int = 0
    answer_bytes: int = 80
    settings: Mapping[bytes, bytes] = field(
        default_factory=lambda: {b"hw.model": b"Mac14,2", b"kern.osversion": b"24C101"}
    )

    def __post_init__(self) -> None:
        self.heap = Heap()
        self.handles: dict[int, int] = {}  # kernel object -> references
        self.opened: list[str] = []
        self._rest: list[int] = []
        self.iokit = FakeLibrary(
            {
                "IOServiceMatching": lambda name: self.heap.new(ctypes.string_at(name)),
                "IOServiceGetMatchingServices": self._list,
                "IOIteratorNext": lambda iterator: self._rest.pop(0) if self._rest else 0,
                "IORegistryEntryGetName": self._name,
                "IOObjectRelease": self._release,
                "IOServiceOpen": self._open,
                "IOServiceClose": self._close,
                "IOConnectCallStructMethod": self._call,
            }
        )
        self.system = FakeLibrary({"sysctlbyname": self._sysctl}, {"mach_task_self_": TASK})

    def load(self, path: str) -> FakeLibrary:
        return {IOKIT: self.iokit, LIBSYSTEM: self.system}[path]

    def check(self) -> None:
        """No call was wrong, and nothing is held but what is open."""
        assert not self.iokit.errors + self.system.errors
        assert not self.heap.live()
        assert not [handle for handle, count in self.handles.items() if count]

    def _list(self, port: int, matching: int, iterator: int) -> int:
        assert port == 0
        assert self.heap.value(matching) == b"AppleSMC"
        self.heap.release(matching)
        if self.list_status:
            return self.list_status
        self._rest = [100 + place for place in range(len(self.services))]
        self.handles = dict.fromkeys([99, *self._rest], 1)
        ctypes.c_uint32.from_address(iterator).value = 99
        return 0

    def _name(self, service: int, buffer: int) -> int:
        raw = self.services[service - 100].encode() + b"\0"
        ctypes.memmove(buffer, raw, len(raw))
        return 0

    def _release(self, handle: int) -> int:
        assert self.handles.get(handle, 0) > 0, f"{handle} released once too often"
        self.handles[handle] -= 1
        return 0

    def _open(self, service: int, task: int, kind: int, port: int) -> int:
        assert (task, kind) == (TASK, 0)
        assert self.handles[service] == 1
        if self.open_status == 0:
            self.opened.append(self.services[service - 100])
            ctypes.c_uint32.from_address(port).value = PORT
        return self.open_status

    def _close(self, port: int) -> int:
        assert port == PORT
        self.smc.close()
        return 0

    def _call(self, port: int, selector: int, request: int, size: int, answer: int, answer_size: int) -> int:
        room = ctypes.c_size_t.from_address(answer_size)
        assert (port, selector, size, room.value) == (PORT, 2, 80, 80)
        if self.call_status:
            return self.call_status
        ctypes.memmove(answer, self.smc.call(ctypes.string_at(request, 80)), 80)
        room.value = self.answer_bytes
        return 0

    def _sysctl(self, name: int, buffer: int, size: int, new: int | None, new_size: int) -> int:
        assert (new, new_size) == (None, 0)
        value = self.settings.get(ctypes.string_at(name))
        room = ctypes.c_size_t.from_address(size)
        if value is None or len(value) >= room.value:
            return -1
        ctypes.memmove(buffer, value + b"\0", len(value) + 1)
        room.value = len(value) + 1
        return 0
