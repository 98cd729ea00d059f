"""Whatever is wrong with the input: exit code 2, one message that helps, no traceback, nothing written."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Outcome, Runner, rows_file, small_overrides

from bit_axon.cli.main import main as bit_axon_command

ROW = {"prompt": "Add 1 and 2.", "chosen": "3", "rejected": "4"}
USER, ANSWER = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}
QUESTION = "Which of these numbers is the largest one? "


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder below, and what the files hold; the token cache may grow."""
    found = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        inside = path.relative_to(folder)
        if inside.parts[0] != "cache":
            found[str(inside)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


@pytest.fixture
def refused(run: Runner, outputs: Path) -> Callable[..., str]:
    """Runs a command line that must be refused, and returns its message."""
    (outputs / "runs").mkdir(parents=True)

    def call(*arguments: str, says: Sequence[str]) -> str:
        before = contents(outputs)
        done = run(*arguments)
        message = done.err
        assert done.code == 2, done
        assert done.out == "" and message.startswith("bit_axon: ") and message.count("bit_axon: ") == 1, done
        assert "Traceback" not in message
        assert [text for text in says if text not in message] == [], message
        assert contents(outputs) == before
        return message

    return call


Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("adapter=dorra", ["option of 'adapter'", "got 'dorra'", "Did you mean 'dora'?"]),
        ("+experiment=pretrain_nanno", ["Did you mean 'pretrain_nano'?"]),
        ("experiment=pretrain_nano", ["wanted +experiment=NAME", "pretrain_nano"]),
        ("training.max_stps=3", ["unknown key 'training.max_stps'", "Did you mean 'training.max_steps'?"]),
        ("adaptr.rank=4", ["unknown key 'adaptr.rank'", "Did you mean 'adapter.rank'?"]),
        ("adaptor=lora", ["unknown key 'adaptor'", "Did you mean 'adapter'?"]),
        ("method.beta=0.1", ["'method.beta'", "belongs to method=orpo"]),
        ("+adapter.rnk=4", ["'adapter.rank'?", "adapter.rnk was set by the override +adapter.rnk=4"]),
        ("+foo=1", ["unknown key 'foo'", "There is: adapter, data"]),
        ("+seed=1", ["'seed', which is there", "Leave out the +"]),
        ("+adapter=lora", ["'adapter', which is there", "Leave out the +"]),
        ("~method", ["method: wanted a value"]),
        ("hydra.run.dirr=x", ["unknown key 'hydra.run.dirr'", "--cfg hydra"]),
        ("adapter", ["wanted overrides as key=value"]),
        ("adapter.rank=4,5", ["several", "Add -m"]),
        ("seed=${nope}", ["seed: ", "'nope' not found", "seed was set by the override seed=${nope}"]),
    ],
)
def test_a_wrong_key(override: str, says: list[str], refused: Refused, small_run: list[str]) -> None:
    refused(*small_run, override, says=says)


WRONG_VALUES = {
    "adapter.rank=abc": "wanted a whole number; got 'abc'. Change it; the default is adapter.rank=8.",
    "adapter.dropout=1.5": "wanted a number less than 1; got 1.5.",
    "adapter.layers=al": "wanted 'all' or a whole number or a list; got 'al'. Did you mean",
    "training.learning_rate=fast": "wanted a number; got 'fast'.",
    "training.min_learning_rate=inf": "wanted a finite number; got Infinity.",
    "training.weight_decay=-1": "wanted a number greater than or equal to 0; got -1.",
    "training.batch_size=0": "wanted a number greater than 0; got 0.",
    "training.memory_limit_gb=0": "wanted a number greater than 0; got 0.",
    "training.cache_limit_gb=-1": "wanted a number greater than 0; got -1.",
    "training.gradient_checkpointing=2": "wanted a boolean; got 2.",
    "training.max_steps=": "wanted a whole number; got ''.",
    "training.schedule=cosin": "wanted 'cosine', 'linear' or 'constant'; got 'cosin'. Did you mean",
    "thermal.pause_temp=300": "wanted a number less than or equal to 130; got 300.",
    "model.dtype=float23": "Did you mean model.dtype=float32?",
    "seed=1.5": "wanted a whole number; got 1.5.",
    "tags=5": "wanted an object; got 5.",
}


