"""MLflow's interface in a real browser, on a store that bit_axon filled: two runs and a study.

Needs Chromium, its driver and Selenium: `apt-get install chromium chromium-driver`, `pip install selenium`.
With BIT_AXON_SCREENSHOTS=FOLDER the pages that were looked at are kept there as pictures, and with
BIT_AXON_SCREENSHOTS_OF=OUTPUTS they are of that outputs folder, whose store has two runs and a study.
"""

import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sweep_cases import make_study, rewrite_config
from trace_cases import write_run
from tracking_cases import RESULT, START_MS, append_lines, make_run

from bit_axon.sweep.reporting.publish import sync_sweep
from bit_axon.tracking.parent_mirror import PARENT_TAG
from bit_axon.tracking.store import open_store
from bit_axon.tracking.sync import sync_run

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
by = pytest.importorskip("selenium.webdriver.common.by").By
chrome_service = pytest.importorskip("selenium.webdriver.chrome.service")
waiting = pytest.importorskip("selenium.webdriver.support.ui")
selenium_errors = pytest.importorskip("selenium.common.exceptions")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
START_SECONDS = 180.0  # of MLflow's server on a busy machine
PAGE_SECONDS = 90.0
FIRST_TRIALS = 10  # that the page of a parent lists before one asks for more
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars")
ASSISTANT = {
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}
CHARTS = (
    "return Array.from(document.querySelectorAll('.js-plotly-plot')).map(plot => ({"
    "lines: plot.data.map(line => [line.name, line.y.length]),"
    "drawn: plot.querySelectorAll('.scatterlayer .js-line').length}))"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="no Chromium with its chromedriver"),
]


@dataclass(frozen=True)
class Shown:
    """What the store holds, and where the interface answers."""

    url: str
    experiment_id: str
    runs: tuple[Any, Any]  # two that differ, of no sweep
    parent: Any
    trials: tuple[Any, ...]
    count: int  # runs in all
    client: Any

    @property
    def names(self) -> list[str]:
        """Of the two runs."""
        return [run.info.run_name for run in self.runs]

    @property
    def trial_names(self) -> list[str]:
        """Of the study's trials."""
        return [run.info.run_name for run in self.trials]

    def points(self, run: Any, metric: str) -> int:
        """How many values the store has of a metric."""
        return len(self.client.get_metric_history(run.info.run_id, metric))


def made_run(run_dir: Path, rank: int, seed: int) -> Path:
    """A run whose loss falls the faster the larger its rank, with the temperatures of a warm machine."""
    source, steps = random.Random(seed), 120
    run_dir = make_run(run_dir, steps=0, result={**RESULT, "eval_loss": 2.0 / rank})
    rewrite_config(run_dir, {"adapter.rank": rank, "training.learning_rate": 0.002}, None)
    write_run(run_dir, minutes=4.0, seed=seed)
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = 2.0 / rank + 5.0 * math.exp(-step * rank / 200) + source.gauss(0.0, 0.05)
        heat = 84.0 - 45.0 * math.exp(-step / 30) + source.gauss(0.0, 0.4)
        metrics = {"train/loss": loss, "thermal/temp_c": heat}
        lines.append({"time": START_MS + 2000 * step, "step": step, "kind": "train", "metrics": metrics})
    for step in range(0, steps + 1, 20):
        loss = 2.1 / rank + 5.0 * math.exp(-step * rank / 200)
        metrics = {"val/loss": loss}
        lines.append({"time": START_MS + 2000 * step, "step": step, "kind": "eval", "metrics": metrics})
    append_lines(run_dir, lines)
    return run_dir


