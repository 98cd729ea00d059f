"""The search: ask for a trial, launch it, see that it has an end, until there are as many as wanted.

A trial tells its own end. This loop only tells the end of one whose process went without a word, so
killing it loses nothing: the same command finds the study and goes on.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState

from bit_axon.backend import detect
from bit_axon.errors import StorageError
from bit_axon.launch import MIRRORED_BY_SWEEPER
from bit_axon.schema import RunConfig
from bit_axon.stopping import StopRequest
from bit_axon.sweep.beginning import (
    STOP_TEXTS,
    checked_job,
    gives_up,
    notes,
    nothing_found,
    refuse_runs_of_another,
    within_the_space,
)
from bit_axon.sweep.config.pruners import build_pruner
from bit_axon.sweep.config.samplers import build_sampler
from bit_axon.sweep.config.settings import SweepSettings, read_settings
from bit_axon.sweep.config.space import Space, parse_space
from bit_axon.sweep.ends import Ends
from bit_axon.sweep.launching.command import quoted
from bit_axon.sweep.launching.isolated import IsolatedReturn
from bit_axon.sweep.launching.saying import say
from bit_axon.sweep.progress import trial_line
from bit_axon.sweep.reporting.finding import Sweep, parent_uid
from bit_axon.sweep.reporting.mirror import SweepMirror, Target
from bit_axon.sweep.studies.counting import OVERRIDES, REASON, UNCHARGED
from bit_axon.sweep.studies.storage import START_SECONDS, STORAGE_VARIABLE, Patience, storage_url
from bit_axon.sweep.studies.study import open_study
from bit_axon.sweep.studies.trials import Trials
from bit_axon.sweep.thermal.cooldown import Cooldown
from bit_axon.sweep.thermal.sensing import build_cooldown
from bit_axon.tracking.parent import declare_parent
from bit_axon.validation import check

_POLL_SECONDS: Final = 1.0  # while other workers have the last trials
_LINE_SECONDS: Final = 60.0  # between two lines about that
_NOT_FIXED: Final = ("name", "tags", "resume", "trial", "tracking", "thermal")  # no part of the search


def run_sweep(
    values: Mapping[str, Any],
    arguments: Sequence[str],
    launcher: Launcher,
    config: DictConfig,
    hydra_context: HydraContext,
) -> None:
    """Runs the study of `hydra.sweeper` until it has its trials.

    Args:
        values: `hydra.sweeper` as plain values.
        arguments: overrides of the command line.
        launcher: runs one job.
        config: composed, with Hydra's part.
        hydra_context: of this process.

    Raises:
        ConfigError: a setting, the space or the config of a trial is wrong, or the study is another search's.
        StorageError: the study's storage is not to be reached.
        BitAxonError: too many trials in a row have failed.
        KeyboardInterrupt: a stop was asked for; the trial that ran has told its end.
    """
    read = read_settings(values)
    space = parse_space(read.settings.params, arguments, config_loader=hydra_context.config_loader)
    settings, limited = within_the_space(read.settings, space)
    folder = Path(str(config.hydra.sweep.dir)).resolve()
    job = checked_job(settings, space, config, hydra_context)
    with _for_the_trials(settings.storage), StopRequest(*STOP_TEXTS).installed() as stop:
        search = _opened(settings, space, folder, launcher, job, stop)
        for line in (*read.notes, *limited, *notes(settings, space, config)):
            search.say(line)
        search.run()


@contextmanager
def _for_the_trials(storage: str | None) -> Iterator[None]:
    """What trials read from the environment, whichever process they are in; as it was afterwards."""
    given = {MIRRORED_BY_SWEEPER: "1"} | ({} if storage is None else {STORAGE_VARIABLE: storage})
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _opened(
    settings: SweepSettings,
    space: Space,
    folder: Path,
    launcher: Launcher,
    job: Mapping[str, Any],
    stop: StopRequest,
) -> "Search":
    storage = storage_url(folder, os.environ)
    patience = Patience(storage, stop=stop)
    fixed = {key: value for key, value in job.items() if key not in _NOT_FIXED}
    study = open_study(
        settings.study_name,
        storage,
        settings.study_attributes(space, fixed, sweep_dir=folder),
        lambda sessions: build_sampler(settings.sampler, seed_offset=sessions, space=space),
        build_pruner(settings.pruner),
        patience.up_to(START_SECONDS),
    )
    trials = Trials(study, storage, settings.n_trials, settings.retries, patience)
    uid = patience.up_to(START_SECONDS)(lambda: parent_uid(study, storage, stop))
    refuse_runs_of_another(folder, uid)
    declare_parent(folder, settings.study_name, "study", uid)
    config = check(RunConfig, job)
    tracking = config.tracking
    mirror = SweepMirror(
        folder,
        lambda: Sweep(folder, study),
        Target(tracking.enabled, tracking.uri, tracking.experiment),
        say=say,
    )
    cooldown = build_cooldown(
        settings.cooldown,
        config.thermal,
        device="cpu" if detect().device == "cpu" else "gpu",
        trials=[trial.user_attrs for trial in trials.all()],
        stop_requested=stop,
        say=say,
    )
    return Search(settings, space, folder, launcher, trials, mirror, cooldown, stop)


@dataclass
class Search:
    """A study in this process."""

    settings: SweepSettings
    space: Space
    folder: Path
    launcher: Launcher
    trials: Trials
    mirror: SweepMirror
    cooldown: Cooldown
    stop: StopRequest

    @property
    def ends(self) -> Ends:
        """Tells what trials could not tell themselves."""
        return Ends(self.trials, self.settings.objectives, self.settings.constraints)

    def say(self, text: str) -> None:
        """A line for a person."""
        say(text)

    def run(self) -> None:
        """Trial after trial; the report is written whatever ends it."""
        state = "failed"
        self._say_begin()
        self.mirror.start()
        try:
            self._run()
            state = "finished"
        except KeyboardInterrupt:
            state = "interrupted"
            raise
        finally:
            self.mirror.close(state)  # type: ignore[arg-type]
            self._say_end()

    def _run(self) -> None:
        failures = 0
        limit = self.settings.timeout_minutes
        until = math.inf if limit is None else time.monotonic() + limit * 60
        self.ends.adopt()
        self._wait_for_orphans()
        while (trial := self._next(until)) is not None:
            ended = self._run_trial(trial)
            self.mirror.notify()
            self._heed_stop()
            failures = self._failures(failures, ended)
            if failures >= self.settings.max_failures:
                raise gives_up(failures, ended, self.folder)
        self._refuse_nothing()

    def _failures(self, before: int, ended: FrozenTrial) -> int:
        """Failures in a row: one that is to be repeated, or was interrupted, is none and ends none."""
        if ended.state is not TrialState.FAIL:
            return 0
        repeated = ended.number in {trial.number for trial in self.trials.tally().to_retry}
        return before if repeated or ended.user_attrs.get(REASON) in UNCHARGED else before + 1

    def _refuse_nothing(self) -> None:
        trials = self.trials.all()
        if self.trials.is_done() and all(trial.state is TrialState.FAIL for trial in trials):
            raise nothing_found(trials, self.folder)

    def _next(self, until: float) -> FrozenTrial | None:
        """A trial to run; None once the last ones have ended, whoever runs them, or time is up."""
        said = -_LINE_SECONDS
        while not self.trials.is_done():
            self._heed_stop()
            if time.monotonic() >= until:
                minutes = self.settings.timeout_minutes
                self.say(f"{minutes:g} minutes are over: no more trials are started.")
                return None
            trial = self.trials.ask(self.space.distributions)
            if trial is not None:
                return trial
            now = time.monotonic()
            if now - said >= _LINE_SECONDS:
                said = now
                numbers = ", ".join(str(trial.number) for trial in self.trials.running())
                self.say(f"Waiting for other workers to end trial {numbers}.")
            time.sleep(_POLL_SECONDS)
        return None

    def _run_trial(self, trial: FrozenTrial) -> FrozenTrial:
        number = trial.number
        try:
            overrides = [*self.space.fixed, *self.space.overrides(trial.params)]
            self.trials.note(number, {OVERRIDES: overrides, **self.cooldown.wait().attributes()})
            self._heed_stop()
            returned = self._launched(number, overrides)
        except KeyboardInterrupt:
            self.trials.fail(number, "interrupted", "the sweep was stopped")
            raise
        except StorageError:  # nothing can be told now; the trial is found when the search goes on
            raise
        except Exception as error:
            self.trials.fail(number, "exception", str(error))
            raise
        ended = self.ends.with_an_end(number, returned)
        if not isinstance(returned, IsolatedReturn) and ended.user_attrs.get(REASON) == "interrupted":
            raise KeyboardInterrupt  # the trial has heard what was meant for this process
        directions = self.trials.study.directions
        counted, wanted = self.trials.counted(), self.settings.n_trials
        self.say(trial_line(ended, self.trials.all(), directions, counted, wanted))
        return ended

    def _launched(self, number: int, overrides: Sequence[str]) -> JobReturn:
        address = (
            f"trial={{study:{quoted(self.settings.study_name)},number:{number},"
            f"sweep_dir:{quoted(str(self.folder))}}}"
        )
        returns = self.launcher.launch([[*overrides, address]], initial_job_idx=number)
        return returns[0]

    def _wait_for_orphans(self) -> None:
        """Two trainings at once would share the machine's memory and heat."""
        said: set[int] = set()
        while orphans := self.trials.orphans():
            self._heed_stop()
            if new := [trial.number for trial in orphans if trial.number not in said]:
                said |= set(new)
                numbers = ", ".join(map(str, new))
                self.say(f"Waiting for trial {numbers} of a sweep that was killed; it still trains.")
            time.sleep(_POLL_SECONDS)

    def _heed_stop(self) -> None:
        if self.stop():
            raise KeyboardInterrupt

    def _say_begin(self) -> None:
        found = self.trials.tally()
        there = f", {found.counted} of them ended before" if found.counted else ""
        names = ", ".join(self.space.distributions)
        self.say(
            f"Study {self.settings.study_name}: {self.settings.n_trials} trials{there}; searched: {names}"
        )
        self.say(f"Everything is in {self.folder}")

    def _say_end(self) -> None:
        self.say(f"Look at it: bit-axon sweep show {self.folder}")
