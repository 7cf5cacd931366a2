"""Model directories: refuse what could run code, load in fp32 with dropout off, adapters, reward heads, save, hash.

A model directory holds safetensors, a tokenizer with its chat template, config.json, generation_config.json and
winnow.json. A reward model is a trunk with a scalar head, no bias, and loads elsewhere as
`AutoModelForSequenceClassification(num_labels=1)`. Knows nothing of losses, data or runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from training.engine import products
from training.engine.errors import ModelError
from training.engine.files import directory_hash
from training.engine.text import Text

# Standard error carries our own progress lines.
transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]

_CODE = {".py", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".so"}
# Their keys are the words of the vocabulary and names of tensors, not settings.
_NOT_SETTINGS = {"tokenizer.json", "vocab.json", "model.safetensors.index.json"}
_SHARES_OF_DROPOUT = ("attention_dropout", "dropout", "activation_dropout", "layerdrop")
"""Numbers by which transformers' own layers drop something while they train; their nn.Dropout modules come besides."""
MERGE_TOLERANCE = 1e-3  # max |Δlogit| of a merge in fp32 (ENGINE §3.6)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterCounts:
    total: int
    trainable: int


def check_directory(directory: Path) -> None:
    """Refuse a model directory that holds anything but data.

    Raises:
        ModelError: not a directory; a link; a file that is code or a pickle; a setting that asks for code
            (`auto_map`), for another model (adapter_config.json) or for a quantised layout; no safetensors.
    """
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory}: not a model directory (no config.json)")
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            raise ModelError(f"{directory}: {name} is a link; copy the directory with its links followed")
        if path.suffix.lower() in _CODE:
            raise ModelError(f"{directory}: {name} is refused: code and pickled weights are never loaded")
        if path.name == "adapter_config.json":
            raise ModelError(f"{directory}: {name} makes this an adapter, not a model; convert it with its base first")
        if path.suffix == ".json" and path.name not in _NOT_SETTINGS:
            _check_settings(path, name=f"{directory}: {name}")
    if not list(directory.glob("*.safetensors")):
        raise ModelError(f"{directory}: holds no .safetensors file")


def _check_settings(path: Path, *, name: str) -> None:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{name} is not JSON: {error}") from error
    waiting = [settings]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "auto_map" in value:
                raise ModelError(f"{name} names code of its own (auto_map), which is never run")
            if path.name == "config.json" and value.get("quantization_config"):
                raise ModelError(f"{name} describes quantised weights (quantization_config); convert the model first")
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def is_reward_model(directory: Path) -> bool:
    architectures = read_json(directory / "config.json").get("architectures") or []
    return any(str(name).endswith("ForSequenceClassification") for name in architectures)


def load_policy(directory: Path, *, device: str = "cpu") -> Any:
    """A causal language model in fp32, dropout off, eval mode, every tensor accounted for."""
    check_directory(directory)
    if is_reward_model(directory):
        raise ModelError(f"{directory}: is a reward model, not a policy")
    model = _load(AutoModelForCausalLM, directory, missing=set(), unexpected=set()).to(device)
    # The engine computes logits from hidden states and the head's weight alone; a model that does more is not for it.
    ids = torch.tensor([[0, 1]], device=device)
    with torch.no_grad():
        theirs = model(input_ids=ids).logits[0]
    if not torch.allclose(outputs(model, ids), theirs, rtol=1e-4, atol=1e-4):
        raise ModelError(f"{directory}: its logits are more than the head of its hidden states (scaled or soft-capped)")
    return model


def load_reward_model(directory: Path, *, seed: int, device: str = "cpu") -> Any:
    """A trunk with a scalar head `score`. A policy directory gets a fresh head, N(0, 1/(D+1)) drawn from `seed`.

    Source: head scale of Huang et al. 2024 (the N+ implementation details of RLHF with PPO).
    """
    check_directory(directory)
    if is_reward_model(directory):
        model = _load(AutoModelForSequenceClassification, directory, missing=set(), unexpected=set(), num_labels=1)
    else:
        model = _load(
            AutoModelForSequenceClassification,
            directory,
            missing={"score.weight"},
            unexpected={"lm_head.weight"},
            num_labels=1,
        )
        head = score_head(model)
        generator = torch.Generator().manual_seed(seed)
        scale = (head.in_features + 1) ** -0.5
        with torch.no_grad():
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * scale)
    return model.to(device)