@pytest.fixture(scope="module")
def outputs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outputs folder with two runs and a study, and their store."""
    if given := os.environ.get("BIT_AXON_SCREENSHOTS_OF"):
        return Path(given)
    outputs = tmp_path_factory.mktemp("outputs")
    uri = f"sqlite:///{outputs}/mlflow.db"
    for rank, name in ((4, "nano-lora-sft"), (16, "nano-dora-sft")):
        sync_run(made_run(outputs / "runs" / f"20261121-1000{rank:02}-000000-{name}", rank, rank), uri)
    make_study(outputs / "sweeps" / "ranks", trials=9, wanted=8, with_runs=True)
    sync_sweep(outputs / "sweeps" / "ranks", uri)
    return outputs


@pytest.fixture(scope="module")
def shown(outputs_folder: Path) -> Iterator[Shown]:
    """`bit-axon ui` on that store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bit_axon.cli.main", "ui", "--port", str(port)]
    environment = {**os.environ, "BIT_AXON_OUTPUTS": str(outputs_folder), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    give_up = threading.Timer(START_SECONDS, server.terminate)
    give_up.start()
    try:
        assert server.stdout is not None
        ready = next((line for line in server.stdout if line.startswith("ready:")), "")
        give_up.cancel()
        assert ready, f"MLflow did not start in {START_SECONDS:.0f} s"
        yield found(outputs_folder, f"http://127.0.0.1:{port}")
    finally:
        give_up.cancel()
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=START_SECONDS)


def found(outputs: Path, url: str) -> Shown:
    store = open_store(f"sqlite:///{outputs}/mlflow.db", "bit_axon")
    runs = list(store.client.search_runs([store.experiment_id]))
    parent = next(run for run in runs if run.data.tags.get("bit_axon.kind") == "study")
    single = [run for run in runs if PARENT_TAG not in run.data.tags and "bit_axon.kind" not in run.data.tags]
    first = single[0]
    other = next(run for run in single if run.data.params != first.data.params)
    return Shown(
        url=url,
        experiment_id=store.experiment_id,
        runs=(first, other),
        parent=parent,
        trials=tuple(run for run in runs if run.data.tags.get(PARENT_TAG) == parent.info.run_id),
        count=len(runs),
        client=store.client,
    )


class Browser:
    """A headless browser on the interface."""

    def __init__(self, shown: Shown, driver: Any) -> None:
        self._shown, self.driver = shown, driver

    def open(self, place: str) -> None:
        """A page of the interface, freshly loaded: its own links only change what is behind the `#`."""
        self.driver.get("about:blank")
        joint = "&" if "?" in place else "?"
        self.driver.get(f"{self._shown.url}/#/{place}{joint}workflowType=machine_learning")

    def run(self, run: Any, tab: str = "") -> None:
        """A tab of a run's page."""
        self.open(f"experiments/{self._shown.experiment_id}/runs/{run.info.run_id}{tab}")

    def of_two_runs(self, page: str, **options: Any) -> None:
        """A page about both runs."""
        ids = [run.info.run_id for run in self._shown.runs]
        values = {"runs": ids, "experiments": [self._shown.experiment_id], **options}
        self.open(f"{page}?" + "&".join(f"{key}={json.dumps(value)}" for key, value in values.items()))

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Waits for the condition, on elements that may be drawn anew meanwhile."""
        ignored = (selenium_errors.NoSuchElementException, selenium_errors.StaleElementReferenceException)
        wait = waiting.WebDriverWait(self.driver, PAGE_SECONDS, 0.3, ignored)
        return wait.until(lambda _: condition(), f"not seen: {what}\n{self.text()[:3000]}")

    def text(self) -> str:
        """What a person can read."""
        return str(self.driver.execute_script("return document.body ? document.body.innerText : ''"))

    def see(self, *words: str) -> None:
        """Waits until all of the words are on the page."""
        self.until(lambda: all(word in self.text() for word in words), ", ".join(words))

    def click(self, path: str) -> None:
        """The first element of an XPath."""
        self.until(lambda: self.driver.find_element(by.XPATH, path).is_displayed(), path)
        self.driver.find_element(by.XPATH, path).click()

    def charts(self) -> list[dict[str, int]]:
        """Of each chart that has drawn its lines: their names and numbers of points."""
        found = self.driver.execute_script(CHARTS)
        return [dict(chart["lines"]) for chart in found if chart["drawn"] >= len(dict(chart["lines"])) > 0]

    def picture_width(self) -> int:
        """Of the artifact that is shown, in its own pixels; 0 while there is none."""
        script = "return Math.max(0, ...Array.from(document.images).map(image => image.naturalWidth))"
        return int(self.driver.execute_script(script))

    def keep(self, name: str) -> None:
        """A picture of the page, for the documentation."""
        folder = os.environ.get("BIT_AXON_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, "--window-size=1500,1000", f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    started = webdriver.Chrome(options=options, service=chrome_service.Service(DRIVER))
    started.set_page_load_timeout(PAGE_SECONDS)
    yield started
    started.quit()


@pytest.fixture
def browser(shown: Shown, driver: Any) -> Browser:
    """The browser, with MLflow's assistant out of the way."""
    driver.get(f"{shown.url}/health")  # a page without MLflow's scripts, which would write there too
    for key, value in ASSISTANT.items():
        driver.execute_script("localStorage.setItem(arguments[0], arguments[1])", key, value)
    return Browser(shown, driver)


