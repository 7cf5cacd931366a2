"""ENGINE §6.2: losses, gradients and curves beside TRL 1.16 on the same ids, and where the two differ by design.

Both sides get the same random Llama in fp32 and the same batch of real preferences: ours as `Pair`s through the step
functions, TRL's as the padded tensors that its collators make, through its trainers' `compute_loss`.
Methods that sample, and the differences that are meant, are in `test_trl_parity_sampled`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from tests.engine.tabular import Bench, make_bench
from tests.engine.tiny import tiny_tokenizer
from training.engine import dpo, kto, loop, reward, sft
from training.engine.config import Average
from training.engine.examples import Demonstration, Rated
from training.engine.logprobs import completion_logprobs
from training.engine.models import prepare
from training.engine.packing import Sharing, build_pack, use_packed_attention
from training.engine.pairs import Pair

trl = pytest.importorskip("trl", reason="TRL is in the dev extra")
datasets = pytest.importorskip("datasets", reason="TRL is in the dev extra")
torch.set_num_threads(1)
PAD, END = 0, 2
CPU = torch.device("cpu")


# --- the two sides ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="session")
def pairs(test_data: Path) -> list[Pair]:
    """Eight real preferences, cut to unequal lengths; ids of the tiny tokenizer, each with its end token."""
    tokenizer = tiny_tokenizer()
    lines = (test_data / "preferences" / "alpacaeval_nc.train.jsonl").read_text().splitlines()[:8]

    def ids(text: str, most: int) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"][:most])

    found = []
    for number, line in enumerate(map(json.loads, lines)):
        content = line["prompt"][-1]["content"]
        sides = (ids(line["chosen"], 8 + 4 * number), ids(line["rejected"], 40 - 4 * number))
        found.append(
            Pair(
                id=line["id"],
                group=line["id"],
                sharing=Sharing(prompt=ids(content, 10 + 5 * number), completions=tuple((*y, END) for y in sides)),
                q=1.0,
                weight=1.0,
                prompt=line["prompt"],
                texts=(line["chosen"], line["rejected"]),
                finishes=("end", "end"),
            )
        )
    return found


def random_llama(*, seed: int = 0, scores: bool = False) -> Any:
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.1,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=END,
        num_labels=1 if scores else 2,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (LlamaForSequenceClassification if scores else LlamaForCausalLM)(config)


def both(*, scores: bool = False, seed: int = 0) -> tuple[Any, Any]:
    """The same weights twice: ours, which reads packs, and TRL's."""
    theirs = random_llama(scores=scores, seed=seed)
    ours = prepare(copy.deepcopy(theirs))
    use_packed_attention(ours)
    theirs.get_input_embeddings().padding_idx = None  # a mask by pad id in the gradient, where pad were a real token
    return ours, theirs


def moved(model: Any) -> Any:
    """A reference that differs from the policy."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return other.requires_grad_(requires_grad=False)


def cache_of(reference: Any) -> Any:
    def lookup(groups: Sequence[Sharing]) -> Tensor:
        with torch.no_grad():
            return completion_logprobs(reference, build_pack(groups, device=CPU))

    return SimpleNamespace(lookup=lookup)


def peer(name: str, model: Any, tmp_path: Path, *, rows: list[dict[str, Any]] | None = None, **options: Any) -> Any:
    """A trainer of TRL around a model; its own data set is never read here."""
    experimental = {"CPO": "trl.experimental.cpo", "ORPO": "trl.experimental.orpo"}
    module = __import__(experimental[name], fromlist=["x"]) if name in experimental else trl
    reference = options.pop("ref_model", None)
    reward_funcs = options.pop("reward_funcs", None)
    config = getattr(module, f"{name}Config")(
        output_dir=str(tmp_path),
        per_device_train_batch_size=options.pop("batch", 8),
        use_cpu=True,
        bf16=False,
        report_to=[],
        **{**({} if name in experimental else {"gradient_checkpointing": False}), **options},
    )
    extra: dict[str, Any] = {} if reference is None else {"ref_model": reference}
    if reward_funcs is not None:
        extra["reward_funcs"] = reward_funcs
    texts = {"prompt": "good", "chosen": "good dog", "rejected": "bad"}
    shapes = {"SFT": {"text": "good dog"}, "KTO": {"prompt": "good", "completion": "dog", "label": True}}
    data = rows or [shapes.get(name, texts)] * 8
    if name == "KTO" and rows is None:
        data = [{**data[0], "prompt": f"good {n}", "label": n % 2 == 0} for n in range(8)]
    return getattr(module, f"{name}Trainer")(
        model=model,
        args=config,
        train_dataset=datasets.Dataset.from_list(data),
        processing_class=tiny_tokenizer(),
        **extra,
    )


def padded(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side="left" if left else "right")


def preference_batch(pairs: Sequence[Pair], *, wider: int = 0) -> dict[str, Tensor]:
    """As TRL's collators: all chosen, then all rejected, padded on the right."""
    rows = [(p.sharing.prompt, p.sharing.completions[side]) for side in (0, 1) for p in pairs]
    return rows_batch(rows, wider=wider)


