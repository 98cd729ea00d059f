"""Functions and data of a system library, each with its C types: the one place that loads one.

Sources take the loader as an argument, so that their tests can pass a library of their own.
"""

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

from bit_axon.errors import SensorError, problem

LIBSYSTEM = "/usr/lib/libSystem.B.dylib"
IOKIT = "/System/Library/Frameworks/IOKit.framework/IOKit"
CORE_FOUNDATION = "/System/Library/Frameworks/CoreFoundation.framework/CoreFoundation"

MACOS_ONLY = "macOS only"

CType = type[Any]
_REMEDY = "This source cannot be used here; `bit-axon thermal doctor` shows which can."


class Library(Protocol):
    """A loaded library."""

    def function(self, name: str, result: CType | None, *arguments: CType) -> Callable[..., Any]:
        """A function with the C types of its result and arguments.

        ctypes takes every undeclared result for a 32-bit int, which cuts pointers in half; hence no
        function without a declaration. `c_void_p` comes back as int, or None for NULL.

        Raises:
            SensorError: the library has no such function.
        """

    def address(self, symbol: str) -> int:
        """Where a variable lies.

        Raises:
            SensorError: the library has no such variable.
        """


Loader = Callable[[str], Library]


class SharedLibrary:
    """A library loaded with ctypes."""

    def __init__(self, path: str, library: ctypes.CDLL):
        self._path, self._library = path, library

    def function(self, name: str, result: CType | None, *arguments: CType) -> Callable[..., Any]:
        """As `Library.function`; its types are this caller's own, not shared with others."""
        try:
            found = self._library[name]
        except AttributeError as error:
            raise self._missing(name) from error
        found.restype, found.argtypes = result, arguments
        return found

    def address(self, symbol: str) -> int:
        """As `Library.address`."""
        try:
            return ctypes.addressof(ctypes.c_byte.in_dll(self._library, symbol))
        except ValueError as error:
            raise self._missing(symbol) from error

    def _missing(self, name: str) -> SensorError:
        return SensorError(problem(f"'{name}' in {self._path}", "a library without it", _REMEDY))


def load_library(path: str) -> SharedLibrary:
    """Loads a library; one of the system's needs no file on disk.

    Raises:
        SensorError: there is none at this path.
    """
    try:
        return SharedLibrary(path, ctypes.CDLL(path))
    except OSError as error:
        raise SensorError(problem(f"the library {path}", str(error), _REMEDY)) from error