def test_every_wrong_value_is_named_at_once(refused: Refused, small_run: list[str]) -> None:
    """With what was wanted, what was got, a remedy, and where it was set."""
    message = refused(*small_run, *WRONG_VALUES, "+adapter.rnk=1", says=["unknown key 'adapter.rnk'"])
    for override, says in WRONG_VALUES.items():
        key = override.partition("=")[0]
        assert f"{key}: wanted" in message and says in message, message
        assert f"{key} was set by the override {override}" in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("adapter.rank=0", ["adapter.rank: wanted a number greater than 0; got 0"]),
        ("training.learning_rate=-1", ["training.learning_rate: wanted a number greater than 0; got -1"]),
        ("adapter.name=dorra", ["adapter.name: ", "Did you mean 'dora'?", "the override adapter.name=dorra"]),
        ("method.name=orppo", ["method.name: ", "Did you mean 'orpo'?"]),
    ],
)
def test_a_wrong_value(override: str, says: list[str], refused: Refused, small_run: list[str]) -> None:
    refused(*small_run, override, says=says)


def test_quantization_that_does_not_exist(refused: Refused, small_run: list[str]) -> None:
    says = ["model.quantization.bits: wanted 2, 3, 4, 5, 6 or 8; got 7", "{bits: 7}"]
    refused(*small_run, "model.quantization={bits: 7}", says=says)
    refused(
        *small_run, "model.quantization.bits=4", says=["while model.quantization is null", "{bits: VALUE}"]
    )
    refused(*small_run, "model.quantization={bist: 4}", says=["Did you mean 'model.quantization.bits'?"])


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["adapter.scale=1", "adapter.alpha=8"], ["got scale=1 and alpha=8", "Set one of them to null"]),
        (
            ["training.epochs=1"],
            ["training.max_steps and training.epochs; got both", "override training.epochs=1"],
        ),
        (["training.max_steps=null"], ["got neither"]),
        (["adapter=none", "model.quantization={bits: 4}"], ["quantization with adapter=none", "none.yaml:3"]),
        (["adapter=none", "model.dtype=bfloat16"], ["model.dtype=bfloat16 with adapter=none", "float32"]),
        (["training.early_stop_patience=2", "data.valid=null"], ["without data.valid"]),
        (["training.min_learning_rate=1"], ["at most training.learning_rate", "Lower it"]),
        (["adapter.rslora=true"], ["adapter.alpha when adapter.rslora"]),
        (["tracking=mlflow", "tracking.uri=nonsense"], ["MLflow store; got 'nonsense'", "sqlite:///"]),
        (["tracking=mlflow", "tracking.uri=foo://bar"], ["got 'foo://bar'", "tracking.uri was set by"]),
        (["data.train=null"], ["data.train: wanted training data"]),
        (["data.train=[{path: a, wieght: 2}]"], ["'wieght'", "Did you mean 'weight'?"]),
        (["data.format=mesages"], ["Did you mean 'messages'?"]),
    ],
)
def test_values_that_do_not_go_together(
    overrides: list[str], says: list[str], refused: Refused, small_run: list[str]
) -> None:
    refused(*small_run, *overrides, says=says)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (
            "defaults: [lora, _self_]\nrnk: 4\n",
            2,
            ["unknown key 'adapter.rnk'", "Did you mean 'adapter.rank'?"],
        ),
        ("defaults: [lora, _self_]\nrank: four\n", 2, ["wanted a whole number; got 'four'"]),
        ("# @package adaptr\nname: lora\n", 1, ["unknown key 'adaptr'"]),
        ("name: lora\nrank: ${nope}\n", 2, ["'nope' not found"]),
        ("name: lora\nscale: 2\nalpha: 3\n", 3, ["got scale=2 and alpha=3"]),
        ("rank: 4\n  scale: [1\n", 2, ["wanted YAML"]),
        ("rank: 4\nrank: 5\n", 2, ["duplicate key rank"]),
        ("- a\n- b\n", 1, ["adapter: wanted an object"]),
    ],
)
def test_a_config_file_of_the_users_own(
    text: str, line: int, says: list[str], refused: Refused, small_run: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine" / "adapter" / "own.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    arguments = [*small_run, "-cd", str(tmp_path / "mine"), "adapter=own"]
    refused(*arguments, says=[f"{file}:{line}", *says])


def test_a_default_that_a_config_file_asks_for_in_vain(
    refused: Refused, small_run: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine" / "adapter" / "own.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("defaults: [lorra, _self_]\n")
    says = ["defaults of adapter/own.yaml", "got 'lorra'", "Did you mean 'lora'?"]
    refused(*small_run, "-cd", str(tmp_path / "mine"), "adapter=own", says=says)
    refused(*small_run, "-cd", str(tmp_path / "other"), says=["not found"])
    refused(*small_run, "-cn", "confg", says=["Did you mean 'config'?"])


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (jsonl(ROW) + '{"prompt": "x", "chosen: 3}\n', ["rows.jsonl:2: wanted JSON"]),
        (jsonl(ROW, [1, 2]), ["rows.jsonl:2: wanted a row that is an object; got a list"]),
        (
            jsonl(ROW, {"prompt": "x"}),
            ["rows.jsonl:2: wanted keys prompt, chosen, rejected; got keys prompt"],
        ),
        (jsonl({"prompt": "x"}), ["rows.jsonl:1: wanted a known row layout", "got keys prompt"]),
        (jsonl({"messages": [USER]}), ["rows.jsonl:1: ", "a row without an answer"]),
        (jsonl({"messages": [USER, {**ANSWER, "content": " "}]}), ["rows.jsonl:1: ", "are blank"]),
        (jsonl({"prompt": "x", "completion": ""}), ["rows.jsonl:1: ", "are blank"]),
        (
            jsonl({"messages": [USER, {**ANSWER, "role": "asistant"}]}),
            ["rows.jsonl:1: ", "got 'asistant'", "Did you mean 'assistant'?"],
        ),
        ("", ["rows.jsonl", "wanted at least one row"]),
        (
            jsonl(ROW),
            ["rows.jsonl: ", "wanted at least 2 rows", "a set smaller than a batch", "batch_size to 1"],
        ),
        (
            jsonl({"prompt": QUESTION * 40, "completion": "x"}),
            ["rows.jsonl: ", "all too long", "data.max_seq_len"],
        ),
    ],
)
def test_wrong_rows(
    text: str, says: list[str], refused: Refused, small_run: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    refused(*small_run, f"data.train={file}", says=says)


def test_rows_whose_answers_a_template_swallows_are_all_masked(
    refused: Refused, small_run: list[str], tmp_path: Path
) -> None:
    template = tmp_path / "silent.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content if m.role == 'user' }}\n{% endfor %}"
    )
    says = ["train.jsonl:1: ", "shows each answer once", "model.chat_template"]
    refused(*small_run, f"model.chat_template={template}", says=says)


