"""Lines for a person, from a search that goes on when nobody reads them."""

import os
import sys


def say(line: str) -> None:
    """Prints a line, with what the terminal cannot show replaced; nothing once its reader has gone away."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(line.encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:  # `| head`: the search matters more than its picture
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
