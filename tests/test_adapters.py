"""attach_adapter and adapter files: choice of layers, freezing, strict loading, and mlx-lm's own loader."""

import dataclasses
import json
from pathlib import Path

import mlx.nn as nn
import mlx.optimizers as optim
import mlx_lm
import numpy as np
import pytest
from adapter_cases import TINY_QWEN2, give_nonzero_adapters, tiny_qwen2
from mlx.utils import tree_flatten
from mlx_lm.utils import quantize_model
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models

from bit_axon.backend import mx
from bit_axon.errors import ConfigError, ModelError, StorageError
from bit_axon.schema import AdapterConfig
from bit_axon.training.adapters import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    ADAPTERS,
    ModelReference,
    adapter_config,
    adapter_layers,
    adapter_parameters,
    attach_adapter,
    attach_saved_adapter,
    load_adapter,
    resolve_scale,
    save_adapter,
)
from bit_axon.training.tensors import load_tensors, save_tensors, tensor_bytes

TOKENS = mx.array([[5, 17, 80, 3, 3, 42], [1, 2, 3, 4, 5, 6]])
REFERENCE = ModelReference("some/model", digest="a" * 64)


def quantized_qwen2(bits: int = 4) -> nn.Module:
    model = tiny_qwen2()
    nn.quantize(model, group_size=32, bits=bits)
    mx.eval(model.parameters())
    return model


# scale


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({}, 20.0),
        ({"scale": 3.5}, 3.5),
        ({"alpha": 32.0, "rank": 16}, 2.0),
        ({"alpha": 32.0, "rank": 16, "rslora": True}, 8.0),
    ],
)
def test_scale(options: dict[str, float], scale: float) -> None:
    assert resolve_scale(AdapterConfig(**options)) == scale


def test_scale_and_alpha_together_or_rslora_alone_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.scale or adapter\.alpha.*scale=2 and alpha=16"):
        resolve_scale(AdapterConfig(scale=2.0, alpha=16.0))
    with pytest.raises(ConfigError, match=r"adapter\.alpha"):
        resolve_scale(AdapterConfig(rslora=True))


# choice of layers

ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}
MLP = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        ("attn", ATTENTION),
        ("attn_mlp", ATTENTION | MLP),
        ("all", ATTENTION | MLP),
        (["q_proj", "mlp.up_proj"], {"self_attn.q_proj", "mlp.up_proj"}),
        ("v_proj", {"self_attn.v_proj"}),
        ("re:self_attn\\.[qk]_", {"self_attn.q_proj", "self_attn.k_proj"}),
        (["q_proj", "in_proj", "output_proj"], {"self_attn.q_proj"}),  # the guide's names may be absent
    ],
)
def test_targets(targets: str | list[str], wanted: set[str]) -> None:
    attached = attach_adapter(tiny_qwen2(), AdapterConfig(targets=targets, rank=2), seed=0)
    assert {path.split(".", 3)[3] for path in attached.paths} == wanted
    assert len(attached.paths) == 3 * len(wanted)


@pytest.mark.parametrize(
    ("layers", "wanted"), [("all", [0, 1, 2]), (1, [2]), (2, [1, 2]), ([0, 2], [0, 2]), ([1], [1])]
)
def test_layers(layers: str | int | list[int], wanted: list[int]) -> None:
    attached = attach_adapter(tiny_qwen2(), AdapterConfig(targets="attn", layers=layers, rank=2), seed=0)
    assert sorted({int(path.split(".")[2]) for path in attached.paths}) == wanted
    assert attached.blocks == 3