def test_preference_rows_are_wanted(refused: Refused, small_run: list[str], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(jsonl({"prompt": "x", "completion": "y"}))
    says = ["rows.jsonl:1: wanted preference rows", "method=sft"]
    refused(*small_run, f"data.train={file}", "method=orpo", says=says)


def test_missing_data(refused: Refused, small_run: list[str], tmp_path: Path) -> None:
    near = f"'{tmp_path / 'train.jsonl'}'"
    refused(*small_run, f"data.train={tmp_path}/tran.jsonl", says=["no such file", "Did you mean", near])
    refused(*small_run, f"data.valid={tmp_path}/no/valid.jsonl", says=["does not exist either"])
    (tmp_path / "empty").mkdir()
    refused(*small_run, f"data.train={tmp_path}/empty", says=["wanted data files", "got none"])
    refused(*small_run, "data.train=embedded:demoo/train", says=["demo/train", "got 'demoo/train'"])


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["adapter.targets=q_prj"], ["which matches none", "k_proj", "Did you mean 'q_proj'?"]),
        (["adapter.targets=re:zzz"], ["adapter.targets", "Presets are: attn, attn_mlp, all"]),
        (
            ["adapter.rank=64"],
            ["adapter.rank of at most 16; got 64", "k_proj is 32 to 16", "Lower adapter.rank"],
        ),
        (["adapter.layers=9"], ["a count from 1 to 2", "The model has 2 blocks"]),
        (["model.quantization={bits: 4, group_size: 64}"], ["got 64 for", "of width 32", "group_size=32"]),
    ],
)
def test_an_adapter_that_does_not_fit_the_model(
    overrides: list[str], says: list[str], refused: Refused, small_run: list[str]
) -> None:
    refused(*small_run, *overrides, says=says)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def edit(file: Path, **changes: object) -> None:
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


