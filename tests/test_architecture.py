"""The layers: imports go down only, heavy packages stay where they belong, files stay short."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT
from waiting import LONGEST_SECONDS, slowness

PACKAGE = ROOT / "bit_axon"
MAX_LINES = 300
MAX_HELP_SECONDS = 0.6
HELP_ATTEMPTS = 5

# Module or package, relative to bit_axon, and its layer. The longest prefix that fits decides.
LAYERS = {
    "": 0,  # the package itself: its version
    "errors": 0,
    "importing": 0,
    "validation": 1,
    "schema": 1,
    "files": 1,
    "backend": 1,
    "hub": 1,
    "tokenizer": 1,
    "stopping": 1,
    "provenance": 1,
    "recording": 1,
    "run_directory": 1,
    "profiling": 1,
    "training": 2,
    "training.config": 1,
    "training.scheduler": 1,
    "training.records": 1,
    "training.loop_state": 1,
    "training.cooling": 1,
    "data": 2,
    "embedded": 2,
    "layers": 2,
    "model": 2,
    "models": 2,
    "quantization": 2,
    "training.methods": 3,
    "training.stepper": 3,
    "training.checkpoint": 3,
    "training.merging": 3,
    "evaluation": 3,
    "inference": 3,
    "training.loop": 4,
    "training.session": 5,
    "training.trainer": 5,
    "training.orpo_trainer": 5,
    "preparation": 5,
    "combinations": 5,
    "experiment": 5,
    "run_in_progress": 5,
    "outcome": 5,
    "composition": 6,
    "config_files": 6,
    "recomposed": 6,
    "launch": 6,
    "help": 6,
    "origins": 6,
    "reproduce": 6,
    "resuming": 6,
    "run": 6,
    "cli": 6,
    "sweep": 6,
    "tracking": 6,
    "_plugins": 6,
}
TOP_LAYER = 6
TOP_ONLY = {"hydra", "omegaconf", "mlflow", "optuna"}
MLX = {"mlx", "mlx_lm"}
UNWANTED_IN_HELP = ("mlx", "mlflow", "optuna", "transformers", "matplotlib")


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def layer_of(module: str) -> int:
    """The layer of the longest prefix of the table; a test fails for a module that has none."""
    parts = module.split(".")[1:]
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    known = next((prefix for prefix in prefixes if prefix in LAYERS), None)
    assert known is not None or not parts, f"{module} has no layer in the table of this test"
    return LAYERS[known or ""]


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _import_nodes(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports at any depth, those inside functions too, but not those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not _for_types_only(child):
            yield from _import_nodes(child)


def imports_of(path: Path) -> list[tuple[str, int]]:
    """`(module, line)` of each import; a name taken from a package counts as its submodule, if it is one."""
    found: list[tuple[str, int]] = []
    for node in _import_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
            continue
        assert node.level == 0, f"{path}:{node.lineno}: a relative import"
        source = node.module or ""
        for alias in node.names:
            submodule = f"{source}.{alias.name}"
            found.append((submodule if submodule in modules() else source, node.lineno))
    return list(dict.fromkeys(found))


def own_imports() -> dict[str, list[tuple[str, int]]]:
    return {
        name: [found for found in imports_of(path) if found[0] in modules()]
        for name, path in modules().items()
    }


def test_imports_go_down_only() -> None:
    upward = [
        f"{name} (layer {layer_of(name)}) imports {target} (layer {layer_of(target)}), line {line}"
        for name, imports in own_imports().items()
        for target, line in imports
        if layer_of(target) > layer_of(name)
    ]
    assert not upward, "\n".join(upward)


def test_no_import_cycle() -> None:
    graph = {name: sorted({target for target, _ in imports}) for name, imports in own_imports().items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_heavy_packages_stay_in_the_top_layer() -> None:
    misplaced = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for name, path in modules().items()
        if layer_of(name) < TOP_LAYER
        for target, line in imports_of(path)
        if target.split(".")[0] in TOP_ONLY
    ]
    assert not misplaced, "\n".join(misplaced)


def uses_mlx(path: Path) -> int | None:
    """The line of the first import of mlx or mlx-lm."""
    return min((line for target, line in imports_of(path) if target.split(".")[0] in MLX), default=None)


def imports_backend(path: Path) -> int | None:
    """The line of the first import of the backend."""
    return min((line for target, line in imports_of(path) if target == "bit_axon.backend"), default=None)


def test_the_blas_is_chosen_before_mlx_is_imported() -> None:
    late = []
    for name, path in modules().items():
        line = uses_mlx(path)
        if line is None or name == "bit_axon.backend":
            continue
        parts = name.split(".")
        packages = (".".join(parts[:count]) for count in range(2, len(parts)))
        if any(imports_backend(modules()[package]) for package in packages):
            continue
        before = imports_backend(path)
        if before is None or before > line:
            late.append(f"{path.relative_to(ROOT)}:{line}: mlx before bit_axon.backend")
    assert not late, "\n".join(late)


@pytest.mark.skipif(sys.platform != "linux", reason="the BLAS is chosen on Linux alone")
@pytest.mark.parametrize(
    "module",
    [
        "bit_axon.training.lora",
        "bit_axon.training.methods.orpo",
        "bit_axon.models.policy",
        "bit_axon.quantization.linear",
        "bit_axon.inference.answers",
    ],
)
def test_any_module_first_finds_openblas(module: str) -> None:
    code = (
        "import ctypes, importlib, json\n"
        "try:\n"
        "    there = bool(ctypes.CDLL('libopenblas.so.0'))\n"
        "except OSError:\n"
        "    there = False\n"
        f"importlib.import_module({module!r})\n"
        "from bit_axon import backend\n"
        "found = backend.detect()\n"
        "print(json.dumps([there, found.device, found.blas]))\n"
    )
    there, device, blas = json.loads(python("-c", code).stdout)
    if not there or device != "cpu":
        pytest.skip("no OpenBLAS here, or it plays no part")
    assert "openblas" in blas


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A new process in the clone's root; it has to succeed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done


def test_help_of_a_run_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import json, sys\n"
        "from bit_axon.run import main\n"
        "try:\n"
        "    sys.exit(main(['--help']))\n"
        "finally:\n"
        f"    print(json.dumps([n for n in {UNWANTED_IN_HELP!r} if n in sys.modules]), file=sys.stderr)\n"
    )
    environment = {**os.environ, "BIT_AXON_OUTPUTS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert "== Groups and their options" in done.stdout
    assert not list(tmp_path.iterdir())


def test_help_of_a_run_is_quick() -> None:
    """Processor time of one thread: what a person waits on a machine that is not busy otherwise."""
    seconds = []
    for _ in range(HELP_ATTEMPTS):
        before = _children_seconds()
        python("-m", "bit_axon.run", "--help")
        seconds.append(_children_seconds() - before)
        if seconds[-1] <= MAX_HELP_SECONDS:
            return
    longest = MAX_HELP_SECONDS * slowness()  # processes that share a core slow each other down, too
    assert min(seconds) <= longest, f"--help took {min(seconds):.2f} s at best, and not {longest:.2f} s"


def _children_seconds() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules().values()}
    long = [f"{path.relative_to(ROOT)}: {count}" for path, count in lengths.items() if count > MAX_LINES]
    assert not long, f"more than {MAX_LINES} lines; split by noun:\n" + "\n".join(long)
