"""GGUF file, adapter checkpoint with its base, or model directory → one safetensors directory.

What is written is read back and compared with what was meant before it is announced. Progress goes to status.json
(percent) and, as lines `progress 0.35 reading weights`, to standard error.
"""

from __future__ import annotations

import contextlib
import copy
import io
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.engine import models
from training.engine.checkpoint import MANIFEST, load_head, verify_checkpoint
from training.engine.config import ConvertConfig
from training.engine.errors import ConfigError, ModelError
from training.engine.files import Status, directory_hash, write_json
from training.engine.supervision import StopRun, Supervision
from training.engine.text import Text, load_text, text_of

_PROBE = [{"role": "user", "content": "Name three colours of the rainbow, and say where they come from."}]
_KEPT = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md")  # what a copy of a model directory takes along
_SAME = 1e-4  # max |Δ| of an output between the model meant and the one read back: rounding of another thread split

Progress = Callable[[float, str], None]


def run(
    config: ConvertConfig, out: Path, *, resume: Path | None = None, supervision: Supervision | None = None
) -> dict[str, Any]:
    """Write OUT/model and OUT/result.json, and return the result. A model already in OUT is refused.

    Raises:
        StopRun: a stop was asked for, and is heeded between phases; OUT/model is not there then.
    """
    status = Status(out)

    def progress(share: float, doing: str) -> None:
        if supervision is not None and supervision.stop_requested and share < 1:
            raise StopRun
        status.update(doing, step=round(100 * share), steps=100)
        sys.stderr.write(f"progress {share:.2f} {doing}\n")
        sys.stderr.flush()

    base = None if config.models.base is None else Path(config.models.base)
    source = Path(config.models.source)
    facts = convert(source, out / "model", base=base, name=config.name, progress=progress)
    size = sum(path.stat().st_size for path in (out / "model").iterdir())
    lineage = {"snapshot": None, "models": {"base": facts.pop("base_sha256", None)}}
    model = {"path": "model", "size_bytes": size, **facts}
    result: dict[str, Any] = {
        "status": "done",
        "reason": None,
        "step": 0,
        "checkpoints": {"best": None, "last": None},
        "metrics": {},
        "alarms": [],
        "lineage": lineage,
        "model": model,
    }
    write_json(out / "result.json", result)
    return result


def _silent(_share: float, _doing: str) -> None:
    pass


def convert(
    source: Path, target: Path, *, base: Path | None = None, name: str, progress: Progress = _silent
) -> dict[str, Any]:
    """Make the model directory `target` from `source`; returns kind, parameters, sha256, source and end token.

    Raises:
        ConfigError: a base is named for a source that is no adapter.
        ModelError: the source is none of the three, is refused (`models.check_directory`), or does not read back alike.
    """
    if target.exists():
        raise ModelError(f"{target}: exists already")
    if base is not None and not _is_adapter(source):
        problem = f"{source} is no adapter checkpoint, so it has no base to be merged with"
        raise ConfigError(key="models.base", value=str(base), message=f"models.base must be null: {problem}")
    try:
        facts = _convert(source, target, base=base, name=name, progress=progress)
    except StopRun:  # what stands there was not read back, or its hash is not known
        for left in (target, target.with_name(f".partial-{target.name}")):
            shutil.rmtree(left, ignore_errors=True)
        raise
    progress(1.0, "done")
    return facts


def _is_adapter(source: Path) -> bool:
    return (source / MANIFEST).is_file() and not (source / "model").is_dir()


def _convert(source: Path, target: Path, *, base: Path | None, name: str, progress: Progress) -> dict[str, Any]:
    if source.is_file():
        return _from_gguf(source, target, name=name, progress=progress)
    if (source / MANIFEST).is_file():
        progress(0.02, "verifying checkpoint")
        verify_checkpoint(source)
        if _is_adapter(source):
            return _from_adapter(source, target, base=base, name=name, progress=progress)
        return _from_directory(source / "model", target, name=name, progress=progress)
    if source.is_dir():
        return _from_directory(source, target, name=name, progress=progress)
    raise ModelError(f"{source}: no such file or directory")