SPOILED: list[tuple[str, Callable[[Path], object], list[str]]] = [
    ("no config.json", lambda m: (m / "config.json").unlink(), ["wanted a model folder with config.json"]),
    ("broken config.json", lambda m: cut(m / "config.json"), ["config.json: wanted readable JSON"]),
    (
        "a list in config.json",
        lambda m: (m / "config.json").write_text("[]"),
        ["config.json: ", "'model_type'"],
    ),
    (
        "architecture",
        lambda m: edit(m / "config.json", model_type="qwenn"),
        ["an architecture of mlx-lm; got 'qwenn'"],
    ),
    ("no size", lambda m: edit(m / "config.json", hidden_size=None), ["'hidden_size'"]),
    (
        "another size",
        lambda m: edit(m / "config.json", hidden_size=48),
        ["Expected shape", "do not belong together"],
    ),
    ("no weights", lambda m: (m / "model.safetensors").unlink(), ["wanted model*.safetensors; got none"]),
    ("cut weights", lambda m: cut(m / "model.safetensors"), ["model.safetensors: ", "was cut short"]),
    ("stub of weights", lambda m: (m / "model.safetensors").write_bytes(b"abc"), ["model.safetensors: "]),
    ("broken tokenizer", lambda m: cut(m / "tokenizer.json"), ["wanted a tokenizer in"]),
]


@pytest.mark.parametrize(("spoil", "says"), [case[1:] for case in SPOILED], ids=[case[0] for case in SPOILED])
def test_a_model_folder_that_cannot_be_used(
    spoil: Callable[[Path], object], says: list[str], refused: Refused, small_run: list[str], model: Path
) -> None:
    spoil(model)
    refused(*small_run, f"model.path={model}", says=[str(model), *says])


def test_a_random_model_needs_a_whole_config_too(refused: Refused, small_run: list[str], model: Path) -> None:
    edit(model / "config.json", hidden_size=None)
    refused(*small_run, f"model.path={model}", "model.init=random", says=["config.json: ", "'hidden_size'"])


def test_a_model_that_is_not_there(refused: Refused, small_run: list[str], model: Path) -> None:
    refused(
        *small_run, f"model.path={model}l", says=["model.path: ", "does not exist", "Did you mean 'model'?"]
    )
    refused(*small_run, f"model.path={model}/config.json", says=["which is a file", f"folder: {model}"])
    refused(*small_run, "model.path=embedded:nan", says=["There is: embedded:nano"])


def test_chat_rows_need_a_template(
    refused: Refused, small_run: list[str], model: Path, tmp_path: Path
) -> None:
    edit(model / "tokenizer_config.json", chat_template=None)
    file = tmp_path / "chats.jsonl"
    file.write_text(jsonl(*[{"messages": [USER, ANSWER]}] * 4))
    says = ["chats.jsonl:1: wanted a chat template", "Set model.chat_template"]
    refused(*small_run, f"model.path={model}", f"data.train={file}", says=says)


def in_a_process(arguments: Sequence[str], **environment: str) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        env={**os.environ, **environment},
    )
    return Outcome(done.returncode, done.stdout, done.stderr, None)


ASK_THE_HUB = """
import sys, time
from bit_axon.run import main
for override in ("model.path=nobody/nothing", "data.train=nobody/nothing"):
    started = time.perf_counter()
    assert main([*sys.argv[1:], override]) == 2
    assert time.perf_counter() - started < 25  # seconds of work, on a machine with a lot to do
"""


def test_the_hub_is_asked_once(small_run: list[str], tmp_path: Path) -> None:
    """No answer: told at once, not after half a minute of attempts."""
    surroundings = {
        "BIT_AXON_OUTPUTS": str(tmp_path / "outputs"),
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nothing listens there
    }
    done = in_a_process(["-c", ASK_THE_HUB, *small_run], **surroundings)
    assert done.code == 0, done
    model, data = done.err.splitlines()
    assert model.startswith("bit_axon: model.path: wanted to load 'nobody/nothing'")
    assert data.startswith("bit_axon: wanted hub data set 'nobody/nothing'")
    assert "the hub cannot be reached" in model and "the hub cannot be reached" in data
    assert list((tmp_path / "outputs" / "runs").iterdir()) == []


def test_a_process_shows_no_traceback(small_run: list[str], tmp_path: Path) -> None:
    done = in_a_process(
        ["-m", "bit_axon.run", *small_run, "adapter.rank=abc"], BIT_AXON_OUTPUTS=str(tmp_path / "outputs")
    )
    assert done.code == 2 and done.out == ""
    assert done.err.splitlines() == [
        "bit_axon: adapter.rank: wanted a whole number; got 'abc'. Change it; the default is adapter.rank=8.",
        "  adapter.rank was set by the override adapter.rank=abc",
    ]


