"""README.md, docs/thermal.md and docs/sweeps.md are true: examples run, tables and rows are right.

A comment before a block says how the test shortens it; a reader of the page does not see it:

    <!-- test: overrides KEY=VALUE ... -->      appended to each `python -m bit_axon.run` that composes
    <!-- test: replace TEXT with OTHER -->       in the block
    <!-- test: file PATH -->                     the block is written there
    <!-- test: skip REASON -->                   not run
    <!-- test: slow -->                          its section runs with the slow tests
    <!-- test: rows|method NAME|format NAME -->  used by a test of its own
"""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from conftest import ROOT, Runner
from hydra import compose, initialize_config_dir

from bit_axon.composition import conf_dir, plain_values, register_resolvers
from bit_axon.data import formats
from bit_axon.data.reading import rows_of_list
from bit_axon.profiling.summary import summarize
from bit_axon.profiling.trace import COLUMNS
from bit_axon.schema import RunConfig, ThermalConfig
from bit_axon.training import methods
from bit_axon.validation import check

PAGES = {
    name: (ROOT / path).read_text(encoding="utf-8")
    for name, path in (("README", "README.md"), ("thermal", "docs/thermal.md"), ("sweeps", "docs/sweeps.md"))
}
CONF = ROOT / "conf"
DIRECTIVE = re.compile(r"<!-- test: (\w+) ?(.*?) -->")
RUN_COMMAND = re.compile(r"python -m bit_axon\.run(?: .*)?$")
GROUPS = sorted(p.name for p in CONF.iterdir() if p.is_dir() and p.name != "hydra")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


@dataclass(frozen=True)
class Block:
    """A fenced block of the page, with the directives before it."""

    section: str
    language: str
    text: str
    directives: tuple[tuple[str, str], ...]

    def has(self, *names: str) -> bool:
        return any(name in names for name, _ in self.directives)


def blocks(page: str = "README") -> Iterator[Block]:
    section, language, lines, directives = "", None, [], []
    for line in PAGES[page].splitlines():
        if language is not None:
            if line == "```":
                yield Block(section, language, "\n".join(lines) + "\n", tuple(directives))
                language, lines, directives = None, [], []
            else:
                lines.append(line)
        elif line.startswith("```"):
            language = line.removeprefix("```")
        elif line.startswith("#"):
            section = line.lstrip("# ") if page == "README" else f"{page}: {line.lstrip('# ')}"
        elif found := DIRECTIVE.fullmatch(line):
            directives.append((found[1], found[2]))


def runnable() -> dict[str, list[Block]]:
    """Blocks to run, by section: a section is complete in itself."""
    wanted: dict[str, list[Block]] = {}
    for block in itertools.chain.from_iterable(map(blocks, PAGES)):
        if block.language in ("sh", "python", "yaml") and not block.has("skip", "method", "format"):
            wanted.setdefault(block.section, []).append(block)
    return wanted


def shortened(block: Block) -> str:
    """The block's text with its directives applied."""
    text = re.sub(r" +\\\n +", " ", block.text)
    for old, _, new in (value.partition(" with ") for name, value in block.directives if name == "replace"):
        assert old in text, f"{old!r} is not in the block of '{block.section}'"
        text = text.replace(old, new)
    overrides = " ".join(value for name, value in block.directives if name == "overrides")
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if RUN_COMMAND.match(line) and "resume=" not in line and overrides:
            lines[number] = f"{line} {overrides} tracking.enabled=false"
    return "\n".join(lines) + "\n"


