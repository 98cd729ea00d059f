"""macOS libraries for tests on any system: C functions made from Python ones.

They are real C functions, called through the types that the code under test declared, so a pointer declared
as an int arrives cut in half, as it would on a Mac. `HEADERS` holds the types as Apple's headers have them
(or, for what is not in public headers, as other programs do that run on Macs).
"""

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_void_p
from dataclasses import dataclass, field
from typing import Any

from bit_axon.errors import SensorError
from bit_axon.profiling.sensors.shared_library import CORE_FOUNDATION, IOKIT, LIBSYSTEM

TYPES = {
    "void": None,
    "ptr": c_void_p,
    "bool": ctypes.c_bool,
    "i32": ctypes.c_int32,
    "u32": ctypes.c_uint32,
    "i64": ctypes.c_int64,
    "u64": ctypes.c_uint64,
    "f64": ctypes.c_double,
}
HEADERS = {
    "CFRelease": "void ptr",
    "CFGetTypeID": "u64 ptr",
    "CFStringGetTypeID": "u64",
    "CFStringCreateWithCString": "ptr ptr ptr u32",
    "CFStringGetCString": "bool ptr ptr i64 u32",
    "CFNumberCreate": "ptr ptr i64 ptr",
    "CFDictionaryCreate": "ptr ptr ptr ptr i64 ptr ptr",
    "CFArrayGetCount": "i64 ptr",
    "CFArrayGetValueAtIndex": "ptr ptr i64",
    "IOHIDEventSystemClientCreate": "ptr ptr",
    "IOHIDEventSystemClientSetMatching": "i32 ptr ptr",
    "IOHIDEventSystemClientCopyServices": "ptr ptr",
    "IOHIDServiceClientCopyProperty": "ptr ptr ptr",
    "IOHIDServiceClientCopyEvent": "ptr ptr i64 i32 i64",
    "IOHIDEventGetFloatValue": "f64 ptr i32",
    "IOServiceMatching": "ptr ptr",
    "IOServiceGetMatchingServices": "u32 u32 ptr ptr",
    "IOIteratorNext": "u32 u32",
    "IORegistryEntryGetName": "u32 u32 ptr",
    "IOObjectRelease": "u32 u32",
    "IOServiceOpen": "u32 u32 u32 u32 ptr",
    "IOServiceClose": "u32 u32",
    "IOConnectCallStructMethod": "u32 u32 u32 ptr u64 ptr ptr",
    "sysctlbyname": "i32 ptr ptr ptr ptr u64",
    "notify_register_check": "u32 ptr ptr",
    "notify_get_state": "u32 i32 ptr",
    "notify_cancel": "u32 i32",
}


def type_word(declared: Any) -> str:
    """A ctypes type in the words of `HEADERS`."""
    if declared is None:
        return "void"
    if declared in (c_void_p, ctypes.c_char_p) or issubclass(declared, ctypes._Pointer):
        return "ptr"
    code = declared._type_
    if code in "?d":
        return {"?": "bool", "d": "f64"}[code]
    return f"{'u' if code.isupper() else 'i'}{8 * ctypes.sizeof(declared)}"