def test_all_stays_inside_the_blocks_and_out_of_the_exclusions() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = {"query_key_value": nn.Linear(8, 24), "dense": nn.Linear(8, 8)}
            self.mlp = {
                "fc1": nn.Linear(8, 8),
                "gate": nn.Linear(8, 8),
                "switch_mlp": {"up": nn.Linear(8, 8)},
            }
            self.x_proj = nn.Linear(8, 8)
            self.adaptor = nn.Linear(8, 8)

    def model() -> nn.Module:
        whole = nn.Module()
        whole.h = [Block() for _ in range(12)]
        whole.lm_head, whole.connector = nn.Linear(8, 8), nn.Linear(8, 8)
        whole.towers = [nn.Linear(8, 8), nn.Linear(8, 8)]
        return whole

    def leaves(targets: str) -> list[str]:
        paths = attach_adapter(model(), AdapterConfig(targets=targets, rank=2), seed=0).paths
        assert [int(path.split(".")[1]) for path in paths] == sorted(
            int(path.split(".")[1]) for path in paths
        )
        return [path.removeprefix("h.11.") for path in paths if path.startswith("h.11.")]

    assert leaves("attn") == ["attention.dense", "attention.query_key_value"]
    assert leaves("attn_mlp") == ["attention.dense", "attention.query_key_value", "mlp.fc1"]
    assert leaves("all") == ["adaptor", "attention.dense", "attention.query_key_value", "mlp.fc1"]


def test_a_model_without_blocks_is_wrapped_as_a_whole() -> None:
    model = nn.Module()
    model.first, model.second = nn.Linear(8, 8), nn.Linear(8, 8)
    assert attach_adapter(model, AdapterConfig(rank=2), seed=0).paths == ("first", "second")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "dorra"}, r"adapter\.name: .*'dorra'.*Did you mean 'dora'"),
        ({"targets": ["q_prj"]}, r"'q_prj', which matches none.*down_proj.*Did you mean 'q_proj'"),
        ({"targets": ["q_proj", "k_prj"]}, r"'k_prj', which matches none"),
        ({"targets": "atn"}, r"Did you mean 'attn'"),
        ({"targets": []}, r"no name"),
        ({"targets": "re:nothing"}, r"'re:nothing', which matches none"),
        ({"targets": "re:("}, r"regular expression"),
        ({"targets": "lm_head"}, r"'lm_head', which matches none"),
        (
            {"rank": 33},
            r"rank of at most 32; got 33, but model\.layers\.0\.self_attn\.\w_proj is 64 to 32 \(and",
        ),
        ({"layers": 4}, r"a count from 1 to 3, or indices from 0 to 2; got 4"),
        ({"layers": 0}, r"a count from 1 to 3"),
        ({"layers": [0, 3]}, r"got \[0, 3\]"),
        ({"layers": []}, r"got \[\]"),
        ({"layers": [1], "targets": ["layers.2.mlp.up_proj"]}, r"which share no layer"),
    ],
)
def test_what_cannot_be_attached_is_explained_and_leaves_the_model_alone(
    options: dict[str, object], message: str
) -> None:
    model = tiny_qwen2()
    with pytest.raises(ConfigError, match=message):
        attach_adapter(model, AdapterConfig(**options), seed=0)
    assert not adapter_layers(model)
    assert len(tree_flatten(model.trainable_parameters())) == len(tree_flatten(model.parameters()))


# what is trained


@pytest.mark.parametrize("name", ["lora", "dora"])
@pytest.mark.parametrize("bits", [None, 2, 3, 4, 5, 6, 8])
def test_only_adapters_train_and_the_base_keeps_its_bytes(name: str, bits: int | None) -> None:
    model = tiny_qwen2() if bits is None else quantized_qwen2(bits)
    before = {path: np.asarray(value).tobytes() for path, value in tree_flatten(model.parameters())}
    attached = attach_adapter(model, AdapterConfig(name=name, rank=2, scale=2.0), seed=0)
    trainable = dict(tree_flatten(model.trainable_parameters()))
    assert set(trainable) == set(adapter_parameters(model))
    assert attached.trainable_parameters == sum(value.size for value in trainable.values())
    train(model, steps=2)
    after = {path.replace(".linear.", "."): value for path, value in tree_flatten(model.parameters())}
    assert all(np.asarray(after[path]).tobytes() == raw for path, raw in before.items())
    for path, value in adapter_parameters(model).items():
        assert not mx.array_equal(value, trainable[path]), path