def test_flags_and_overrides_in_any_order(refused: Refused, small_run: list[str], outputs: Path) -> None:
    """Hydra's own parser refuses an override behind a flag that stands between overrides."""
    from bit_axon.run import main

    arguments = [*small_run[:3], "-m", *small_run[3:], "training.max_steps=1", "seed=1,2"]
    assert main(arguments) == 0
    assert len(list(outputs.glob("sweeps/*/*/result.json"))) == 2


def test_a_run_directory_in_use(refused: Refused, small_run: list[str], tmp_path: Path) -> None:
    says = ["wanted an empty run directory", f"resume={tmp_path}"]
    refused(*small_run, f"hydra.run.dir={tmp_path}", says=says)


@pytest.fixture(scope="module")
def whole_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that every test of resuming may copy; its data lies beside it."""
    from bit_axon.run import main

    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIT_AXON_OUTPUTS", str(folder / "outputs"))
        code = main([*small_overrides(tiny_model, folder), f"hydra.run.dir={folder / 'run'}"])
    assert code == 0
    return folder / "run"


@pytest.fixture
def cut_run(whole_run: Path, outputs: Path) -> Path:
    """A run that was cut behind its last checkpoint."""
    folder = Path(shutil.copytree(whole_run, outputs / "runs" / "cut"))
    (folder / "result.json").unlink()
    return folder


def last_checkpoint(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "step_00000004"


DAMAGED: list[tuple[str, Callable[[Path], object], list[str]]] = [
    ("cut adapter", lambda r: cut(last_checkpoint(r) / "adapters.safetensors"), ["adapters.safetensors: "]),
    (
        "cut optimizer",
        lambda r: cut(last_checkpoint(r) / "optimizer_state.safetensors"),
        ["optimizer_state.s"],
    ),
    ("cut state", lambda r: cut(last_checkpoint(r) / "training_state.json"), ["training_state.json: "]),
    (
        "empty state",
        lambda r: (last_checkpoint(r) / "training_state.json").write_text("{}"),
        ["step and loss"],
    ),
]


@pytest.mark.parametrize(
    ("damage", "says"), [case[1:] for case in DAMAGED], ids=[case[0] for case in DAMAGED]
)
def test_a_damaged_checkpoint(
    damage: Callable[[Path], object], says: list[str], refused: Refused, cut_run: Path
) -> None:
    damage(cut_run)
    remedy = f"delete {last_checkpoint(cut_run)}"
    refused(f"resume={cut_run}", says=[*says, str(last_checkpoint(cut_run)), remedy])


def test_a_damaged_checkpoint_that_was_deleted_is_made_again(cut_run: Path, run: Runner) -> None:
    """What the messages above advise."""
    shutil.rmtree(last_checkpoint(cut_run))
    assert run(f"resume={cut_run}").code == 0
    assert last_checkpoint(cut_run).is_dir()


def test_a_checkpoint_of_another_adapter_or_model(
    refused: Refused, cut_run: Path, run: Runner, small_run: list[str]
) -> None:
    own = last_checkpoint(cut_run) / "adapters.safetensors"
    for overrides, difference in (
        (["adapter=lora"], "missing: model.layers.0.mlp.down_proj.m"),
        (["adapter.rank=4"], "shape (64, 4), the model's is (64, 8)"),
    ):
        other = run(*small_run, *overrides)
        shutil.copy(last_checkpoint(other.run_dir) / own.name, own)
        refused(f"resume={cut_run}", says=[str(own), difference, "adapter config it was trained with"])


def test_resuming_with_another_config(refused: Refused, cut_run: Path, run: Runner) -> None:
    says = ["adapter.rank=4 (saved: 8)", "adapter=lora (saved: dora)", "Leave these out"]
    refused(f"resume={cut_run}", "adapter.rank=4", "adapter=lora", says=says)
    refused(f"resume={cut_run}", "training.max_steps=9", says=["training.max_steps=9 (saved: 4)"])
    refused(f"resume={cut_run}", "adapter.rnk=8", says=["Did you mean 'adapter.rank'?"])
    refused(f"resume={cut_run}", "adapter.rank=4,8", says=["several"])
    refused(f"resume={cut_run}", "training.max_minutes=x", says=["training.max_minutes: wanted a number"])
    same = ["adapter.rank=8", "adapter=dora", "training.max_minutes=9", "tags.fold=1", "name=other"]
    assert run(f"resume={cut_run}", *same).code == 0


def test_resuming_with_an_edited_config(refused: Refused, cut_run: Path) -> None:
    file = cut_run / "config.yaml"
    values = yaml.safe_load(file.read_text())
    values["adapter"]["dropout"] = 0.5
    file.write_text(yaml.safe_dump(values))
    refused(
        f"resume={cut_run}", says=[f"{file}: wanted the config the run was started with", "Undo the change"]
    )
    for text in ("[1]", "a: [1"):
        file.write_text(text)
        refused(f"resume={cut_run}", says=[f"{file}: "])


@pytest.mark.parametrize("name", ["repro.json", "result.json"])
def test_resuming_with_a_broken_file(name: str, refused: Refused, cut_run: Path) -> None:
    for text in ("{}", "{", "[]"):
        (cut_run / name).write_text(text)
        refused(f"resume={cut_run}", says=[f"{cut_run / name}: "])


def test_resuming_what_is_no_run(refused: Refused, cut_run: Path, tmp_path: Path) -> None:
    refused(f"resume={tmp_path}", says=["without config.yaml"])
    refused(f"resume={cut_run}x", says=["does not exist", f"Did you mean {cut_run}?"])
    refused(f"resume={cut_run / 'metrics.jsonl'}", says=["a file"])


def test_resuming_with_other_rows_or_weights(
    refused: Refused, run: Runner, small_run: list[str], model: Path, tmp_path: Path
) -> None:
    run_dir = run(*small_run, f"model.path={model}", "training.max_steps=1").run_dir
    (run_dir / "result.json").unlink()
    file = tmp_path / "valid.jsonl"
    rows = file.read_text()
    file.write_text(rows.replace("Add", "Sum", 1))
    refused(f"resume={run_dir}", says=[f"{file}: wanted the rows the run was started with"])
    file.write_text(rows)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    refused(f"resume={run_dir}", says=[f"{model}: wanted the model the run was started with"])


def test_resuming_a_run_that_is_going_on(refused: Refused, cut_run: Path) -> None:
    with open(cut_run / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(f"resume={cut_run}", says=["no other process is writing", "Wait for that run"])


@pytest.fixture
def reproduce(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Runs `bit-axon reproduce ARGUMENTS` in this process."""

    def call(*arguments: str) -> Outcome:
        before = contents(outputs)
        monkeypatch.setattr(sys, "argv", ["bit-axon", "reproduce", *arguments])
        with pytest.raises(SystemExit) as ended:
            bit_axon_command()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        assert contents(outputs) == before
        return Outcome(int(ended.value.code or 0), out, err, None)

    return call