class FakeLibrary:
    """A library of some of the functions of `HEADERS`; variables are looked up in `data`."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]], data: Mapping[str, int] | None = None):
        self._functions, self._data = functions, dict(data or {})
        self._alive: list[Any] = []  # C functions and variables live as long as this
        self.calls: list[tuple[Any, ...]] = []
        self.errors: list[BaseException] = []

    def function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        if name not in self._functions:
            raise SensorError(f"no function {name}")
        assert " ".join(type_word(t) for t in (result, *arguments)) == HEADERS[name], name
        types: list[Any] = [TYPES[word] for word in HEADERS[name].split()]
        real = ctypes.CFUNCTYPE(*types)(self._watched(name))
        self._alive.append(real)
        return ctypes.CFUNCTYPE(result, *arguments)(ctypes.cast(real, c_void_p).value or 0)

    def address(self, symbol: str) -> int:
        if symbol not in self._data:
            raise SensorError(f"no variable {symbol}")
        variable = ctypes.c_uint32(self._data[symbol])
        self._alive.append(variable)
        self._data["&" + symbol] = ctypes.addressof(variable)
        return ctypes.addressof(variable)

    def address_given(self, symbol: str) -> int:
        return self._data["&" + symbol]

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of a function."""
        return [call[1:] for call in self.calls if call[0] == name]

    def _watched(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            try:
                return self._functions[name](*arguments)
            except BaseException as error:  # C cannot pass it on
                self.errors.append(error)
                return 0

        return call


class Heap:
    """Counted references at addresses that need more than 32 bits."""

    def __init__(self) -> None:
        self.objects: dict[int, Any] = {}
        self.counts: dict[int, int] = {}
        self._parts: dict[int, Sequence[int]] = {}
        self._next = 0x6000_0000_0010

    def new(self, value: Any, parts: Sequence[int] = ()) -> int:
        """An object with one reference, which owns `parts`."""
        address = self._next
        self._next += 0x1_0000_0010
        self.objects[address], self.counts[address], self._parts[address] = value, 1, parts
        return address

    def retain(self, address: int) -> int:
        self.counts[address] += 1
        return address

    def release(self, address: int) -> None:
        assert self.counts.get(address, 0) > 0, f"released once too often: {self.objects.get(address)}"
        self.counts[address] -= 1
        if self.counts[address] == 0:
            for part in self._parts[address]:
                self.release(part)

    def value(self, address: int) -> Any:
        assert self.counts[address] > 0, f"used after its release: {self.objects[address]}"
        return self.objects[address]

    def live(self) -> list[Any]:
        """What is still held."""
        return [self.objects[address] for address, count in self.counts.items() if count]


STRING_TYPE = 7
Sensors = list[tuple[str | int | None, float | None]]


def core_foundation(heap: Heap) -> FakeLibrary:
    """CoreFoundation, as far as it is used."""

    def create_string(allocator: int | None, text: int, encoding: int) -> int:
        assert (allocator, encoding) == (None, 0x08000100)
        return heap.new(ctypes.string_at(text).decode())

    def get_text(reference: int, buffer: int, size: int, encoding: int) -> bool:
        assert encoding == 0x08000100
        raw = heap.value(reference).encode() + b"\0"
        if len(raw) > size:
            return False
        ctypes.memmove(buffer, raw, len(raw))
        return True

    def create_number(allocator: int | None, kind: int, value: int) -> int:
        assert (allocator, kind) == (None, 3)
        return heap.new(ctypes.c_int32.from_address(value).value)

    def create_dictionary(
        allocator: int | None, keys: int, values: int, count: int, of_keys: int, of_values: int
    ) -> int:
        assert of_keys == library.address_given("kCFTypeDictionaryKeyCallBacks")
        assert of_values == library.address_given("kCFTypeDictionaryValueCallBacks")
        pointers = c_void_p * count
        parts = [*pointers.from_address(keys), *pointers.from_address(values)]
        texts = [heap.value(heap.retain(part)) for part in parts]
        return heap.new(dict(zip(texts[:count], texts[count:], strict=True)), parts)

    library = FakeLibrary(
        {
            "CFRelease": heap.release,
            "CFGetTypeID": lambda reference: STRING_TYPE if isinstance(heap.value(reference), str) else 1,
            "CFStringGetTypeID": lambda: STRING_TYPE,
            "CFStringCreateWithCString": create_string,
            "CFStringGetCString": get_text,
            "CFNumberCreate": create_number,
            "CFDictionaryCreate": create_dictionary,
            "CFArrayGetCount": lambda array: len(heap.value(array)),
            "CFArrayGetValueAtIndex": lambda array, index: heap.value(array)[index],
        },
        {"kCFTypeDictionaryKeyCallBacks": 1, "kCFTypeDictionaryValueCallBacks": 2},
    )
    return library


@dataclass
class HidMac:
    """The HID event system of a Mac.

    Attributes:
        sensors: name (None: no name; a number: a name that is no text) and temperature (None: no answer).
    """

    sensors: Sensors
    gives_client: bool = True
    gives_services: bool = True
    heap: Heap = field(default_factory=Heap)

    def __post_init__(self) -> None:
        self.matching: Any = None
        self.stuck: threading.Event | None = None  # reads wait for it
        self.reading = threading.Event()
        self.core = core_foundation(self.heap)
        self.iokit = FakeLibrary(
            {
                "IOHIDEventSystemClientCreate": self._create,
                "IOHIDEventSystemClientSetMatching": self._match,
                "IOHIDEventSystemClientCopyServices": self._copy_services,
                "IOHIDServiceClientCopyProperty": self._copy_property,
                "IOHIDServiceClientCopyEvent": self._copy_event,
                "IOHIDEventGetFloatValue": self._float_value,
            }
        )

    def load(self, path: str) -> FakeLibrary:
        return {CORE_FOUNDATION: self.core, IOKIT: self.iokit}[path]

    def check(self) -> None:
        """No call was wrong."""
        assert not self.core.errors + self.iokit.errors

    def _create(self, allocator: int | None) -> int:
        assert allocator is None
        return self.heap.new("client") if self.gives_client else 0

    def _match(self, client: int, dictionary: int) -> int:
        assert self.heap.value(client) == "client"
        self.matching = dict(self.heap.value(dictionary))
        return 0

    def _copy_services(self, client: int) -> int:
        assert self.heap.value(client) == "client"
        if not self.gives_services:
            return 0
        services = [self.heap.new(("service", place)) for place in range(len(self.sensors))]
        return self.heap.new(services, services)

    def _copy_property(self, service: int, key: int) -> int:
        assert self.heap.value(key) == "Product"
        name = self.sensors[self.heap.value(service)[1]][0]
        return 0 if name is None else self.heap.new(name)

    def _copy_event(self, service: int, kind: int, options: int, time_stamp: int) -> int:
        assert (kind, options, time_stamp) == (15, 0, 0)
        if self.stuck is not None:
            self.reading.set()
            assert self.stuck.wait(timeout=300)
        temperature = self.sensors[self.heap.value(service)[1]][1]
        return 0 if temperature is None else self.heap.new(temperature)

    def _float_value(self, event: int, value_field: int) -> float:
        assert value_field == 15 << 16
        return self.heap.value(event)


@dataclass
class NotifyingMac:
    """The Darwin notification of thermal pressure."""

    level: int = 0
    register_status: int = 0
    state_status: int = 0
    token: int = 5

    def __post_init__(self) -> None:
        self.system = FakeLibrary(
            {
                "notify_register_check": self._register,
                "notify_get_state": self._state,
                "notify_cancel": self._cancel,
            }
        )

    def load(self, path: str) -> FakeLibrary:
        assert path == LIBSYSTEM
        return self.system

    def check(self) -> None:
        """No call was wrong."""
        assert not self.system.errors

    def _register(self, name: int, token: int) -> int:
        assert ctypes.string_at(name) == b"com.apple.system.thermalpressurelevel"
        if self.register_status == 0:
            ctypes.c_int.from_address(token).value = self.token
        return self.register_status

    def _state(self, token: int, state: int) -> int:
        assert token == self.token
        ctypes.c_uint64.from_address(state).value = self.level
        return self.state_status

    def _cancel(self, token: int) -> int:
        assert token == self.token
        return 0