def train(model: nn.Module, steps: int) -> None:
    optimizer = optim.Adam(1e-2)

    def loss(model: nn.Module) -> mx.array:
        return nn.losses.cross_entropy(model(TOKENS[:, :-1]), TOKENS[:, 1:]).mean()

    for _ in range(steps):
        optimizer.update(model, nn.value_and_grad(model, loss)(model)[1])
        mx.eval(model.parameters(), optimizer.state)


def test_the_magnitude_can_stay_fixed_and_is_saved_all_the_same() -> None:
    model = tiny_qwen2()
    attach_adapter(model, AdapterConfig(rank=2, train_magnitude=False), seed=0)
    assert {name.rpartition(".")[2] for name, _ in tree_flatten(model.trainable_parameters())} == {
        "lora_a",
        "lora_b",
    }
    assert {name.rpartition(".")[2] for name in adapter_parameters(model)} == {"lora_a", "lora_b", "m"}


def test_none_trains_everything_but_not_a_quantized_model() -> None:
    model = tiny_qwen2()
    model.freeze()
    attached = attach_adapter(model, AdapterConfig(name="none"), seed=0)
    assert attached.paths == () and set(adapter_parameters(model)) == set(
        dict(tree_flatten(model.trainable_parameters()))
    )
    with pytest.raises(ConfigError, match="float weights for adapter=none"):
        attach_adapter(quantized_qwen2(), AdapterConfig(name="none"), seed=0)


def test_initial_factors_depend_on_seed_and_path_alone() -> None:
    def factors(seed: int, **options: object) -> dict[str, mx.array]:
        model = tiny_qwen2()
        mx.random.normal((7,))  # other draws do not matter
        attach_adapter(model, AdapterConfig(rank=2, **options), seed=seed)
        return adapter_parameters(model)

    everything, few, other = factors(1), factors(1, targets="attn", layers=1, name="lora"), factors(2)
    assert all(mx.array_equal(value, everything[name]) for name, value in few.items())
    name = "model.layers.2.self_attn.q_proj.lora_a"
    assert not mx.array_equal(everything[name], other[name])
    assert not mx.array_equal(everything[name], everything[name.replace("q_proj", "o_proj")])


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_attaching_keeps_the_models_mode(name: str) -> None:
    model = tiny_qwen2()
    model.eval()
    attach_adapter(model, AdapterConfig(name=name, rank=2, dropout=0.5), seed=0)
    give_nonzero_adapters(model)
    assert mx.array_equal(model(TOKENS), model(TOKENS))
    model.train()
    assert not mx.allclose(model(TOKENS), model(TOKENS))


# files


@pytest.mark.parametrize("name", ["lora", "dora", "none"])
def test_saved_and_loaded_values_are_equal_and_so_are_the_bytes(name: str, tmp_path: Path) -> None:
    config = AdapterConfig(name=name, rank=2, layers="all")
    model, other = tiny_qwen2(), tiny_qwen2(seed=0 if name != "none" else 1)
    for one in (model, other):
        attach_adapter(one, config, seed=0)
    give_nonzero_adapters(model)
    save_adapter(model, tmp_path / ADAPTER_FILE)
    load_adapter(other, tmp_path)
    assert mx.array_equal(model(TOKENS), other(TOKENS))
    save_adapter(other, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / ADAPTER_FILE).read_bytes()
    trainable = dict(tree_flatten(other.trainable_parameters()))
    assert set(trainable) == set(load_file(tmp_path / ADAPTER_FILE))


