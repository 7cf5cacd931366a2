"""ENGINE §6.2, second part: the losses of sampled completions beside TRL 1.16, and differences that are meant.

One fixed rollout on both sides; PPO left TRL before 1.16, so its loss is written out here after the formulas of 1.12.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tests.engine.tabular import Bench
from tests.engine.test_trl_parity import (
    CPU,
    END,
    PAD,
    bench,
    both,
    cache_of,
    check_equal,
    distance,
    labelled_batch,
    moved,
    our_dpo,
    padded,
    pairs,
    peer,
    preference_batch,
    rows_batch,
    their_step,
)
from tests.engine.tiny import tiny_tokenizer
from training.engine import ppo, rloo
from training.engine.advantages import group_normalised
from training.engine.critics import VALUE_HEAD
from training.engine.experience import Experience, Iteration
from training.engine.logprobs import token_logprobs
from training.engine.packing import build_pack
from training.engine.pairs import Pair
from training.engine.rollouts import make_group
from training.engine.sampling import Completion

torch.set_num_threads(1)
__all__ = ["bench", "pairs"]  # fixtures


# --- sampled completions ----------------------------------------------------------------------------------------------


def rollout(pairs: Sequence[Pair], ours: Any) -> list[Experience]:
    """Each preference as a group of two short completions, with log π_ref and log π_old of others, and scores."""
    generator = torch.Generator().manual_seed(4)
    reference, old = moved(ours), moved(moved(ours))
    found = []
    for number, pair in enumerate(pairs):
        ids = tuple((*y[: 4 + number], END) for y in pair.sharing.completions)
        written = [
            Completion(
                prompt_id=pair.id,
                index=index,
                text="?",
                token_ids=y,
                token_logprobs=(0.0,) * len(y),
                logprob=0.0,
                sampler_logprob=0.0,
                finish="end",
            )
            for index, y in enumerate(ids)
        ]
        group = make_group(pair, written)
        pack = build_pack([group.sharing], device=CPU)
        with torch.no_grad():
            found.append(
                Experience(
                    group=group,
                    scores=torch.randn(2, generator=generator, dtype=torch.float64),
                    reference=token_logprobs(reference, pack),
                    old=token_logprobs(old, pack),
                )
            )
    return found


def per_row(items: Sequence[Experience], read: Callable[[Experience], Tensor]) -> Tensor:
    """Numbers of every token as TRL has them: a row a completion, padded on the right with 0."""
    rows = [part for item in items for part in torch.split(read(item), item.lengths.tolist())]
    return pad_sequence(rows, batch_first=True)


def rollout_batch(items: Sequence[Experience], advantages: Tensor) -> dict[str, Tensor]:
    """TRL's generation batch: prompts padded on the left, completions on the right."""
    prompts = [item.sharing.prompt for item in items for _ in item.sharing.completions]
    completions = [y for item in items for y in item.sharing.completions]
    return {
        "prompt_ids": padded(prompts, PAD, left=True),
        "prompt_mask": padded([[1] * len(x) for x in prompts], 0, left=True),
        "completion_ids": padded(completions, PAD),
        "completion_mask": padded([[1] * len(y) for y in completions], 0),
        "advantages": advantages.float(),
        "num_items_in_batch": torch.tensor(sum(map(len, completions))),
    }


def sampling_peer(name: str, model: Any, tmp_path: Path, **options: Any) -> Any:
    """A trainer of TRL with a reference, which it loads from where its policy came from."""
    model.save_pretrained(tmp_path / "peer")
    model.config._name_or_path = str(tmp_path / "peer")
    rows = [{"prompt": "good"}] * 16
    scorer = [lambda completions, **_: [0.0 for _ in completions]]
    trainer = peer(name, model, tmp_path, rows=rows, reward_funcs=scorer, batch=16, num_generations=2, **options)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def test_the_rloo_loss_equals_on_one_rollout(bench: Bench, pairs: list[Pair], tmp_path: Path) -> None:
    """In fp64 but for norms: TRL adds log-probabilities in the model's type, and the rounding of their sum is ρ's."""
    ours, theirs = (model.double() for model in both())
    beta = 0.05
    session = bench.session(
        "rloo", ours, pairs, size=8, kl={"beta": beta}, batch={"completions": 16, "per_prompt": 2, "iterations": 1}
    )
    session.state["beta"] = beta
    items = rollout(pairs, ours)
    batch = rloo._rloo_pass(session, session.config, Iteration(items=items, kl=0.0), items, divisor=16.0)
    old, reference = (per_row(items, read) for read in (lambda i: i.old, lambda i: i.reference))
    returns = torch.cat([item.scores for item in items]) - beta * (old - reference).double().sum(1)
    advantages = (returns.view(-1, 2) - returns.view(-1, 2).flip(1)).flatten()  # less the other one of the two
    trainer = sampling_peer("RLOO", theirs, tmp_path)
    their_batch = {**rollout_batch(items, advantages), "advantages": advantages, "old_logps": old.sum(1)}
    losses = (float(batch.losses.sum()) / 16, their_step(trainer, theirs, their_batch))
    check_equal("rloo", ours, theirs, losses, size=float(advantages.abs().mean()))


