"""`bit-axon thermal`: which sensors answer, how the machine warms up, and how hot runs were."""

from pathlib import Path
from typing import Annotated

import typer

thermal = typer.Typer(
    help="Temperature sensors of this machine, and how hot runs were.", no_args_is_help=True
)


@thermal.command()
def doctor(
    step_test: Annotated[
        bool,
        typer.Option("--step-test", help="Also load the machine for some seconds and fit how it warms up."),
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            metavar="PRESET.yaml",
            dir_okay=False,
            help="Make the step test and write what it found.",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="Only this source of temperatures.")
    ] = None,
    base: Annotated[
        str, typer.Option(help="Preset (or file of one) for what the step test cannot see.")
    ] = "fanless_air",
    seconds: Annotated[float, typer.Option(min=20.0, max=3600.0, help="Length of the step test.")] = 60.0,
) -> None:
    """Try every temperature sensor and say which one a run takes. Exit code 1 if there is none."""
    from bit_axon.cli.thermal_doctor import Request, run_doctor, this_machine

    request = Request(source, step_test, write, base, seconds)
    raise typer.Exit(run_doctor(request, this_machine()))


@thermal.command()
def plot(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR...", help="Runs to draw over each other.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.png", dir_okay=False, help="The picture: PNG, PDF or SVG.")
    ] = Path("thermal.png"),
) -> None:
    """Draw the temperatures of runs into one picture."""
    from bit_axon.cli.thermal_plot import write_overlay

    typer.echo(f"{write_overlay(run_dirs, out)}")