def test_reproducing_what_is_no_finished_run(
    reproduce: Callable[..., Outcome], cut_run: Path, tmp_path: Path
) -> None:
    for folder, says in (
        (tmp_path, "without config.yaml"),
        (tmp_path / "none", "does not exist"),
        (cut_run, f"Finish it with resume={cut_run}"),
    ):
        done = reproduce(str(folder), "--check")
        assert done.code == 2 and says in done.err and done.err.count("bit_axon: ") == 1, done


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("adapter.rnk=4", "Did you mean 'adapter.rank'?"),
        ("adapter.rank=x", "adapter.rank: wanted a whole number; got 'x'"),
        ("adapter=dorra", "Did you mean 'dora'?"),
        ("adapter", "wanted overrides as key=value"),
    ],
)
def test_reproducing_with_a_wrong_override(
    override: str, says: str, reproduce: Callable[..., Outcome], cut_run: Path
) -> None:
    done = reproduce(str(cut_run), override)
    assert done.code == 2 and says in done.err and done.err.count("bit_axon: ") == 1, done


def test_reproducing_after_one_character_of_the_data_has_changed(
    reproduce: Callable[..., Outcome], run: Runner, small_run: list[str], tmp_path: Path
) -> None:
    run_dir = run(*small_run, "training.max_steps=1", "training.eval_every=0").run_dir
    valid = tmp_path / "valid.jsonl"
    valid.write_text(valid.read_text().replace("Add", "Bdd", 1))
    done = reproduce(str(run_dir), "--check")
    assert done.code == 1 and f"data.valid: {valid} has changed" in done.out
    assert str(tmp_path / "train.jsonl") not in done.out
    rows_file(valid, 8, start=40)
    (tmp_path / "train.jsonl").unlink()
    gone = reproduce(str(run_dir), "--check")
    assert gone.code == 2 and "train.jsonl'; got no such file" in gone.err
