"""The `bit-axon` command. Everything heavy is imported by the command that needs it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bit_axon import __version__
from bit_axon.cli.failures import report_failure
from bit_axon.cli.sweep import sweep
from bit_axon.cli.thermal import thermal

_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    name="bit-axon",
    help="Fine-tuning experiments for language models on MLX: composed, tracked, resumable, repeatable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
track = typer.Typer(help="MLflow as a mirror of the run directories.", no_args_is_help=True)
app.add_typer(track, name="track")
app.add_typer(sweep, name="sweep")
app.add_typer(thermal, name="thermal")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bit-axon {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command as a whole."""


@app.command(context_settings=_PASSED_ON, add_help_option=False)
def run(context: typer.Context) -> None:
    """Train: the same as `python -m bit_axon.run`; all arguments are passed on."""
    from bit_axon.run import main as run_main

    raise typer.Exit(run_main(context.args))


@app.command(context_settings={"ignore_unknown_options": True})
def reproduce(
    run_dir: Annotated[Path, typer.Argument(help="The run to repeat.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Config overrides for the repetition, such as seed=1.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="End with 0 only if the adapter's bytes are equal.")
    ] = False,
) -> None:
    """Repeat a run from its saved config and say what has changed since."""
    from bit_axon.reproduce import reproduce as reproduce_run

    raise typer.Exit(reproduce_run(run_dir, check, overrides or []))


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN RUN...", help="Run directories, or sweeps: all their runs.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.png", dir_okay=False, help="Where the loss curves go.")
    ] = Path("compare.png"),
    samples: Annotated[int, typer.Option(min=0, help="Prompts whose answers are shown.")] = 3,
) -> None:
    """Put runs side by side: what differs, what came out, their loss curves and their answers."""
    from bit_axon.cli.compare import compare as compare_runs

    compare_runs(runs, out, samples)


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = 5050,
    host: Annotated[
        str, typer.Option(help="Address to serve on; this machine alone by default.")
    ] = "127.0.0.1",
    uri: Annotated[str | None, typer.Option(help="Another MLflow store than the outputs folder's.")] = None,
) -> None:
    """Open MLflow's user interface on this project's runs."""
    from bit_axon.tracking.ui import run_ui

    raise typer.Exit(run_ui(uri, host, port))


@track.command()
def sync(
    run_dirs: Annotated[list[Path], typer.Argument(help="Run directories, or folders of sweeps.")],
    uri: Annotated[str | None, typer.Option(help="Store to send to; by default the one of the run.")] = None,
) -> None:
    """Send to MLflow what it has not got of these runs."""
    from bit_axon.tracking.places import is_sweep
    from bit_axon.tracking.sync import sync_run

    for run_dir in run_dirs:
        if is_sweep(run_dir):
            _sync_sweep(run_dir, uri)
            continue
        report = sync_run(run_dir, uri)
        broken = f", {report.broken_lines} unreadable lines skipped" if report.broken_lines else ""
        typer.echo(f"{run_dir}: {report.sent_points:,} points sent{broken}; run {report.run_id}")


def _sync_sweep(folder: Path, uri: str | None) -> None:
    from bit_axon.sweep.reporting.publish import sync_sweep

    published = sync_sweep(folder, uri)
    left = len(published.left_out)
    rest = f"; {left} of its runs are being mirrored by their own processes" if left else ""
    typer.echo(f"{folder}: the sweep's run is {published.run_id}{rest}")


@track.command()
def status(
    run_dirs: Annotated[
        list[Path] | None, typer.Argument(help="Run directories, or sweeps; all by default.")
    ] = None,
) -> None:
    """Show which runs MLflow has in full."""
    from bit_axon.tracking.places import with_runs_of_sweeps
    from bit_axon.tracking.status import run_directories, tracking_status

    found = [tracking_status(path) for path in with_runs_of_sweeps(run_dirs or run_directories())]
    for item in found:
        sent = "complete" if item.complete else f"{item.unsent_bytes:,} bytes to send"
        typer.echo(f"{item.run_dir}  {item.state}  {'not mirrored' if item.uri == '-' else sent}  {item.uri}")
    if not found:
        typer.echo("No run directories yet.")


def main() -> None:
    """Entry point of the console script: errors become one message and an exit code."""
    try:
        app()
    except Exception as error:
        sys.exit(report_failure(error))


if __name__ == "__main__":
    main()