def test_tensor_files_are_sorted_and_readable_by_others(tmp_path: Path) -> None:
    arrays = {
        "z.b": mx.arange(6).reshape(2, 3).T,  # not contiguous
        "a": mx.array(7, mx.uint64),
        "c": mx.random.normal((3, 2)).astype(mx.float16),
        "empty": mx.zeros((0, 4)),
        "flags": mx.array([True, False]),
    }
    save_tensors(tmp_path / "t.safetensors", arrays, {"step": "3"})
    found = load_file(tmp_path / "t.safetensors")
    assert list(found) == sorted(arrays)
    assert all(np.array_equal(found[name], np.asarray(value)) for name, value in arrays.items())
    assert tensor_bytes(arrays) == tensor_bytes(dict(reversed(arrays.items())))
    half = {"w": mx.array([1.5, -2.25, 3e38]).astype(mx.bfloat16)}
    save_tensors(tmp_path / "h.safetensors", half)
    loaded = load_tensors(tmp_path / "h.safetensors")["w"]
    assert loaded.dtype == mx.bfloat16 and mx.array_equal(loaded, half["w"])
    assert mx.load(str(tmp_path / "t.safetensors"), return_metadata=True)[1]["step"] == "3"


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_damaged_file_is_named(kept: int, tmp_path: Path) -> None:
    model = tiny_qwen2()
    attach_adapter(model, AdapterConfig(rank=2), seed=0)
    file = tmp_path / ADAPTER_FILE
    save_adapter(model, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"adapters\.safetensors: wanted a whole safetensors file"):
        load_adapter(model, tmp_path)
    file.unlink()
    with pytest.raises(ModelError, match="no such file"):
        load_adapter(model, tmp_path)


def test_all_differences_are_named_at_once_and_nothing_is_loaded(tmp_path: Path) -> None:
    model = tiny_qwen2()
    attach_adapter(model, AdapterConfig(name="dora", rank=2, targets="attn"), seed=0)
    values = adapter_parameters(model)
    path = "model.layers.0.self_attn.q_proj"
    broken = {name: value + 1 for name, value in values.items() if name != f"{path}.m"}
    broken[f"{path}.lora_a"] = mx.zeros((64, 3))
    broken["model.layers.7.self_attn.q_proj.lora_a"] = mx.zeros((64, 2))
    save_tensors(tmp_path / ADAPTER_FILE, broken)
    with pytest.raises(ModelError) as caught:
        load_adapter(model, tmp_path)
    text = str(caught.value)
    assert "3 differences" in text and f"missing: {path}.m" in text
    assert "unknown: model.layers.7.self_attn.q_proj.lora_a" in text
    assert f"{path}.lora_a: shape (64, 3), the model's is (64, 2)" in text
    assert all(mx.array_equal(value, values[name]) for name, value in adapter_parameters(model).items())


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    config = AdapterConfig(rank=2)
    model, wider = tiny_qwen2(), tiny_qwen2(intermediate_size=160)
    attached = attach_adapter(model, config, seed=0)
    attach_adapter(wider, config, seed=0)
    save_adapter(model, tmp_path / ADAPTER_FILE)
    (tmp_path / ADAPTER_CONFIG_FILE).write_text(json.dumps(adapter_config(attached, REFERENCE)))
    with pytest.raises(ModelError, match=r"shape \(128, 2\), the model's is \(160, 2\)"):
        load_adapter(wider, tmp_path)
    with pytest.raises(
        ModelError, match=r"base model \(some/model, digest aaaaaaaaaaaa\); got one with digest b"
    ):
        load_adapter(model, tmp_path, model_digest="b" * 64)
    load_adapter(model, tmp_path, model_digest="a" * 64)


def test_a_full_dump_restores_the_base_too(tmp_path: Path) -> None:
    config = AdapterConfig(name="dora", rank=2)
    model, other = tiny_qwen2(seed=1), tiny_qwen2(seed=2)
    for one in (model, other):
        attach_adapter(one, config, seed=0)
    give_nonzero_adapters(model)
    save_tensors(tmp_path / ADAPTER_FILE, dict(tree_flatten(model.parameters())))
    load_adapter(other, tmp_path)
    assert mx.allclose(model(TOKENS), other(TOKENS), atol=1e-6)
    for layer, restored in zip(adapter_layers(model).values(), adapter_layers(other).values(), strict=True):
        assert mx.array_equal(layer._base_squared_norms, restored._base_squared_norms)