def test_the_run_table_has_the_runs_and_the_study_with_its_trials_below(
    browser: Browser, shown: Shown
) -> None:
    name = shown.parent.info.run_name
    browser.open(f"experiments/{shown.experiment_id}/runs")
    browser.see(*shown.names, name, f"{shown.count} matching runs")
    assert shown.trial_names[0] not in browser.text()  # nested, and folded
    browser.click(f"//a[.//*[text()='{name}'] or text()='{name}']/ancestor::*[.//button][1]//button")
    browser.see(*shown.trial_names)
    browser.keep("run-table")


def test_the_comparison_shows_the_parameters_that_differ(browser: Browser, shown: Shown) -> None:
    first, other = (run.data.params for run in shown.runs)
    differing = sorted(key for key in first | other if first.get(key) != other.get(key))
    equal = sorted(key for key in first.keys() & other.keys() if first[key] == other[key])
    browser.of_two_runs("compare-runs")
    browser.see(*shown.names, *differing, *equal)
    browser.click("//*[text()='Parameters']/following::label[.//*[text()='Show diff only']][1]")
    browser.until(lambda: equal[0] not in browser.text(), "equal parameters go away")
    lines = browser.text().partition("Show diff only")[2].partition("Metrics")[0].split("\n")
    rows = [line.split("\t") for line in lines if "\t" in line]
    assert sorted(row[0] for row in rows) == differing
    assert {row[0]: set(row[1:]) for row in rows}[differing[0]] == {first[differing[0]], other[differing[0]]}
    heading = browser.driver.find_element(by.XPATH, "//*[text()='Parameters']")
    browser.driver.execute_script("arguments[0].scrollIntoView()", heading)
    browser.keep("comparison")


def test_both_loss_curves_are_on_one_chart(browser: Browser, shown: Shown) -> None:
    metric = "train/loss"
    wanted = {run.info.run_name: shown.points(run, metric) for run in shown.runs}
    assert min(wanted.values()) > 10
    browser.of_two_runs("metric", metric=metric, plot_metric_keys=[metric])
    browser.until(lambda: browser.charts() == [wanted], f"one chart with {wanted}")
    browser.keep("loss-curves")


def test_the_temperature_trace_is_there_as_a_chart_and_as_a_figure(browser: Browser, shown: Shown) -> None:
    metric, field = "thermal/temp_c", "//input[@placeholder='Search metric charts']"
    run = next(run for run in shown.runs if metric in run.data.metrics)
    browser.run(run, "/model-metrics")
    browser.until(browser.charts, "charts")
    browser.driver.find_element(by.XPATH, field).send_keys(metric)
    wanted = [{run.info.run_name: shown.points(run, metric)}]
    browser.until(lambda: browser.charts() == wanted, f"one chart with {wanted}")
    browser.keep("temperature-chart")
    browser.run(run, "/artifacts/figures/thermal.png")
    browser.until(lambda: browser.picture_width() > 1000, "the figure")
    browser.keep("temperature-figure")


def test_the_page_of_the_study_has_its_trials_and_the_best_parameters(browser: Browser, shown: Shown) -> None:
    tags, params = shown.parent.data.tags, shown.parent.data.params
    best = {key: value for key, value in tags.items() if key.startswith("best.")}
    browser.run(shown.parent)
    browser.see("Child runs", *shown.trial_names[:FIRST_TRIALS], *params, *best, tags["bit_axon.objective"])
    assert f"best.trial\n: {best['best.trial']}" in browser.text()
    browser.keep("study")
    for name in ("parallel", "history"):
        browser.run(shown.parent, f"/artifacts/report/{name}.png")
        browser.until(lambda: browser.picture_width() > 800, "the figure")
        browser.keep(f"study-{name}")