def run_block(block: Block, folder: Path) -> None:
    """Runs the block for real, in a shell or a new Python process."""
    text = shortened(block)
    if block.has("file"):
        path = folder / dict(block.directives)["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
    command = (
        ["bash", "-euo", "pipefail", "-c", text] if block.language == "sh" else [sys.executable, "-c", text]
    )
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "BIT_AXON_OUTPUTS": str(folder / "outputs"),
        "BIT_AXON_DEBUG": "1",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr


def sections() -> list[Any]:
    return [
        pytest.param(name, marks=pytest.mark.slow if any(b.has("slow") for b in found) else (), id=name)
        for name, found in runnable().items()
    ]


@pytest.mark.parametrize("section", sections())
def test_examples_run(section: str, tmp_path: Path) -> None:
    for block in runnable()[section]:
        run_block(block, tmp_path)
    runs = [*tmp_path.glob("outputs/runs/*/result.json"), *tmp_path.glob("outputs/sweeps/*/*/result.json")]
    counts = {
        "4. A grid": 4,
        "5. A search": 3,
        "7. Repeat a run and compare": 2,
        "thermal: Runs over each other": 2,
        "sweeps: Start, resume, extend": 3,
        "sweeps: What is searched": 4,
    }
    none = ("Adding a part", "Python", "thermal: Python")
    assert len(runs) == (0 if section in none else counts.get(section, 1))
    assert {json.loads(path.read_text())["state"] for path in runs} <= {"finished"}


def test_all_blocks_are_known() -> None:
    known = {"sh", "python", "text", "yaml", "jsonl"}
    assert not {block.language for page in PAGES for block in blocks(page)} - known
    assert len(runnable()) >= 12


def composed(*overrides: str) -> dict[str, Any]:
    """The plain values of a composition; the name needs Hydra's own state, so it is left out."""
    register_resolvers()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return plain_values(compose("config", [*overrides, "name=null"]))


def table(first_cell: str, page: str = "README") -> list[list[str]]:
    """The rows of every table whose header starts with `first_cell`, without code marks."""
    found, inside = [], False
    for line in PAGES[page].splitlines():
        if not line.startswith("|"):
            inside = False
        elif line.startswith(f"| {first_cell} |"):
            inside = True
        elif inside and not line.startswith("| ---"):
            found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def value_at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def assert_values(rows: list[list[str]], values: dict[str, Any]) -> None:
    wrong = []
    for row in rows:
        for key in re.findall(r"`([^`]+)`", row[0]):
            shown = re.fullmatch(r"`([^`]*)`", row[1])
            if key == "name":
                continue
            assert shown, f"{key}: the default is not marked as code"
            wanted, real = yaml.safe_load(shown[1]), value_at(values, key)
            # YAML 1.1 reads 1e-4 as a text.
            same = float(wanted) == real if isinstance(real, float) else wanted == real
            if not same:
                wrong.append(f"{key}: README says {shown[1]}, the config {real!r}")
    assert not wrong, "\n".join(wrong)


def test_the_tables_of_keys_are_those_of_the_config() -> None:
    general, demo = (table(f"key | {heading}") for heading in ("default", "under `data=demo`"))
    assert len(general) > 30 and len(demo) > 5
    assert_values(general, composed("data=files", "method=orpo"))
    assert_values(demo, composed())


def names_in(first_cell: str, page: str) -> list[str]:
    """What is marked as code in the first cells of a table."""
    return [name for row in table(first_cell, page) for name in re.findall(r"`([^`]+)`", row[0])]


def test_the_tables_of_the_thermal_page_are_complete() -> None:
    keys = table("key | default", "thermal")
    assert len(keys) >= 15
    assert_values(keys, composed())
    assert set(names_in("option", "thermal")) == {option for group, option in OPTIONS if group == "thermal"}
    sources = get_args(get_type_hints(ThermalConfig)["source"])
    named = [row for row in table("source", "thermal") if len(row) == 5]
    assert {row[0].strip("`") for row in named} == set(sources) - {"auto", "none"}
    assert names_in("columns", "thermal") == list(COLUMNS)
    summary = summarize([]).keys() - {"seconds"}
    assert summary <= set(names_in("keys", "thermal"))


def test_the_demo_table_is_complete() -> None:
    demo, files = composed(), composed("data=files")
    named = {key for row in table("key | under `data=demo`") for key in re.findall(r"`([^`]+)`", row[0])}
    unnamed = {"data.train", "data.valid", "data.max_new_tokens"}
    changed = {
        f"{group}.{key}"
        for group in ("data", "training")
        for key, value in demo[group].items()
        if files[group][key] != value
    }
    assert changed - unnamed == named


def test_the_table_of_groups_names_every_option() -> None:
    shown = {re.sub("`", "", row[0]): set(re.findall(r"`(\w+)`", row[1])) for row in table("group")}
    real: dict[str, set[str]] = {}
    for group, option in [*OPTIONS, *(("sweep", path.stem) for path in (ROOT / "sweeps").glob("*.yaml"))]:
        real.setdefault(group, set()).add(option)
    assert shown == real


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_passes_the_schema(group: str, option: str) -> None:
    values = composed(f"+{group}={option}" if group == "experiment" else f"{group}={option}")
    config = check(RunConfig, values)
    methods.build_method(config.method)
    if group in ("adapter", "method"):
        assert values[group]["name"] == option


def test_every_option_says_at_its_top_what_it_is() -> None:
    silent = [
        f"{group}/{option}" for group, option in OPTIONS if not _first_line(group, option).startswith("#")
    ]
    assert not silent


def _first_line(group: str, option: str) -> str:
    lines = (CONF / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if not line.startswith("# @package"))


def test_the_example_rows_have_the_formats_that_are_told() -> None:
    (block,) = (block for block in blocks() if block.has("rows"))
    rows = [json.loads(line) for line in block.text.splitlines()]
    found = []
    for row in rows:
        ((read, row_format),) = formats.formatted(rows_of_list([row]), formats.AUTO)
        assert row_format.sample(read)
        found.append(next(name for name, known in formats.FORMATS.items() if known is row_format))
    assert found == ["messages", "completion", "alpaca", "text", "preference", "preference"]
    assert set(found) == set(formats.FORMATS)


def code_of(directive: str) -> str:
    (block,) = (block for block in blocks() if block.has(directive))
    return block.text


def test_the_example_of_a_method_trains(
    run: Runner, small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {"__name__": "focal"}
    exec(code_of("method"), names)
    monkeypatch.setitem(methods.METHODS, "focal", names["Focal"])
    option = tmp_path / "extra" / "method" / "focal.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("name: focal\ngamma: 2.0\n")
    done = run("--config-dir", str(option.parents[1]), *small_run, "method=focal", "method.gamma=1.5")
    assert done.code == 0, done.err
    assert done.result["eval_loss"] < done.result["eval_loss_before"]


def test_the_example_of_a_format_reads_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    names = dict(vars(formats))
    exec(code_of("format"), names)
    monkeypatch.setitem(formats.FORMATS, "question", names["QuestionFormat"]())
    rows = rows_of_list([{"question": "Who?", "answer": "Nobody."}])
    ((row, row_format),) = formats.formatted(rows, formats.AUTO)
    assert [m["content"] for m in row_format.sample(row).messages] == ["Who?", "Nobody."]


def test_exit_codes_are_those_of_the_errors() -> None:
    from bit_axon import errors
    from bit_axon.outcome import EXIT_CODES
    from bit_axon.stopping import EXIT_INTERRUPTED

    shown = {int(row[0]) for row in table("code")}
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.BitAxonError)]
    assert shown == {c.exit_code for c in classes} | set(EXIT_CODES.values()) | {EXIT_INTERRUPTED}