def our_grpo(bench: Bench, ours: Any, pairs: Sequence[Pair], **options: Any) -> tuple[list[Experience], float]:
    session = bench.session(
        "grpo",
        ours,
        pairs,
        size=8,
        kl={"beta": 0.04},
        grpo=options,
        batch={"completions": 16, "per_prompt": 2, "iterations": 1},
        sampling={"max_new_tokens": 64},
    )
    session.state["beta"] = 0.04
    items = rollout(pairs, ours)
    divisor = rloo._grpo_divisor(session.config, items)
    batch = rloo._grpo_pass(session, session.config, items, divisor=divisor)
    return items, float(batch.losses.sum()) / divisor


def their_grpo(theirs: Any, items: Sequence[Experience], tmp_path: Path, **options: Any) -> float:
    scores = torch.cat([item.scores for item in items])
    advantages, _ = group_normalised(scores, torch.arange(8).repeat_interleave(2), scale=True)
    trainer = sampling_peer(
        "GRPO", theirs, tmp_path, beta=0.04, epsilon=0.2, epsilon_high=0.28, max_completion_length=64, **options
    )
    batch = {
        **rollout_batch(items, advantages),
        "old_per_token_logps": per_row(items, lambda item: item.old),
        "ref_per_token_logps": per_row(items, lambda item: item.reference),
    }
    return their_step(trainer, theirs, batch)


@pytest.mark.parametrize(
    ("average", "loss_type"), [("token", "dapo"), ("token", "bnpo"), ("sequence", "grpo"), ("constant", "dr_grpo")]
)
def test_the_grpo_loss_equals_on_one_rollout(
    bench: Bench, pairs: list[Pair], tmp_path: Path, average: str, loss_type: str
) -> None:
    ours, theirs = both()
    items, loss = our_grpo(bench, ours, pairs, average=average)
    their_loss = their_grpo(theirs, items, tmp_path, loss_type=loss_type, use_bias_correction_kl=True)
    check_equal(f"grpo {loss_type}", ours, theirs, (loss, their_loss))


def test_the_ppo_loss_is_that_of_trl_1_12(bench: Bench, pairs: list[Pair]) -> None:
    """Its trainer wants models, data and a loop of its own, so its lines stand here: masked means over a padded batch.

    pg = masked_mean(max(−A ρ, −A clip(ρ, 1−ε, 1+ε))),  vf = ½ masked_mean(max((V−R)², (clip V − R)²)),  pg + c vf
    """
    ours, theirs = both()
    generator = torch.Generator().manual_seed(7)
    head = torch.randn(64, generator=generator) / 8
    own, other = nn.Parameter(head.clone()), nn.Parameter(head.clone())
    session = bench.session(
        "ppo",
        ours,
        pairs,
        size=8,
        extra={VALUE_HEAD: own},
        batch={"completions": 16, "per_prompt": 2, "iterations": 1, "minibatch": None},
        ppo={"critic": "shared", "value_weight": 0.1, "clip": 0.2, "value_clip": 0.2},
    )
    session.state["beta"] = 0.05
    items = []
    for item in rollout(pairs, ours):
        advantages, returns, values = torch.randn(3, int(item.lengths.sum()), generator=generator)
        items.append(
            Experience(
                group=item.group,
                scores=item.scores,
                reference=item.reference,
                old=item.old,
                advantages=advantages,
                returns=returns,
                values=values,
            )
        )
    tokens = sum(int(item.lengths.sum()) for item in items)
    batch = ppo._policy_pass(session, session.config, items, divisor=float(tokens))

    rows = [(item.sharing.prompt, y) for item in items for y in item.sharing.completions]
    made = rows_batch(rows)
    output = theirs.model(input_ids=made["input_ids"], attention_mask=made["attention_mask"]).last_hidden_state[:, :-1]
    mask = made["completion_mask"][:, 1:].bool()
    logp = theirs.lm_head(output).log_softmax(-1).gather(-1, made["input_ids"][:, 1:, None])[..., 0][mask]
    value = (output @ other)[mask]

    def column(name: str) -> Tensor:
        return torch.cat([getattr(item, name) for item in items])

    ratio = (logp - column("old")).exp()
    policy = torch.max(-column("advantages") * ratio, -column("advantages") * ratio.clamp(0.8, 1.2)).mean()
    near = torch.clamp(value, column("values") - 0.2, column("values") + 0.2)
    squares = torch.max((value - column("returns")) ** 2, (near - column("returns")) ** 2)
    loss = policy + 0.1 * 0.5 * squares.mean()
    loss.backward()
    assert float((own.grad - other.grad).abs().max() / other.grad.abs().max()) < 1e-5
    check_equal("ppo", ours, theirs, (float(batch.losses.sum()) / tokens, float(loss)))


