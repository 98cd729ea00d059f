"""`bit-axon sweep`: what a search has found so far, and its best config again."""

from pathlib import Path
from typing import Annotated

import typer

sweep = typer.Typer(help="Searches and grids: their trials, and the best one.", no_args_is_help=True)

_Study = Annotated[
    str, typer.Argument(metavar="STUDY", help="A sweep's folder, or its name below outputs/sweeps.")
]


@sweep.command()
def show(
    study: _Study,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on showing until the sweep has its trials; Ctrl-C ends it.")
    ] = False,
) -> None:
    """Show the trials, how they ended and why, the best so far and the time left."""
    from bit_axon.cli.sweep_show import show_sweep

    raise typer.Exit(show_sweep(study, watch))


@sweep.command(context_settings={"ignore_unknown_options": True})
def best(
    study: _Study,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="With --run: config overrides beside the best trial's, such as seed=1."),
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Train with the best trial's config.")] = False,
    trial: Annotated[
        int | None, typer.Option("--trial", metavar="N", help="Another trial than the best.")
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            metavar="FILE.yaml",
            dir_okay=False,
            help="Where its config goes.",
        ),
    ] = None,
) -> None:
    """Show the best trial, write its config as one file, and with --run train with it."""
    from bit_axon.cli.sweep_best import Request, best_of_sweep

    raise typer.Exit(best_of_sweep(study, Request(run, write, tuple(overrides or ()), trial)))
