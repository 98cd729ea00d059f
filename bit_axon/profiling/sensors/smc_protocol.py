"""The language of Apple's system management controller: 80 bytes in, 80 bytes out.

Nothing here touches a machine: everything works on a function from request to answer, so it is tested
against recorded bytes. A key is four characters; it has a type, and a value of up to 32 bytes.
"""

import struct
from collections.abc import Callable
from ctypes import LittleEndianStructure, c_uint8, c_uint16, c_uint32
from typing import Final, NamedTuple

from bit_axon.errors import SensorError, problem
from bit_axon.profiling.reading import Group

MESSAGE_BYTES: Final = 80

_READ_VALUE, _READ_NAME_AT, _READ_INFO = 5, 8, 9
_OK = 0  # other results, 132 above all, say that the controller has no such key
_COUNT_KEY = "#KEY"
_MOST_KEYS = 65_536  # Macs have 1500 to 4000: more is a misunderstanding
FLOAT_TYPE: Final = "flt "

# The rest of a name says which core or which rail, and differs between chips: the same name is an
# efficiency core on one and a performance core on another. So there is no list, only these beginnings.
# Not among them:
# - Ts: on M5 the super cores, on M1 to M4 the drive and the case. Cool readings in the mean of the cores
#   would hide heat, and no other key says which of the two a machine means.
# - TV: rails of the supply, TG0: beside the battery; both far cooler than the die.
# TCMb and TCMz are the firmware's own mean and maximum of the CPU die; where there are keys of cores as
# well they are two among twenty.
_GROUPS: Final[tuple[tuple[str, Group], ...]] = (
    ("Tp", "cpu"),
    ("Te", "cpu"),
    ("TCMb", "cpu"),
    ("TCMz", "cpu"),
    ("Tg", "gpu"),
    ("tGAM", "gpu"),
    ("TB1T", "chassis"),
    ("TB2T", "chassis"),
    ("TaLP", "chassis"),
    ("TaRF", "chassis"),
)
_SHARED_PREFIX = "Tf"  # M3 and later: CPU and GPU, told apart by the third character
_SHARED_GPU = frozenset("12")
_POWER_KEY = "PSTR"

Call = Callable[[bytes], bytes]


class SmcVersion(LittleEndianStructure):
    """Unused; it holds its place."""

    _fields_ = (("numbers", c_uint8 * 4), ("release", c_uint16))


class SmcPowerLimit(LittleEndianStructure):
    """Unused; it holds its place."""

    _fields_ = (
        ("version", c_uint16),
        ("length", c_uint16),
        ("cpu_limit", c_uint32),
        ("gpu_limit", c_uint32),
        ("memory_limit", c_uint32),
    )


class SmcKeyInfo(LittleEndianStructure):
    """Size and type of a key's value."""

    _fields_ = (("data_size", c_uint32), ("data_type", c_uint32), ("attributes", c_uint8))


class SmcMessage(LittleEndianStructure):
    """Request and answer alike, with the natural alignment of C.

    `key` and `data_type` are four characters, the first one in the highest byte. The command goes in
    `data8`, an index in `data32`.
    """

    _fields_ = (
        ("key", c_uint32),
        ("version", SmcVersion),
        ("power_limit", SmcPowerLimit),
        ("key_info", SmcKeyInfo),
        ("result", c_uint8),
        ("status", c_uint8),
        ("data8", c_uint8),
        ("data32", c_uint32),
        ("bytes", c_uint8 * 32),
    )


class KeyInfo(NamedTuple):
    """How a key's value is stored."""

    size_bytes: int
    type_name: str
    attributes: int


class SmcKeys(NamedTuple):
    """The keys of a machine that are worth reading."""

    temperatures: tuple[tuple[str, Group], ...]
    fans: tuple[str, ...]
    power: str | None

    def count(self, group: Group) -> int:
        """How many temperatures belong to a group."""
        return sum(1 for _, other in self.temperatures if other == group)


def group_of(key: str) -> Group | None:
    """What a key measures by its name; None for one that is of no use."""
    if key.startswith(_SHARED_PREFIX):
        return "gpu" if key[2:3] in _SHARED_GPU else "cpu"
    return next((group for prefix, group in _GROUPS if key.startswith(prefix)), None)