# --- differences by design --------------------------------------------------------------------------------------------


def test_trl_ignores_label_smoothing_of_the_sigmoid_loss_and_ours_does_not(
    bench: Bench, pairs: list[Pair], tmp_path: Path
) -> None:
    ours, theirs = both()
    found = []
    for epsilon in (0.0, 0.2):
        trainer = peer("DPO", theirs, tmp_path, ref_model=moved(theirs), label_smoothing=epsilon)
        found.append(their_step(trainer, theirs, preference_batch(pairs)))
    cache = cache_of(moved(ours))
    smoothed = our_dpo(bench, ours, pairs, cache=cache, link="smoothed", epsilon=0.2)
    assert found[0] == found[1]
    assert abs(smoothed / found[0] - 1) > 1e-3


def test_ipo_of_trl_averages_over_tokens_and_the_one_of_the_paper_sums(
    bench: Bench, pairs: list[Pair], tmp_path: Path
) -> None:
    ours, theirs = both()
    trainer = peer("DPO", theirs, tmp_path, ref_model=moved(theirs), loss_type="ipo", beta=0.1)
    averaged = their_step(trainer, theirs, preference_batch(pairs))
    summed = our_dpo(bench, ours, pairs, cache=cache_of(moved(ours)), link="ipo", tau=0.1)
    assert abs(summed / averaged - 1) > 1e-3


def test_simpo_of_trl_adds_an_nll_unless_told_not_to(bench: Bench, pairs: list[Pair], tmp_path: Path) -> None:
    ours, theirs = both()
    loss = our_dpo(bench, ours, pairs, logit="simpo", link="margin", beta=2.0, gamma=1.0)
    trainer = peer("CPO", theirs, tmp_path, loss_type="simpo", beta=2.0, simpo_gamma=1.0)
    assert their_step(trainer, theirs, labelled_batch(pairs)) > loss + 1  # the nll of a random model is log 512 a token


def test_without_the_ratio_the_kl_of_grpo_is_another_one(bench: Bench, pairs: list[Pair], tmp_path: Path) -> None:
    """TRL's `use_bias_correction_kl` off: the gradient of its term is that of KL(π_ref‖π)."""
    ours, theirs = both()
    items, _ = our_grpo(bench, ours, pairs)
    their_grpo(theirs, items, tmp_path, loss_type="dapo", use_bias_correction_kl=False)
    assert distance(ours, theirs) > 1e-4


def test_pads_are_in_the_mean_logits_of_trl_and_in_no_figure_of_ours(pairs: list[Pair], tmp_path: Path) -> None:
    """ORPO's `logits/chosen` is a mean over all columns of the batch, so a wider batch has another one."""
    _, theirs = both()
    trainer = peer("ORPO", theirs, tmp_path, beta=0.1)
    found = [trainer.get_batch_loss_metrics(theirs, labelled_batch(pairs, wider=wider)) for wider in (0, 40)]
    (narrow, first), (wide, second) = found
    assert float(narrow) == pytest.approx(float(wide), rel=1e-5)
    assert abs(second["logits/chosen"] - first["logits/chosen"]) > 1e-4


def test_trl_reads_the_score_of_a_chat_after_its_end_token(tmp_path: Path) -> None:
    """The template puts a "\\n" behind the end token: TRL's reward is read there, ours at the end token (R4)."""
    _, theirs = both(scores=True)
    question, answers = {"role": "user", "content": "good?"}, ("good dog", "bad")
    row = {
        "chosen": [question, {"role": "assistant", "content": answers[0]}],
        "rejected": [question, {"role": "assistant", "content": answers[1]}],
    }
    trainer = peer("Reward", theirs, tmp_path, rows=[row] * 8)
    ids = trainer.train_dataset[0]["chosen_ids"]
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(ids[-1:]) == "\n"
    assert ids[-2] == END
    assert tokenizer.apply_chat_template(row["chosen"], tokenize=False).endswith("<|end|>\n")