def _load(auto_class: Any, directory: Path, *, missing: set[str], unexpected: set[str], **config: Any) -> Any:
    # The seed of a head that is drawn anew is ours: what transformers draws must not move the caller's generator.
    with torch.random.fork_rng(devices=[]):
        try:
            model, info = auto_class.from_pretrained(
                directory,
                dtype=torch.float32,
                attn_implementation="sdpa",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **config,
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelError(f"{directory}: cannot be loaded: {error}") from error
    problems = {
        "missing": set(info["missing_keys"]) - missing,
        "unexpected": set(info["unexpected_keys"]) - unexpected,
        "of another shape": {str(key) for key in info["mismatched_keys"]},
    }
    for what, names in problems.items():
        if names:
            raise ModelError(f"{directory}: tensor {sorted(names)[0]} is {what} ({len(names)} in all)")
    return prepare(model)


def prepare(model: Any) -> Any:
    """Dropout off for good, eval mode, fast products, and no token whose embedding is left out of training.

    Layers copy their share of dropout from the config when they are built, so it is set in each of them too.

    transformers gives the embedding `padding_idx`, which zeroes the gradient of the pad token's row: where pad is the
    end token (SmolLM2) that would be a mask by pad id.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in _SHARES_OF_DROPOUT:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    model.config.attention_dropout = 0.0
    model.get_input_embeddings().padding_idx = None
    model.config.use_cache = False
    products.use(model)
    return model.eval()


def recompute_activations(model: Any) -> None:
    """From now on keep only what enters each layer, and compute the rest again in the backward pass (Chen et al. 2016).

    transformers looks at the training flag for it; nothing else does, since dropout is off.
    """
    base_of(model).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()


def base_of(model: Any) -> Any:
    """The transformers model inside an adapter wrapper, or the model itself."""
    return model.get_base_model() if isinstance(model, peft.PeftModel) else model


def trunk(model: Any) -> Any:
    """The decoder without its head: call it for `last_hidden_state` [B, N, D]; adapters, if any, are inside it."""
    inner = base_of(model)
    return getattr(inner, inner.base_model_prefix)


def lm_head_weight(model: Any) -> Tensor:
    """[V, D]; the embedding itself where the two are tied."""
    weight: Tensor = base_of(model).get_output_embeddings().weight
    return weight


def score_head(model: Any) -> nn.Linear:
    """The reward head, [1, D]."""
    head: nn.Linear = base_of(model).score
    return head


def has_score_head(model: Any) -> bool:
    return base_of(model).get_output_embeddings() is None


def context_tokens(model: Any) -> int:
    """The longest prompt and completion together that the model has positions for."""
    return int(base_of(model).config.max_position_embeddings)


def count_parameters(model: Any) -> ParameterCounts:
    """Shared (tied) tensors count once."""
    parameters = list(model.parameters())
    return ParameterCounts(
        total=sum(p.numel() for p in parameters), trainable=sum(p.numel() for p in parameters if p.requires_grad)
    )


def add_lora(model: Any, *, seed: int, rank: int = 16, alpha: int = 32, last_layers: int | None = None) -> Any:
    """Wrap a model so that only low-rank adapters of the trunk's linear layers train (and a reward head).

    The wrapped model equals the bare one until the first step (B = 0). Its A matrices are drawn from `seed`.

    Args:
        last_layers: adapt only so many layers, the last ones; None or more than there are: all.

    Raises:
        ModelError: `last_layers` is set and the trunk keeps its layers in no list of that name.
    """
    linear = [name for name, module in trunk(model).named_modules() if isinstance(module, nn.Linear)]
    if last_layers is None:
        targets = {name.rsplit(".", 1)[-1] for name in linear}
    else:
        layers = getattr(trunk(model), "layers", None)
        if layers is None:
            raise ModelError("adapter.last_layers: this kind of model does not number its layers; leave it out")
        first = max(0, len(layers) - last_layers)
        # Whole names: PEFT takes a target for every module whose name ends in it.
        targets = {name for name in linear if name.startswith("layers.") and int(name.split(".")[1]) >= first}
    return _wrap(model, rank=rank, alpha=alpha, targets=sorted(targets), seed=seed)


def _wrap(model: Any, *, rank: int, alpha: int, targets: list[str], seed: int) -> Any:
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = peft.get_peft_model(model, config)
    products.use(wrapped)
    if model.config.num_labels == 1 and isinstance(getattr(model, "score", None), nn.Linear):
        model.score.weight.requires_grad_(True)
    return wrapped.eval()


@contextlib.contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Inside, an adapted model is its base: the reference policy of a LoRA run."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def adapter_state(model: Any) -> dict[str, Tensor]:
    """The adapter's tensors by PEFT's names."""
    state: dict[str, Tensor] = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    return state


def save_adapter(model: Any, directory: Path, *, state: Mapping[str, Tensor] | None = None) -> None:
    """Write adapter_model.safetensors and adapter_config.json, without naming where the base came from.

    Args:
        state: the adapter's tensors, where the model's own are spread over several ranks.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = model.peft_config["default"]
    config.base_model_name_or_path = None
    kept = adapter_state(model) if state is None else state
    save_file({k: v.contiguous().cpu() for k, v in kept.items()}, directory / "adapter_model.safetensors")
    config.save_pretrained(str(directory))


def load_adapter(model: Any, directory: Path) -> Any:
    """Wrap `model` with the adapter saved in `directory`. Only rank, scale and target names are taken from its config.

    Raises:
        ModelError: a file is missing, is not plain LoRA, or its tensors are not those of this model.
    """
    weights = directory / "adapter_model.safetensors"
    if not weights.is_file():
        raise ModelError(f"{directory}: holds no adapter_model.safetensors")
    config = read_json(directory / "adapter_config.json")
    plain = config.get("peft_type") == "LORA" and not any(
        config.get(key) for key in ("use_dora", "use_rslora", "modules_to_save", "auto_mapping", "rank_pattern")
    )
    targets = config.get("target_modules")
    if not plain or not isinstance(targets, list):
        raise ModelError(f"{directory}: adapter_config.json is not a plain LoRA adapter")
    wrapped = _wrap(model, rank=int(config["r"]), alpha=int(config["lora_alpha"]), targets=sorted(targets), seed=0)
    state = load_file(weights)
    own = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    for name in sorted(own.keys() | state.keys()):
        if name not in own or name not in state or own[name].shape != state[name].shape:
            raise ModelError(f"{directory}: adapter tensor {name} does not fit this base model")
    peft.set_peft_model_state_dict(wrapped, state)
    return wrapped


def merge_adapter(model: Any, *, probe_ids: list[int]) -> Any:
    """Fold the adapters into the fp32 weights and return the plain model.

    Raises:
        ModelError: some logit (or score) of `probe_ids` moved by MERGE_TOLERANCE or more.
    """
    ids = torch.tensor([probe_ids], device=next(model.parameters()).device)
    before = outputs(model, ids)
    merged = model.merge_and_unload()
    moved = (outputs(merged, ids) - before).abs().max().item()
    if not moved < MERGE_TOLERANCE:
        raise ModelError(f"merging the adapter moved an output by {moved:.2e}, more than {MERGE_TOLERANCE}")
    return merged


@torch.no_grad()
def outputs(model: Any, ids: Tensor) -> Tensor:
    """Logits [N, V] of a policy, scores [N, 1] of a reward model, at every position."""
    hidden = trunk(model)(input_ids=ids, use_cache=False).last_hidden_state[0]
    inner = base_of(model)
    head = inner.get_output_embeddings() or score_head(model)
    logits: Tensor = head(hidden)
    return logits


def save_model(model: Any, text: Text, directory: Path, *, winnow: Mapping[str, object]) -> str:
    """Write a whole model directory aside, rename it to `directory`, and return its content hash.

    A directory already there is refused. `winnow` becomes winnow.json, with the template's and tokenizer's hashes.
    """
    if directory.exists():
        raise ModelError(f"{directory}: exists already")
    aside = directory.with_name(f".partial-{directory.name}")
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir(parents=True)
    write_model(model, text, aside, winnow=winnow)
    publish(aside, directory)
    return directory_hash(directory)


def publish(aside: Path, directory: Path) -> None:
    """Bring every file of `aside` to the disk, then give the whole directory its name."""
    for path in [*aside.iterdir(), aside]:
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes 0600, and other workers read it
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    aside.rename(directory)


def write_model(
    model: Any, text: Text, directory: Path, *, winnow: Mapping[str, object], state: dict[str, Tensor] | None = None
) -> None:
    """The files of a model directory, into an existing directory that the caller will rename (a checkpoint, say).

    Args:
        state: the model's tensors, where its own are spread over several ranks.
    """
    inner = base_of(model)
    reward = inner.get_output_embeddings() is None
    config = inner.config
    kept = (config.pad_token_id, config.use_cache, text.tokenizer.pad_token)
    config.use_cache = True
    if reward and text.pad_id in text.stop_ids:
        # transformers reads the score at the last id that is not pad: with pad = end that is one token too early.
        config.pad_token_id = _other_special_id(text)
        text.tokenizer.pad_token = text.tokenizer.convert_ids_to_tokens(config.pad_token_id)
    inner.save_pretrained(directory, state_dict=state)
    text.tokenizer.chat_template = text.template
    for key in ("is_local", "local_files_only"):  # how it was loaded here is no part of the model
        text.tokenizer.init_kwargs.pop(key, None)
    text.tokenizer.save_pretrained(directory)
    config.pad_token_id, config.use_cache, text.tokenizer.pad_token = kept
    if reward:
        generation = {"eos_token_id": sorted(text.stop_ids)}
        (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    write_facts(model, text, directory, winnow=winnow)


def write_facts(model: Any, text: Text, directory: Path, *, winnow: Mapping[str, object]) -> None:
    """Write winnow.json: what the caller knows, and what the model itself tells."""
    inner = base_of(model)
    facts = {
        **winnow,
        "format": "winnow-model",
        "version": 1,
        "kind": "reward" if inner.get_output_embeddings() is None else "policy",
        "dtype": str(inner.dtype).removeprefix("torch."),
        "parameters": count_parameters(inner).total,
        "template_sha256": text.template_sha256,
        "tokenizer_sha256": text.tokenizer_sha256,
    }
    (directory / "winnow.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _other_special_id(text: Text) -> int | None:
    others = [int(i) for i in text.tokenizer.all_special_ids if int(i) not in text.stop_ids]
    return min(others) if others else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ModelError names the file when it is missing or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: must hold a JSON object")
    return found