def rows_batch(rows: Sequence[tuple[Sequence[int], Sequence[int]]], *, wider: int = 0) -> dict[str, Tensor]:
    ids = padded([(*x, *y) for x, y in rows], PAD)
    mask = padded([[1] * (len(x) + len(y)) for x, y in rows], 0)
    scored = padded([[0] * len(x) + [1] * len(y) for x, y in rows], 0)
    found = {"input_ids": ids, "attention_mask": mask, "completion_mask": scored}
    return {name: nn.functional.pad(column, (0, wider)) for name, column in found.items()}


def labelled_batch(pairs: Sequence[Pair], *, wider: int = 0) -> dict[str, Tensor]:
    """As the collator of CPO and ORPO: each side apart, prompts masked in the labels."""
    found = {}
    for side, name in enumerate(("chosen", "rejected")):
        batch = rows_batch([(p.sharing.prompt, p.sharing.completions[side]) for p in pairs], wider=wider)
        found[f"{name}_input_ids"] = batch["input_ids"]
        found[f"{name}_attention_mask"] = batch["attention_mask"]
        found[f"{name}_labels"] = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    return found


def their_step(trainer: Any, model: Any, batch: dict[str, Any]) -> float:
    loss = trainer.compute_loss(model, dict(batch))
    loss.backward()
    return float(loss)


def distance(ours: Any, theirs: Any) -> float:
    """max |Δg| over max |g|, and the gradients are cleared."""
    own, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert own.keys() == other.keys()
    largest = max(float(p.grad.abs().max()) for p in other.values() if p.grad is not None)
    worst = 0.0
    for name, parameter in own.items():
        zero = torch.zeros_like(parameter)
        a, b = (p.grad if p.grad is not None else zero for p in (parameter, other[name]))
        worst = max(worst, float((a - b).abs().max()))
        parameter.grad = other[name].grad = None
    return worst / largest


def check_equal(name: str, ours: Any, theirs: Any, losses: tuple[float, float], *, size: float = 0.0) -> None:
    """Args: size: mean size of the terms of a loss, where they cancel in it."""
    off = distance(ours, theirs)
    print(
        f"{name}: loss {losses[0]:.7f}, {abs(losses[0] / losses[1] - 1):.1e} apart; gradients {off:.1e} of the largest"
    )
    assert losses[0] == pytest.approx(losses[1], abs=1e-6 * max(abs(losses[1]), size))
    assert off <= 1e-5


def test_the_peer_is_the_one_that_was_read() -> None:
    print(f"TRL {version('trl')}")
    assert version("trl").startswith("1.16.")


# --- preference losses ------------------------------------------------------------------------------------------------

LINKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sigmoid": ({}, {"loss_type": "sigmoid"}),
    "robust": (
        {"link": "robust", "epsilon": 0.2, "labels": "hard"},
        {"loss_type": "robust", "label_smoothing": 0.2},
    ),
    "hinge": ({"link": "hinge"}, {"loss_type": "hinge"}),
    "ipo_avg": ({"link": "ipo", "logit": "dpo_avg", "tau": 0.1}, {"loss_type": "ipo"}),
}