def is_fan(key: str) -> bool:
    """Whether a key is the actual speed of a fan."""
    return len(key) == 4 and key[0] == "F" and key[1].isalnum() and key[2:] == "Ac"


def code_of(name: str) -> int:
    """Four characters as a number, the first in the highest byte."""
    return int.from_bytes(name.encode("ascii"), "big")


def name_of(code: int) -> str:
    """The inverse of `code_of`; what is no text comes back as text all the same."""
    return code.to_bytes(4, "big").decode("latin-1")


def encode_request(command: int, *, key: str = "", info: KeyInfo | None = None, index: int = 0) -> bytes:
    """The bytes of a request; reading a value repeats the key's info."""
    message = SmcMessage(key=code_of(key), data8=command, data32=index)
    if info is not None:
        message.key_info = SmcKeyInfo(info.size_bytes, code_of(info.type_name), info.attributes)
    return bytes(message)


def decode_value(info: KeyInfo, data: bytes) -> float | None:
    """A number out of a value's bytes: floats are little-endian, integers big-endian.

    Returns None for types that are neither.
    """
    raw = data[: info.size_bytes]
    match info.type_name:
        case "flt " if len(raw) == 4:
            return struct.unpack("<f", raw)[0]
        case "ui8 " | "ui16" | "ui32" if raw:
            return float(int.from_bytes(raw, "big"))
        case _:
            return None


class SmcClient:
    """Asks for names, types and values; a key's type is asked for once.

    Args:
        call: takes a request of 80 bytes, returns the answer's 80.
    """

    def __init__(self, call: Call):
        self._call = call
        self._infos: dict[str, KeyInfo] = {}

    def key_count(self) -> int:
        """How many keys the machine has.

        Raises:
            SensorError: it does not say, or says nonsense.
        """
        count = self.value(_COUNT_KEY)
        if count is None or not 0 < count <= _MOST_KEYS:
            raise SensorError(
                problem(
                    "the number of SMC keys",
                    "no answer" if count is None else f"{count:.0f}",
                    "Virtual machines have no such controller; choose another thermal.source.",
                )
            )
        return int(count)

    def names(self) -> list[str]:
        """The names of all keys, one call each; about a second for 3000 of them."""
        found = (self._name_at(index) for index in range(self.key_count()))
        return [name for name in found if name is not None]

    def info(self, key: str) -> KeyInfo | None:
        """Size and type of a key's value; None if there is no such key."""
        if key not in self._infos:
            answer = self._ask(encode_request(_READ_INFO, key=key))
            if answer is None:
                return None
            stored = answer.key_info
            self._infos[key] = KeyInfo(stored.data_size, name_of(stored.data_type), stored.attributes)
        return self._infos[key]

    def value(self, key: str) -> float | None:
        """A key's value now; None if there is no such key, or its value is no number."""
        info = self.info(key)
        if info is None:
            return None
        answer = self._ask(encode_request(_READ_VALUE, key=key, info=info))
        return None if answer is None else decode_value(info, bytes(answer.bytes))

    def _name_at(self, index: int) -> str | None:
        answer = self._ask(encode_request(_READ_NAME_AT, index=index))
        name = None if answer is None else name_of(answer.key)
        return name if name is not None and name.isascii() else None

    def _ask(self, request: bytes) -> SmcMessage | None:
        answer = SmcMessage.from_buffer_copy(self._call(request))
        return answer if answer.result == _OK else None


def select_keys(client: SmcClient, names: list[str]) -> SmcKeys:
    """The keys among `names` that the machine has, are worth reading, and are floats."""
    known = sorted(set(names))
    return SmcKeys(
        tuple((key, group) for key in known if (group := group_of(key)) and _is_float(client, key)),
        tuple(key for key in known if is_fan(key) and _is_float(client, key)),
        _POWER_KEY if _POWER_KEY in known and _is_float(client, _POWER_KEY) else None,
    )


def _is_float(client: SmcClient, key: str) -> bool:
    info = client.info(key)
    return info is not None and info.type_name == FLOAT_TYPE