def test_a_failed_write_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / ADAPTER_FILE).mkdir()
    with pytest.raises(StorageError, match=r"adapters\.safetensors"):
        save_adapter(tiny_qwen2(), tmp_path / ADAPTER_FILE)
    assert [path.name for path in tmp_path.iterdir()] == [ADAPTER_FILE]


# mlx-lm


def write_tokenizer(folder: Path) -> None:
    vocabulary = {f"t{index}": index for index in range(TINY_QWEN2["vocab_size"])}
    Tokenizer(models.WordLevel(vocabulary, unk_token="t0")).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "t1", "unk_token": "t0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module", params=["float", "4-bit"])
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model, config = tiny_qwen2(seed=3), dict(TINY_QWEN2)
    if request.param == "4-bit":
        model, config = quantize_model(model, config, group_size=32, bits=4)
    save_tensors(folder / "model.safetensors", dict(tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("name", ["lora", "dora"])
@pytest.mark.parametrize("options", [{}, {"layers": [0, 2], "targets": "attn"}, {"layers": 1}], ids=str)
def test_mlx_lm_loads_what_we_save(
    model_folder: Path, name: str, options: dict[str, object], tmp_path: Path
) -> None:
    model, _ = mlx_lm.load(str(model_folder))
    plain = model(TOKENS)
    attached = attach_adapter(model, AdapterConfig(name=name, rank=3, scale=4.0, **options), seed=0)
    give_nonzero_adapters(model)
    save_adapter(model, tmp_path / ADAPTER_FILE)
    (tmp_path / ADAPTER_CONFIG_FILE).write_text(json.dumps(adapter_config(attached, REFERENCE)))
    wanted = model(TOKENS)
    assert mx.abs(wanted - plain).max().item() > 1e-2
    theirs, _ = mlx_lm.load(str(model_folder), adapter_path=str(tmp_path))
    assert mx.abs(theirs(TOKENS) - wanted).max().item() < 1e-5
    ours, _ = mlx_lm.load(str(model_folder))
    again = attach_saved_adapter(ours, tmp_path)
    assert mx.abs(ours(TOKENS) - wanted).max().item() < 1e-6
    assert again == dataclasses.replace(attached, paths=again.paths) and set(again.paths) == set(
        attached.paths
    )


def test_mlx_lm_loads_a_full_fine_tune(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_tensors(folder / "model.safetensors", dict(tree_flatten(tiny_qwen2(seed=3).parameters())))
    (folder / "config.json").write_text(json.dumps(TINY_QWEN2))
    write_tokenizer(folder)
    model = tiny_qwen2(seed=3)
    attached = attach_adapter(model, AdapterConfig(name="none"), seed=0)
    train(model, steps=2)
    save_adapter(model, tmp_path / ADAPTER_FILE)
    (tmp_path / ADAPTER_CONFIG_FILE).write_text(json.dumps(adapter_config(attached, REFERENCE)))
    theirs, _ = mlx_lm.load(str(folder), adapter_path=str(tmp_path))
    assert mx.abs(theirs(TOKENS) - model(TOKENS)).max().item() < 1e-5
    ours, _ = mlx_lm.load(str(folder))
    assert attach_saved_adapter(ours, tmp_path).name == "none"
    assert mx.array_equal(ours(TOKENS), model(TOKENS))


def test_a_saved_adapter_that_fits_no_layer_or_has_no_scale_is_refused(tmp_path: Path) -> None:
    model = tiny_qwen2()
    attached = attach_adapter(model, AdapterConfig(rank=2), seed=0)
    save_adapter(model, tmp_path / ADAPTER_FILE)
    config = adapter_config(attached, REFERENCE)
    file = tmp_path / ADAPTER_CONFIG_FILE
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"got model\.layers\.1\..* and 13 more"):
        attach_saved_adapter(tiny_qwen2(num_hidden_layers=1), tmp_path)
    del config["lora_parameters"]["scale"]
    for text, message in ((json.dumps(config), r"lora_parameters\.scale"), ("{", "an adapter config")):
        file.write_text(text)
        with pytest.raises(ModelError, match=message):
            attach_saved_adapter(tiny_qwen2(), tmp_path)
