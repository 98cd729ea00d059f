"""Everything a run needs, built and checked before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from bit_axon.backend import detect
from bit_axon.combinations import check_combinations
from bit_axon.data.examples import Example, PairExample
from bit_axon.data.loading import EncodedSet, PromptRow, load_examples, load_prompts
from bit_axon.data.sources import Source, files_of, is_embedded, is_hub, parse_sources
from bit_axon.errors import ConfigError, DataError, ModelError, problem
from bit_axon.files import outputs_dir
from bit_axon.models.loading import BaseModel, check_model_folder, find_model, load_base
from bit_axon.models.padded import packing_is_exact
from bit_axon.models.policy import Policy
from bit_axon.schema import RunConfig
from bit_axon.tokenizer import QwenTokenizerWrapper
from bit_axon.training.adapters import AttachedAdapter, attach_adapter
from bit_axon.training.collate import PairBatchPlan, TokenBatchPlan
from bit_axon.training.cooling.assembly import ThermalSetup, set_up
from bit_axon.training.loop import LoopLimits
from bit_axon.training.methods import Method, build_method
from bit_axon.training.position import Plan, micro_batches_in


@dataclass(frozen=True)
class Prepared:
    """What `prepare` built."""

    config: RunConfig
    method: Method
    base: BaseModel
    tokenizer: QwenTokenizerWrapper
    attached: AttachedAdapter
    policy: Policy
    packed: bool
    train: EncodedSet
    valid: EncodedSet | None
    train_plan: Plan
    valid_plan: Plan | None
    prompts: Sequence[PromptRow]
    limits: LoopLimits
    notes: tuple[str, ...]  # plain lines a user should read
    thermal: ThermalSetup


def prepare(config: RunConfig) -> Prepared:
    """Loads model and data, attaches the adapter, plans the batches.

    Cheap checks come first, so that a wrong key or a missing file is told before a model is loaded.

    Raises:
        UserError: anything in the config, the data or the model folder that cannot work.
    """
    method = build_method(config.method)
    check_combinations(config)
    train_sources, valid_sources = _sources(config)
    thermal = set_up(config.thermal, device="cpu" if detect().device == "cpu" else "gpu")
    try:
        return _loaded(config, method, train_sources, valid_sources, thermal)
    except BaseException:
        thermal.choice.close()  # a sensor may be a program that runs
        raise


def _loaded(
    config: RunConfig,
    method: Method,
    train_sources: tuple[Source, ...],
    valid_sources: tuple[Source, ...],
    thermal: ThermalSetup,
) -> Prepared:
    folder = find_model(config.model.path, config.model.revision)
    check_model_folder(config.model, folder)
    tokenizer = QwenTokenizerWrapper(folder, config.model.chat_template)
    train = _encode(config, method, tokenizer, train_sources)
    valid = _encode(config, method, tokenizer, valid_sources) if valid_sources else None
    trains_base = config.adapter.name == "none"
    wanted = replace(config.model, dtype="float32") if trains_base else config.model
    base = load_base(wanted, seed=config.seed)
    vocab_size = _check_vocabulary(base, tokenizer)
    wants_packing = config.data.packing and method.kind == "tokens"
    packed = wants_packing and packing_is_exact(base.model, vocab_size)
    attached = attach_adapter(base.model, config.adapter, seed=config.seed)
    train_plan = _plan(config, method, tokenizer, train, packed, training=True)
    valid_plan = _plan(config, method, tokenizer, valid, packed, training=False) if valid else None
    return Prepared(
        config=config,
        method=method,
        base=base,
        tokenizer=tokenizer,
        attached=attached,
        policy=Policy(
            base.model,
            packed=packed,
            vocab_size=vocab_size,
            compiled=detect().compilation(config.training.compile).step,
            checkpointing=config.training.gradient_checkpointing,
        ),
        packed=packed,
        train=train,
        valid=valid,
        train_plan=train_plan,
        valid_plan=valid_plan,
        prompts=_prompts(config, valid_sources),
        limits=_limits(config, train_plan),
        notes=(*_notes(config, train, valid, unpacked=wants_packing and not packed), *thermal.notes()),
        thermal=thermal,
    )


def _sources(config: RunConfig) -> tuple[tuple[Source, ...], tuple[Source, ...]]:
    if config.data.train is None:
        raise ConfigError(
            problem(
                "training data", "none", "Set data.train to a file, folder or hub id.", where="data.train"
            )
        )
    train = parse_sources(config.data.train, split="train")
    valid = parse_sources(config.data.valid, split="valid") if config.data.valid is not None else ()
    for source in (*train, *valid):
        if not is_embedded(source) and not is_hub(source):
            files_of(source)
    return train, valid


def _encode(
    config: RunConfig, method: Method, tokenizer: QwenTokenizerWrapper, sources: tuple[Source, ...]
) -> EncodedSet:
    return load_examples(
        sources,
        kind=method.kind,
        format=config.data.format,
        tokenizer=tokenizer,
        max_seq_len=config.data.max_seq_len,
        mask_prompt=config.data.mask_prompt,
        cache_dir=outputs_dir() / "cache" / "tokens",
        seed=config.seed,
    )


def _check_vocabulary(base: BaseModel, tokenizer: QwenTokenizerWrapper) -> int:
    """The model's vocabulary size; ids beyond it would read another row's embedding, or none."""
    text_config: Any = base.config.get("text_config", base.config)
    size = int(base.config.get("vocab_size", text_config.get("vocab_size", tokenizer.vocab_size)))
    if tokenizer.vocab_size > size:
        raise ModelError(
            problem(
                f"a tokenizer whose ids fit the model's vocabulary of {size}",
                f"one with {tokenizer.vocab_size} ids",
                "Use the tokenizer that belongs to the model.",
                where=str(base.folder),
            )
        )
    return size


def _plan(
    config: RunConfig,
    method: Method,
    tokenizer: QwenTokenizerWrapper,
    encoded: EncodedSet,
    packed: bool,
    *,
    training: bool,
) -> Plan:
    try:
        return _batches(config, method, tokenizer, encoded, packed, training=training)
    except DataError as error:
        names = dict.fromkeys(file.source for file in encoded.files)
        raise DataError(f"{', '.join(names)}: {error}") from None


def _batches(
    config: RunConfig,
    method: Method,
    tokenizer: QwenTokenizerWrapper,
    encoded: EncodedSet,
    packed: bool,
    *,
    training: bool,
) -> Plan:
    if method.kind == "pairs":
        return PairBatchPlan(
            cast(Sequence[PairExample], encoded.examples),
            batch_size=config.training.batch_size,
            max_seq_len=config.data.max_seq_len,
            pad_token_id=tokenizer.pad_token_id,
            seed=config.seed,
            shuffle=training,
            require_full_batch=training,
        )
    return TokenBatchPlan(
        cast(Sequence[Example], encoded.examples),
        batch_size=config.training.batch_size,
        max_seq_len=config.data.max_seq_len,
        packing=packed,
        pack_length=config.data.pack_length,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        seed=config.seed,
        shuffle=training,
        require_full_batch=training,
    )


def _prompts(config: RunConfig, sources: tuple[Source, ...]) -> Sequence[PromptRow]:
    count = max(config.data.accuracy_prompts, config.data.sample_prompts)
    if not sources or not count or config.data.format == "text":
        return ()
    return load_prompts(sources, format=config.data.format, limit=count)


def _limits(config: RunConfig, plan: Plan) -> LoopLimits:
    options = config.training
    micro_batches = None
    max_steps = options.max_steps or 0
    if options.epochs is not None:
        micro_batches = micro_batches_in(plan, options.epochs)
        max_steps = -(-micro_batches // options.grad_accum_steps)
    return LoopLimits(
        max_steps=max_steps,
        grad_accum_steps=options.grad_accum_steps,
        micro_batches=micro_batches,
        eval_every=options.eval_every,
        save_every=options.save_every,
        max_seconds=options.max_minutes * 60 if options.max_minutes is not None else None,
        early_stop_patience=options.early_stop_patience,
        early_stop_min_delta=options.early_stop_min_delta,
    )


def _notes(
    config: RunConfig, train: EncodedSet, valid: EncodedSet | None, *, unpacked: bool
) -> tuple[str, ...]:
    notes = list(detect().notes())
    for name, encoded in (("training", train), ("validation", valid)):
        if encoded is None:
            notes.append("No validation data: nothing will show whether the model generalizes.")
            continue
        if encoded.truncated:
            notes.append(
                f"{encoded.truncated} of {encoded.rows} {name} rows were cut "
                f"to {config.data.max_seq_len} tokens."
            )
        dropped = encoded.dropped_too_long + encoded.dropped_masked
        if dropped:
            notes.append(f"{dropped} of {encoded.rows} {name} rows have no token to learn and are left out.")
    if unpacked:
        notes.append("Packing is not exact for this model: examples are batched one per row instead.")
    if config.training.max_steps and config.training.warmup_steps >= config.training.max_steps:
        notes.append("The whole run is warm-up: training.warmup_steps is not below training.max_steps.")
    return tuple(notes)
