"""The peer's side: TRL's own trainer of a method on the lines of `training_data`, in a process of its own.

    python -m benchmarks.training_trl SPEC.json

With `best` the flags are the best that TRL has here: no recomputation, no padding in SFT, the reference's
log-probabilities beforehand. Else they are TRL's defaults. Both sides are held to one batch size, learning rate,
sequence of examples and precision (TRL's own default is bf16). A line of `metrics.jsonl` ends each step, its loss
follows in `losses.jsonl`; a line of `reference/trl.jsonl` ends each batch of the reference, one of `padding.jsonl` says
what a collated batch holds. PPO is run by a TRL that
still has it: `training` puts that one first on the path.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset  # type: ignore[import-untyped]
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from benchmarks.training_data import read_lines

trl = importlib.import_module("trl")  # as Any: its names are made when they are asked for
RATE = 1e-6


class Marks(TrainerCallback):
    """Writes a line when training begins and after each step, and the losses as they are logged."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def write(self, name: str, line: dict[str, Any]) -> None:
        path = self.out / name
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def mark(self, step: int, state: Any) -> None:
        line = {"step": step, "train/tokens": state.num_input_tokens_seen}
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            line["memory/peak_bytes"] = torch.cuda.max_memory_allocated()
        self.write("metrics.jsonl", line)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.mark(0, state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.mark(state.global_step, state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.write("losses.jsonl", {"step": state.global_step, "loss": float(logs["loss"])})


def watch_padding(trainer: Any, marks: Marks) -> None:
    """Write what each collated batch holds, for a collator that gives a mask."""
    collate = trainer.data_collator

    def watched(rows: Any) -> Any:
        batch = collate(rows)
        masks = [value for key, value in batch.items() if key.endswith("attention_mask")]
        if masks:
            held = {"tokens": sum(int(m.sum()) for m in masks), "positions": sum(m.numel() for m in masks)}
            marks.write("padding.jsonl", held)
        return batch

    trainer.data_collator = watched


def common(spec: dict[str, Any]) -> dict[str, Any]:
    """Arguments that every trainer gets: what both sides share, and where to write."""
    arguments: dict[str, Any] = {
        "output_dir": str(Path(spec["out"]) / "trl"),
        "per_device_train_batch_size": spec["per_device"],
        "max_steps": spec["steps"],
        "learning_rate": RATE,
        "bf16": spec["dtype"] == "bf16",
        "use_cpu": spec["device"] == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "seed": 7,
    }
    if spec["flags"] == "best":
        arguments["gradient_checkpointing"] = False
    return arguments


def policy(spec: dict[str, Any]) -> Any:
    return AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32)


def scorer(spec: dict[str, Any]) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(spec["reward_model"], num_labels=1, dtype=torch.float32)


def sft(spec: dict[str, Any], examples: list[dict[str, Any]], marks: Marks) -> Any:
    rows = [
        {
            "input_ids": row["prompt_ids"] + row["completion_ids"],
            "completion_mask": [0] * len(row["prompt_ids"]) + [1] * len(row["completion_ids"]),
        }
        for row in examples
    ]
    best = {"padding_free": True, "max_length": None} if spec["flags"] == "best" else {}
    arguments = trl.SFTConfig(**common(spec), train_sampling_strategy="sequential", completion_only_loss=True, **best)
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    return trl.SFTTrainer(
        policy(spec), arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[marks]
    )


def reward(spec: dict[str, Any], examples: list[dict[str, Any]], marks: Marks) -> Any:
    rows = [
        {f"{side}_ids": row["prompt_ids"] + row[f"{side}_ids"] for side in ("chosen", "rejected")} for row in examples
    ]
    arguments = trl.RewardConfig(**common(spec), train_sampling_strategy="sequential")
    tokenizer = AutoTokenizer.from_pretrained(spec["reward_model"])
    return trl.RewardTrainer(
        scorer(spec), arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[marks]
    )


def dpo(spec: dict[str, Any], examples: list[dict[str, Any]], marks: Marks) -> Any:
    class Timed(trl.DPOTrainer):  # type: ignore[misc, name-defined]
        """Tells when a batch of the reference is done."""

        def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
            found = super().compute_ref_log_probs(model, inputs)
            marks.write("reference/trl.jsonl", {"tokens": int(inputs["attention_mask"].sum())})
            return found

    best = {"precompute_ref_log_probs": True} if spec["flags"] == "best" else {}
    arguments = trl.DPOConfig(**common(spec), train_sampling_strategy="sequential", **best)
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in examples]
    trainer = Timed(
        policy(spec),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(spec["model"]),
        callbacks=[marks],
    )
    for ours, theirs in zip(examples, trainer.train_dataset, strict=True):
        for key in ("prompt_ids", "chosen_ids", "rejected_ids"):
            if ours[key] != list(theirs[key]):
                raise AssertionError(f"{key} of {ours['id']} are {theirs[key]} to TRL and {ours[key]} to us")
    return trainer