def our_dpo(bench: Bench, model: Any, pairs: Sequence[Pair], *, cache: Any = None, **options: Any) -> float:
    session = bench.session("dpo", model, pairs, size=len(pairs), dpo=options, batch={"pairs": len(pairs)})
    batch = dpo.forward(session, session.config.dpo, pairs, cache=cache, train=True)
    return loop.weighted_mean(batch.losses, batch.weights)


@pytest.mark.parametrize("name", LINKS)
def test_dpo_losses_equal(bench: Bench, pairs: list[Pair], tmp_path: Path, name: str) -> None:
    ours, theirs = both()
    options, flags = LINKS[name]
    loss = our_dpo(bench, ours, pairs, cache=cache_of(moved(ours)), beta=0.1, **options)
    trainer = peer("DPO", theirs, tmp_path, ref_model=moved(theirs), beta=0.1, **flags)
    check_equal(name, ours, theirs, (loss, their_step(trainer, theirs, preference_batch(pairs))))


def test_simpo_equals_that_of_cpo_without_its_nll(bench: Bench, pairs: list[Pair], tmp_path: Path) -> None:
    ours, theirs = both()
    loss = our_dpo(bench, ours, pairs, logit="simpo", link="margin", beta=2.0, gamma=1.0)
    trainer = peer("CPO", theirs, tmp_path, loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=1.0)
    check_equal("simpo", ours, theirs, (loss, their_step(trainer, theirs, labelled_batch(pairs))))


def test_orpo_with_its_nll_on_prompts_equals(bench: Bench, pairs: list[Pair], tmp_path: Path) -> None:
    ours, theirs = both()
    loss = our_dpo(bench, ours, pairs, logit="orpo", odds_weight=0.1, nll_on_prompt=True)
    trainer = peer("ORPO", theirs, tmp_path, beta=0.1)
    check_equal("orpo", ours, theirs, (loss, their_step(trainer, theirs, labelled_batch(pairs))))


def rated(pairs: Sequence[Pair]) -> list[Rated]:
    return [
        Rated(
            id=f"{pair.id}:{side}",
            group=pair.group,
            sharing=Sharing(prompt=pair.sharing.prompt, completions=(pair.sharing.completions[side],)),
            desirable=side == 0,
            weight=1.0,
            prompt=pair.prompt,
            text=pair.texts[side],
            finish="end",
        )
        for side in (0, 1)
        for pair in pairs
    ]


def test_kto_equals(bench: Bench, pairs: list[Pair], tmp_path: Path) -> None:
    """On the mismatched texts that ours pairs: TRL's are those of its own data set's order."""
    ours, theirs = both()
    items = rated(pairs)[:12]  # eight desirable ones and four that are not
    cache = cache_of(moved(ours))
    session = bench.session("kto", ours, items, size=12, batch={"examples": 12})
    others = kto.mismatched(items, max_tokens=10**6)
    z0 = kto.reference_point(session, items, cache=cache, max_tokens=10**6)
    weights = kto.ClassWeights(desirable=1.0, undesirable=1.5)
    batch = kto.forward(
        session, session.config.kto, items, cache=cache, weights=weights, reference_point=z0, train=True
    )
    mismatched = rows_batch([(o.sharing.prompt, o.sharing.completions[0]) for o in others])
    trainer = peer("KTO", theirs, tmp_path, ref_model=moved(theirs), beta=0.1, undesirable_weight=1.5)
    their_batch = {
        **rows_batch([(i.sharing.prompt, i.sharing.completions[0]) for i in items]),
        **{f"KL_{name}": column for name, column in mismatched.items()},
        "label": torch.tensor([i.desirable for i in items]),
    }
    losses = (loop.weighted_mean(batch.losses, batch.weights), their_step(trainer, theirs, their_batch))
    print(f"z0 {float(z0):.4f}")
    check_equal("kto", ours, theirs, losses)


# --- SFT and reward models --------------------------------------------------------------------------------------------


