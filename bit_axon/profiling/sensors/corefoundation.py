"""The few calls of Apple's CoreFoundation that reading sensors takes.

References are plain addresses. What a function named Create or Copy returns is the caller's to release,
what one named Get returns is not. Never run on Apple hardware so far: its tests put C functions of their
own in CoreFoundation's place; `bit-axon thermal doctor` is the check on a real Mac.
"""

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ctypes import c_bool, c_char_p, c_int32, c_long, c_uint32, c_ulong, c_void_p

from bit_axon.errors import SensorError, problem
from bit_axon.profiling.sensors.shared_library import Library

_UTF8 = 0x08000100  # kCFStringEncodingUTF8
_INT32 = 3  # kCFNumberSInt32Type
_TEXT_BYTES = 256  # names of sensors take a few dozen


class CoreFoundation:
    """CoreFoundation with its C types; `CFIndex` is a long, `CFTypeID` an unsigned long.

    Args:
        library: the framework, loaded.

    Raises:
        SensorError: a function is missing.
    """

    def __init__(self, library: Library):
        self._release = library.function("CFRelease", None, c_void_p)
        self._type_of = library.function("CFGetTypeID", c_ulong, c_void_p)
        self._string_type = library.function("CFStringGetTypeID", c_ulong)
        self._create_string = library.function(
            "CFStringCreateWithCString", c_void_p, c_void_p, c_char_p, c_uint32
        )
        self._get_text = library.function("CFStringGetCString", c_bool, c_void_p, c_char_p, c_long, c_uint32)
        self._create_number = library.function("CFNumberCreate", c_void_p, c_void_p, c_long, c_void_p)
        self._create_dictionary = library.function(
            "CFDictionaryCreate", c_void_p, c_void_p, c_void_p, c_void_p, c_long, c_void_p, c_void_p
        )
        self._array_count = library.function("CFArrayGetCount", c_long, c_void_p)
        self._array_item = library.function("CFArrayGetValueAtIndex", c_void_p, c_void_p, c_long)
        self._key_callbacks = library.address("kCFTypeDictionaryKeyCallBacks")
        self._value_callbacks = library.address("kCFTypeDictionaryValueCallBacks")

    def release(self, reference: int | None) -> None:
        """Gives a reference back; CFRelease itself ends the process when it gets NULL."""
        if reference is not None:
            self._release(reference)

    @contextmanager
    def owned(self, reference: int | None) -> Iterator[int]:
        """Releases a created reference when the block ends, however it ends.

        Raises:
            SensorError: it is NULL.
        """
        if reference is None:
            raise SensorError(
                problem(
                    "an object of CoreFoundation", "NULL", "Memory may be short; free some and try again."
                )
            )
        try:
            yield reference
        finally:
            self._release(reference)

    def create_string(self, text: str) -> int | None:
        """A CFString, the caller's to release."""
        return self._create_string(None, text.encode(), _UTF8)

    def create_number(self, value: int) -> int | None:
        """A CFNumber of 32 bits, the caller's to release."""
        number = c_int32(value)  # copied by the call
        return self._create_number(None, _INT32, ctypes.byref(number))

    def create_dictionary(self, entries: Mapping[str, int]) -> int | None:
        """A CFDictionary from text to numbers, the caller's to release.

        Raises:
            SensorError: no memory for its parts.
        """
        with ExitStack() as parts:  # the dictionary retains them
            keys = [parts.enter_context(self.owned(self.create_string(key))) for key in entries]
            values = [parts.enter_context(self.owned(self.create_number(v))) for v in entries.values()]
            pointers = c_void_p * len(entries)
            return self._create_dictionary(
                None,
                pointers(*keys),
                pointers(*values),
                len(entries),
                self._key_callbacks,
                self._value_callbacks,
            )

    def text(self, reference: int) -> str | None:
        """The text of a CFString; None for an object of another type, and for a text far too long."""
        if self._type_of(reference) != self._string_type():
            return None
        buffer = ctypes.create_string_buffer(_TEXT_BYTES)
        if not self._get_text(reference, buffer, _TEXT_BYTES, _UTF8):
            return None
        return buffer.value.decode(errors="replace")

    def items(self, array: int) -> list[int]:
        """The references in a CFArray: they live as long as it does, and are not the caller's."""
        found = (self._array_item(array, index) for index in range(self._array_count(array)))
        return [reference for reference in found if reference is not None]
