"""Temperatures, system power and fans from the system management controller of a Mac, without root.

The first choice on Apple silicon, because it has sensors of the GPU: training with MLX is GPU load, which
sensors of the CPU die hardly see. Cores that are powered down answer with values around 0 °C; they are
passed on as they are, the monitor sorts them out. Layout, keys and ranges are taken from public sources
and were never tried on Apple hardware so far: `bit-axon thermal doctor` is the check on a real Mac.
"""

import json
import math
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bit_axon import files
from bit_axon.errors import SensorError, StorageError, problem
from bit_axon.profiling.reading import RawReading, SensorValue
from bit_axon.profiling.sensors.base import Probe
from bit_axon.profiling.sensors.shared_library import MACOS_ONLY
from bit_axon.profiling.sensors.smc_connection import Connection, machine_build, open_connection
from bit_axon.profiling.sensors.smc_protocol import SmcClient, SmcKeys, select_keys

_REMEDY = "`bit-axon thermal doctor` shows which other sources there are."


class SmcSource:
    """All temperatures of the die that the controller knows by the beginnings of their names.

    Args:
        connect: opens the controller.
        machine: model and build of the system, under which the names of its keys are kept.
        cache_dir: where they are kept; None = `cache` in the outputs folder.
        platform: as `sys.platform`.
    """

    name = "smc"

    def __init__(
        self,
        connect: Callable[[], Connection] = open_connection,
        machine: Callable[[], str | None] = machine_build,
        *,
        cache_dir: Path | None = None,
        platform: str = sys.platform,
    ):
        self._connect, self._machine = connect, machine
        self._cache_dir, self._platform = cache_dir, platform
        self._connection: Connection | None = None
        self._client: SmcClient | None = None
        self._keys = SmcKeys((), (), None)

    def probe(self) -> Probe:
        """Opens the controller, finds its keys (about a second the first time) and reads them once."""
        if self._platform != "darwin":
            return Probe(False, MACOS_ONLY)
        self.close()
        try:
            self._connection = self._connect()
            self._client = SmcClient(self._connection.call)
            self._keys = self._find_keys(self._client)
            self.read()
        except SensorError as error:
            self.close()
            return Probe(False, str(error))
        return Probe(True, _describe(self._keys))

    def read(self) -> RawReading:
        """Every key as it answers now; keys without an answer are left out.

        Raises:
            SensorError: the controller is gone, or no key of the die answered.
        """
        client, keys = self._client, self._keys
        if client is None:
            raise SensorError(problem("temperatures of the SMC", "a source that was not opened", _REMEDY))
        values = ((key, group, client.value(key)) for key, group in keys.temperatures)
        sensors = tuple(SensorValue(key, group, value) for key, group, value in values if value is not None)
        if not any(sensor.group in ("cpu", "gpu") for sensor in sensors):
            raise SensorError(problem("temperatures of the SMC", "no answer from any key", _REMEDY))
        return RawReading(
            sensors,
            sys_power_w=_highest(client, (keys.power,) if keys.power else ()),
            fan_rpm=_highest(client, keys.fans),
        )

    def close(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._client = None

    def _find_keys(self, client: SmcClient) -> SmcKeys:
        count, machine = client.key_count(), self._machine()
        folder = self._cache_dir or files.outputs_dir() / "cache"
        path = folder / f"smc-keys-{re.sub(r'[^A-Za-z0-9,.]+', '-', machine)}.json" if machine else None
        kept = _kept_names(path, count) if path else None
        if kept is not None and _has_die(keys := select_keys(client, kept)):
            return keys
        names = client.names()
        keys = select_keys(client, names)
        if not _has_die(keys):
            raise SensorError(problem("SMC keys of the die", f"none among {len(names)} keys", _REMEDY))
        if path is not None:
            with suppress(StorageError):  # kept to save a second at the next start; nothing depends on it
                files.write_json_atomic(path, {"key_count": count, "names": names})
        return keys


def _kept_names(path: Path, count: int) -> list[str] | None:
    """The names an earlier start found, if the file is whole and the machine still has as many keys."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(kept, dict) or kept.get("key_count") != count:
        return None
    names = kept.get("names")
    if not isinstance(names, list):
        return None
    return [name for name in names if isinstance(name, str) and len(name) == 4 and name.isascii()]


def _has_die(keys: SmcKeys) -> bool:
    return keys.count("cpu") + keys.count("gpu") > 0


def _highest(client: SmcClient, keys: tuple[str, ...]) -> float | None:
    values = [value for key in keys if (value := client.value(key)) is not None and math.isfinite(value)]
    return max(values, default=None)


def _describe(keys: SmcKeys) -> str:
    gpu, cpu = keys.count("gpu"), keys.count("cpu")
    parts = [f"{gpu} GPU and {cpu} CPU keys", f"{keys.count('chassis')} of the case"]
    parts.append("system power" if keys.power else "no system power")
    parts.append(f"{len(keys.fans)} fans" if keys.fans else "no fan")
    if gpu == 0:
        parts.append("no sensor of the GPU: load on it hardly shows")
    return ", ".join(parts)