def demonstrations(pairs: Sequence[Pair]) -> list[Demonstration]:
    return [
        Demonstration(
            id=pair.id,
            group=pair.group,
            sharing=Sharing(prompt=pair.sharing.prompt, completions=pair.sharing.completions[:1]),
            weight=1.0,
            prompt=pair.prompt,
            text=pair.texts[0],
            finish="end",
        )
        for pair in pairs
    ]


def our_sft(bench: Bench, model: Any, pairs: Sequence[Pair]) -> tuple[Any, Callable[[], float]]:
    rows = demonstrations(pairs)
    session = bench.session("sft", model, rows, size=8, rate=1e-3, batch={"examples": 8})

    def step() -> float:
        batch = sft.forward(session, rows, average=Average.TOKEN, train=True)
        return sft.mean_loss(batch, rows, average=Average.TOKEN)

    return session, step


def sft_batch(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    batch = rows_batch([(p.sharing.prompt, p.sharing.completions[0]) for p in pairs])
    scored = batch.pop("completion_mask")
    return {**batch, "labels": batch["input_ids"].masked_fill(scored == 0, -100)}


def our_reward(bench: Bench, model: Any, pairs: Sequence[Pair]) -> tuple[Any, Callable[[], float]]:
    session = bench.session("reward", model, pairs, size=8, rate=1e-3, batch={"pairs": 8})

    def step() -> float:
        batch = reward.forward(session, session.config.reward, pairs, train=True)
        return loop.weighted_mean(batch.losses, batch.weights)

    return session, step


def reward_batch(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    batch = preference_batch(pairs)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def test_sft_equals(bench: Bench, pairs: list[Pair], tmp_path: Path) -> None:
    ours, theirs = both()
    loss = our_sft(bench, ours, pairs)[1]()
    check_equal("sft", ours, theirs, (loss, their_step(peer("SFT", theirs, tmp_path), theirs, sft_batch(pairs))))


def test_the_reward_loss_equals_on_the_same_ids(bench: Bench, pairs: list[Pair], tmp_path: Path) -> None:
    ours, theirs = both(scores=True)
    loss = our_reward(bench, ours, pairs)[1]()
    trainer = peer("Reward", theirs, tmp_path)
    check_equal("reward", ours, theirs, (loss, their_step(trainer, theirs, reward_batch(pairs))))


@pytest.mark.parametrize("method", ["sft", "reward", "dpo"])
def test_twenty_steps_have_one_curve(bench: Bench, pairs: list[Pair], tmp_path: Path, method: str) -> None:
    ours, theirs = both(scores=method == "reward")
    names = {"sft": "SFT", "reward": "Reward", "dpo": "DPO"}
    reference = {"ref_model": moved(theirs)} if method == "dpo" else {}
    trainer = peer(names[method], theirs, tmp_path, **reference)
    if method == "dpo":
        cache = cache_of(moved(ours))
        session = bench.session("dpo", ours, pairs, size=8, rate=1e-3, batch={"pairs": 8})

        def step() -> float:
            batch = dpo.forward(session, session.config.dpo, pairs, cache=cache, train=True)
            return loop.weighted_mean(batch.losses, batch.weights)
    else:
        session, step = (our_sft if method == "sft" else our_reward)(bench, ours, pairs)
    make = {"sft": sft_batch, "reward": reward_batch, "dpo": preference_batch}[method]
    session.trained["policy"].optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-3, weight_decay=0.0)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.0)
    curves: tuple[list[float], list[float]] = ([], [])
    for _ in range(20):
        curves[0].append(step())
        loop.update_weights(session, pairs)
        curves[1].append(their_step(trainer, theirs, make(pairs)))
        optimizer.step()
        optimizer.zero_grad()
    worst = max(abs(a - b) for a, b in zip(*curves, strict=True)) / curves[1][0]
    print(f"{method}: {curves[0][0]:.4f} → {curves[0][-1]:.4f}, at most {worst:.1e} of the first loss apart")
    assert curves[0][-1] < 0.8 * curves[0][0]
    assert worst < 1e-3