def grpo(spec: dict[str, Any], examples: list[dict[str, Any]], marks: Marks) -> Any:
    return _group_method(spec, examples, marks, config=trl.GRPOConfig, trainer=trl.GRPOTrainer)


def rloo(spec: dict[str, Any], examples: list[dict[str, Any]], marks: Marks) -> Any:
    return _group_method(spec, examples, marks, config=trl.RLOOConfig, trainer=trl.RLOOTrainer)


def _group_method(
    spec: dict[str, Any], examples: list[dict[str, Any]], marks: Marks, *, config: Any, trainer: Any
) -> Any:
    arguments = config(
        **common(spec),
        num_generations=spec["per_prompt"],
        max_completion_length=spec["response"],
        shuffle_dataset=False,
        beta=spec["beta"],
    )
    return trainer(
        policy(spec),
        reward_funcs=scorer(spec),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in examples]),
        processing_class=AutoTokenizer.from_pretrained(spec["model"], padding_side="left"),
        reward_processing_classes=AutoTokenizer.from_pretrained(spec["reward_model"]),
        callbacks=[marks],
    )


def ppo(spec: dict[str, Any], examples: list[dict[str, Any]], marks: Marks) -> Any:
    module = importlib.import_module("trl.experimental.ppo")  # not in every TRL

    class Watched(module.PPOTrainer):  # type: ignore[misc, name-defined]
        """It calls no callback when training begins."""

        def train(self) -> None:
            marks.write("metrics.jsonl", {"step": 0})
            super().train()

    shared = {key: value for key, value in common(spec).items() if key not in ("max_steps",)}
    arguments = module.PPOConfig(
        **shared,
        total_episodes=spec["per_device"] * spec["steps"],
        response_length=spec["response"],
        temperature=1.0,
        num_sample_generations=0,
        num_ppo_epochs=spec["inner_epochs"],
        kl_coef=spec["beta"],
    )
    tokenizer = AutoTokenizer.from_pretrained(spec["reward_model"], padding_side="left")
    rows = Dataset.from_list([{"input_ids": row["prompt_ids"]} for row in examples])
    return Watched(
        args=arguments,
        processing_class=tokenizer,
        model=policy(spec),
        ref_model=policy(spec),
        reward_model=scorer(spec),
        value_model=scorer(spec),
        train_dataset=rows,
        eval_dataset=rows.select(range(spec["per_device"])),
        callbacks=[marks],
    )


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(spec["threads"])
    transformers.set_seed(7)
    makers = {"sft": sft, "reward": reward, "dpo": dpo, "grpo": grpo, "rloo": rloo, "ppo": ppo}
    out = Path(spec["out"])
    out.mkdir(parents=True, exist_ok=True)
    marks = Marks(out)
    trainer = makers[spec["method"]](spec, list(read_lines(Path(spec["lines"]))), marks)
    if spec["method"] in ("sft", "reward", "dpo"):
        watch_padding(trainer, marks)
    trainer.train()


if __name__ == "__main__":
    main()
