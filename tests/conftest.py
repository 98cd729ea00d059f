"""Fixtures for tests of whole runs: a tiny model with the embedded tokenizer, small data, and a runner."""

import gc
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import hypothesis
import psutil
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker per core: threads of their own would wait for each other
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from bit_axon.backend import mx
from bit_axon.embedded import nano_path
from bit_axon.models.loading import read_model_config
from bit_axon.training.tensors import save_tensors

gc.set_threshold(50_000, 20, 50)  # composing makes so many objects that looking for cycles took a tenth

# The same examples each time, on a machine of any speed; --hypothesis-profile=default draws others.
hypothesis.settings.register_profile(
    "bit_axon", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("bit_axon")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

IN_MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 10**9  # ten times what a session of all tests writes

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Has tests write to memory where there is plenty: every commit of a database waits for a disk.

    With --basetemp the files of a session can be kept and looked at.
    """
    if config.option.basetemp is None and _has_room():
        config.option.basetemp = tempfile.mkdtemp(prefix="bit-axon-", dir=IN_MEMORY)
        config.add_cleanup(partial(shutil.rmtree, config.option.basetemp, ignore_errors=True))


def _has_room() -> bool:
    if not IN_MEMORY.is_dir():
        return False
    return min(shutil.disk_usage(IN_MEMORY).free, psutil.virtual_memory().available) > ROOM_BYTES


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 folder of random weights, two layers of width 32, that speaks the embedded tokenizer."""
    from mlx.utils import tree_flatten
    from mlx_lm.models.qwen2 import Model, ModelArgs

    folder = tmp_path_factory.mktemp("tiny")
    config = read_model_config(nano_path()) | SMALL | HEADS
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(nano_path() / name, folder / name)
    mx.random.seed(0)
    model = Model(ModelArgs.from_dict(config))
    save_tensors(folder / "model.safetensors", dict(tree_flatten(model.parameters())))
    return folder


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs, to be copied: making its tables takes seconds."""
    from bit_axon.tracking.store import open_store

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    open_store(f"sqlite:///{path}", "bit_axon")
    return path


@dataclass(frozen=True)
class Outcome:
    """What a command line left behind."""

    code: int
    out: str
    err: str
    run_dir: Path | None

    @property
    def result(self) -> dict:
        assert self.run_dir is not None
        return json.loads((self.run_dir / "result.json").read_text())


Runner = Callable[..., Outcome]


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An outputs folder of the test's own."""
    monkeypatch.setenv("BIT_AXON_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def rows_file(path: Path, count: int, start: int = 0) -> Path:
    """A JSONL file of preference rows: small additions, with a right and a wrong answer."""
    rows = [
        {
            "prompt": f"Add {n % 7} and {n % 5}.",
            "chosen": f"{n % 7 + n % 5}",
            "rejected": f"{n % 7 + n % 5 + 1}",
        }
        for n in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def small_overrides(model: Path, folder: Path) -> list[str]:
    """Overrides of a run that takes a second: tiny model, forty rows in `folder`, four steps, no MLflow."""
    train = rows_file(folder / "train.jsonl", 40)
    valid = rows_file(folder / "valid.jsonl", 8, start=40)
    return [
        f"model.path={model}",
        f"data.train={train}",
        f"data.valid={valid}",
        "data.max_seq_len=64",
        "data.accuracy_prompts=0",
        "data.sample_prompts=0",
        "tracking=none",
        "training.max_steps=4",
        "training.batch_size=2",
        "training.grad_accum_steps=2",
        "training.warmup_steps=1",
        "training.eval_every=2",
        "training.save_every=2",
        "training.compile=false",
    ]


def run_of_module(folder: Path, *arguments: str) -> Outcome:
    """A run that several tests of a module read; its outputs folder is in `folder`.

    Like what the fixture `run` returns, for fixtures of a wider scope.
    """
    from bit_axon.run import main

    said, complaints = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(complaints):
        patch.setenv("BIT_AXON_OUTPUTS", str(folder / "outputs"))
        code = main(list(arguments))
    (run_dir,) = (folder / "outputs" / "runs").iterdir()
    return Outcome(code, said.getvalue(), complaints.getvalue(), run_dir)


@pytest.fixture
def small_run(tiny_model: Path, tmp_path: Path, outputs: Path) -> list[str]:
    """Overrides of a run that takes a second, with data of the test's own in `tmp_path`."""
    return small_overrides(tiny_model, tmp_path)


@pytest.fixture
def run(outputs: Path, capfd: pytest.CaptureFixture[str]) -> Runner:
    """Runs `python -m bit_axon.run ARGUMENTS` in this process."""
    from bit_axon.run import main

    def call(*arguments: str) -> Outcome:
        runs = outputs / "runs"
        before = set(runs.iterdir()) if runs.is_dir() else set()
        code = main(list(arguments))
        new = (set(runs.iterdir()) if runs.is_dir() else set()) - before
        assert len(new) <= 1, f"more than one run directory: {new}"
        out, err = capfd.readouterr()
        return Outcome(code, out, err, new.pop() if new else None)

    return call
