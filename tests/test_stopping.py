"""What a person is told who stops a process: at the first signal, and at the second."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from waiting import LONGEST_SECONDS

from bit_axon.stopping import LEAVES_AT_ONCE


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "",
            [
                "Stopping after this micro-batch, with a checkpoint. Again: at once.",
                "Stopped at once; the last checkpoint is kept.",
            ],
        ),
        ("'No more trials.', 'Gone.'", ["No more trials.", "Gone."]),
    ],
)
def test_the_words_are_those_of_what_is_stopped(arguments: str, said: list[str]) -> None:
    code = (
        "import os, signal\n"
        "from bit_axon.stopping import StopRequest\n"
        f"with StopRequest({arguments}).installed() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    assert stop()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('not reached')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_SECONDS
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert [line for line in done.stderr.splitlines() if line] == said


@pytest.mark.parametrize("at_once", [{LEAVES_AT_ONCE: "1"}, {}], ids=["a job", "any other"])
def test_a_process_ends_with_its_code_after_its_exit_handlers(at_once: dict[str, str]) -> None:
    code = (
        "import atexit\n"
        "from bit_axon.stopping import leave\n"
        "class Object:\n"
        "    def __del__(self): print('taken apart')\n"
        "kept = Object()\n"
        "atexit.register(print, 'handled')\n"
        "leave(3)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != LEAVES_AT_ONCE} | at_once
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout.splitlines() == ["handled"] + ([] if at_once else ["taken apart"])


def test_a_stop_that_was_asked_for_before_is_heeded_by_the_one_that_listens_now() -> None:
    """A search was told to stop while its trial was still reading the model."""
    code = (
        "import os, signal\n"
        "from bit_axon.stopping import StopRequest\n"
        "with StopRequest().installed() as outer:\n"
        "    with StopRequest().installed() as inner:\n"
        "        print(inner())\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    with StopRequest().installed() as inner:\n"
        "        print(inner())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr
