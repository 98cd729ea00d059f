"""The steps of `bit-axon thermal doctor`."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bit_axon.backend import detect
from bit_axon.cli.terminal import fitted, run_console
from bit_axon.cli.thermal_load import matrix_products
from bit_axon.cli.thermal_report import show_choice, show_fit, show_sources
from bit_axon.errors import ConfigError, SensorError, StorageError, nearest, problem
from bit_axon.profiling.clock import Clock, SystemClock
from bit_axon.profiling.doctor import Examination, Load, control_temp, examine, step_test, write_preset
from bit_axon.profiling.fitting import fit
from bit_axon.profiling.rc_model import load_preset
from bit_axon.profiling.sensors.base import Source
from bit_axon.profiling.sensors.registry import all_sources, auto_order

EXIT_NO_SOURCE = 1


@dataclass(frozen=True)
class Patient:
    """The machine that is examined.

    Attributes:
        sources: makes them anew.
        auto_order: their names as `thermal=auto` tries them.
        device: "cpu" or "gpu", what a run computes on.
        platform: as `sys.platform`.
        clock: of the step test.
        load: makes the context that keeps the device busy.
    """

    sources: Callable[[], Sequence[Source]]
    auto_order: Sequence[str]
    device: str
    platform: str
    clock: Clock
    load: Load


@dataclass(frozen=True)
class Request:
    """The options of the command.

    Attributes:
        source: the only one to look at; None = all.
        step_test: whether to load the machine; `write` asks for it as well.
        write: where the fitted preset goes; None = nowhere.
        base: the preset for what the test cannot see.
        seconds: of the test.
    """

    source: str | None = None
    step_test: bool = False
    write: Path | None = None
    base: str = "fanless_air"
    seconds: float = 60.0


def run_doctor(request: Request, patient: Patient, console: Console | None = None) -> int:
    """Examines, reports, and tests if asked to; returns the exit code.

    Raises:
        ConfigError: an option is wrong; said before anything is tried.
        SensorError: the step test could not be made, or says nothing.
        StorageError: the preset cannot be written.
    """
    screen = console or run_console()
    load_preset(request.base, where="--base")
    _check_writable(request.write)
    sources = _wanted(patient.sources(), request.source)
    examinations = examine(sources)
    show_sources(examinations, screen)
    if request.source is None:
        show_choice(examinations, patient.auto_order, patient.device, patient.platform, screen)
    if request.step_test or request.write is not None:
        _make_step_test(request, patient, examinations, screen)
    return 0 if any(item.ok for item in examinations) else EXIT_NO_SOURCE


def _wanted(sources: Sequence[Source], name: str | None) -> Sequence[Source]:
    if name is None:
        return sources
    names = [source.name for source in sources]
    if name not in names:
        raise ConfigError(problem("a source's name", f"'{name}'", nearest(name, names), where="--source"))
    return [source for source in sources if source.name == name]


def _check_writable(path: Path | None) -> None:
    """A minute of load is not spent on a file that cannot be written."""
    if path is None:
        return
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK) or not folder.is_dir():
        raise StorageError(
            problem(f"to write {path}", f"no right to write in {folder}", "Give another place.")
        )


def _make_step_test(
    request: Request, patient: Patient, examinations: Sequence[Examination], screen: Console
) -> None:
    name = _tested(request, patient, examinations)
    _say(screen, f"\nStep test of {name}, {request.seconds:.0f} s. Let nothing else run meanwhile.")
    test = step_test(
        _wanted(patient.sources(), name)[0],
        patient.clock,
        patient.load,
        request.seconds,
        lambda phase, seconds: _say(screen, f"  {phase} for {seconds:.0f} s"),
    )
    found = fit(test, load_preset(request.base))
    show_fit(test, found, request.base, screen)
    if request.write is None:
        _say(screen, "Nothing was written; with --write PRESET.yaml it is kept.")
        return
    write_preset(request.write, found, source=name, base=request.base, seconds=request.seconds)
    quoted = f"'\"{request.write}\"'" if " " in str(request.write) else request.write  # for shell and Hydra
    _say(screen, f"Written to {request.write}. Simulate this machine:")
    _say(screen, f"  bit-axon run thermal=simulated_air thermal.simulation.preset={quoted}")


def _tested(request: Request, patient: Patient, examinations: Sequence[Examination]) -> str:
    """The source of the step test: the one that was asked for, or the first of auto's with a temperature."""
    able = [item.name for item in examinations if item.values and control_temp(item.values) is not None]
    order = [request.source] if request.source else [*patient.auto_order, *able]
    for name in order:
        if name in able:
            return name
    raise SensorError(
        problem(
            "a source with a CPU or GPU temperature for the step test",
            "none that answers",
            "The table says why.",
        )
    )


def _say(screen: Console, text: str) -> None:
    screen.print(Text(fitted(screen, text)), soft_wrap=True)


def this_machine() -> Patient:
    """The machine that the command runs on."""
    clock = SystemClock()
    device = "cpu" if detect().device == "cpu" else "gpu"
    return Patient(
        lambda: all_sources(clock), auto_order(device), device, sys.platform, clock, matrix_products
    )