def _from_gguf(source: Path, target: Path, *, name: str, progress: Progress) -> dict[str, Any]:
    """The quantised values become fp32 numbers exactly; in bf16 they would be rounded a second time."""
    with source.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{source}: is not a GGUF file")
    from_gguf: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    progress(0.02, "reading tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, **from_gguf)
        progress(0.30, "dequantising")
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar would run through our lines
            quantised = AutoModelForCausalLM.from_pretrained(source.parent, **from_gguf, dtype=torch.float32)
    except (OSError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{source}: cannot be converted: {error}") from error
    progress(0.65, "rebuilding")
    # The config of the loaded model says that it is quantised, and save_pretrained then refuses.
    config = copy.deepcopy(quantised.config)
    del config.quantization_config
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.generation_config = quantised.generation_config
    del quantised
    end = model.generation_config.eos_token_id  # where it names none, the tokenizer's is taken, or refused
    end_ids = frozenset() if end is None else frozenset(end if isinstance(end, list) else [end])
    text = text_of(tokenizer, end_ids=end_ids, name=str(source))
    winnow = {"name": name, "source": source.name, "source_format": "gguf"}
    return _save(models.prepare(model), text, target, winnow=winnow, progress=progress)


def _from_adapter(source: Path, target: Path, *, base: Path | None, name: str, progress: Progress) -> dict[str, Any]:
    """Merged in fp32, with the head beside the adapter if the checkpoint is a reward model's."""
    if base is None:
        raise ModelError(f"{source}: is an adapter; name the model it was trained on (models.base)")
    record = models.read_json(source / "winnow.json")
    progress(0.05, "checking base")
    base_sha256 = directory_hash(base)
    trained_on = record["base_sha256"]
    if trained_on != base_sha256:
        raise ModelError(f"{base}: is not the model that {source} was trained on (sha256 {base_sha256}, {trained_on})")
    progress(0.20, "reading weights")
    text = load_text(base)
    reward = record["kind"] == "reward"
    model = models.load_reward_model(base, seed=0) if reward else models.load_policy(base)
    model = models.load_adapter(model, source / "adapter")
    if reward:
        load_head(model, source)
    progress(0.45, "merging")
    merged = models.merge_adapter(model, probe_ids=text.prompt_ids(_PROBE))
    winnow = {**record, "name": name, "source": source.name, "source_format": "adapter", "base_sha256": base_sha256}
    return _save(merged, text, target, winnow=winnow, progress=progress)


def _from_directory(source: Path, target: Path, *, name: str, progress: Progress) -> dict[str, Any]:
    """A checked copy, bytes unchanged; read once in fp32 to see that every tensor is there and the template is sane."""
    progress(0.05, "checking files")
    models.check_directory(source)
    record = models.read_json(source / "winnow.json") if (source / "winnow.json").is_file() else {}
    aside = target.with_name(f".partial-{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix.lower() in _KEPT:
            shutil.copyfile(path, aside / path.name)
    progress(0.50, "reading weights")
    text = load_text(aside)
    reward = models.is_reward_model(aside)
    model = models.load_reward_model(aside, seed=0) if reward else models.load_policy(aside)
    _require_finite(_outputs(model, text), source)
    winnow = {**record, "name": name, "source": record.get("source", source.name)}
    models.write_facts(model, text, aside, winnow=winnow)
    models.publish(aside, target)
    progress(0.90, "hashing")
    return _facts(target, text)


def _save(model: Any, text: Text, target: Path, *, winnow: Mapping[str, object], progress: Progress) -> dict[str, Any]:
    meant = _outputs(model, text)
    _require_finite(meant, target)
    progress(0.70, "writing")
    models.save_model(model, text, target, winnow=winnow)
    del model
    progress(0.85, "reading back")
    again = load_text(target)
    reward = models.is_reward_model(target)
    copy_of = models.load_reward_model(target, seed=0) if reward else models.load_policy(target)
    moved = (_outputs(copy_of, again) - meant).abs().max().item()
    same_text = (again.template, again.end_id, again.stop_ids) == (text.template, text.end_id, text.stop_ids)
    if not moved <= _SAME or not same_text:
        shutil.rmtree(target)
        raise ModelError(f"{target}: reads back differently (outputs moved by {moved:.2e}, same template: {same_text})")
    progress(0.95, "hashing")
    return _facts(target, again)


def _outputs(model: Any, text: Text) -> Tensor:
    return models.outputs(model, torch.tensor([text.prompt_ids(_PROBE)]))


def _require_finite(outputs: Tensor, where: Path) -> None:
    if not bool(torch.isfinite(outputs).all()):
        raise ModelError(f"{where}: the model's outputs are not finite")


def _facts(target: Path, text: Text) -> dict[str, Any]:
    record = models.read_json(target / "winnow.json")
    facts: dict[str, Any] = {"sha256": directory_hash(target), "end_token": text.tokenizer.decode([text.end_id])}
    names = ("name", "kind", "parameters", "dtype", "base_sha256")
    return facts | {name: record[name] for name in names if name in record}
