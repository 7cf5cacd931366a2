"""Lines as examples: what is scored, what is dropped, and what each loader makes of a preference."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.engine.planted import LABEL_POLICY, SPLIT, planted_snapshot, preference
from tests.engine.tiny import TEMPLATE, tiny_model
from training.engine.errors import ModelError, SnapshotError
from training.engine.examples import (
    load_chosen,
    load_conditioned,
    load_demonstrations,
    load_prompts,
    load_rankings,
    load_ratings,
    with_control,
)
from training.engine.pairs import half_of, load_part, verify_kind
from training.engine.records import write_snapshot
from training.engine.sections import DataConfig, DemonstrationsConfig, Half, Labels, PromptsConfig, Target
from training.engine.text import Text, load_text

USER = {"role": "user", "content": "What is the name?"}
DIALOGUE = [USER, {"role": "assistant", "content": "good dog"}, {"role": "user", "content": "is it red?"}]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    return load_text(tiny_model(tmp_path_factory.mktemp("text") / "m"))


def write(directory: Path, kind: str, *records: dict[str, Any]) -> str:
    base = [{"id": f"e{n}", "group": f"g{n}", "prompt": [USER], **record} for n, record in enumerate(records)]
    write_snapshot(directory, kind=kind, label_policy=LABEL_POLICY, split=SPLIT, lines={"train": base})
    return str(directory)


def test_every_assistant_turn_and_its_end_token_is_scored_and_nothing_else(tmp_path: Path, text: Text) -> None:
    snapshot = write(tmp_path / "s", "demonstrations", {"prompt": DIALOGUE, "completion": "yes it is"})
    (found,) = load_demonstrations("train", data=DemonstrationsConfig(snapshot=snapshot), text=text).examples
    sharing = found.sharing
    assert list(sharing.prompt) == text.prompt_ids([USER])
    assert sharing.scored is not None
    (ids,), (flags,) = sharing.completions, sharing.scored
    scored = [token for token, flag in zip(ids, flags, strict=True) if flag]
    assert text.tokenizer.decode(scored) == "good dog<|end|>yes it is<|end|>"
    whole = text.render([*DIALOGUE, {"role": "assistant", "content": "yes it is"}], generation_prompt=False)
    assert text.tokenizer.decode([*sharing.prompt, *ids]) + "\n" == whole


def test_one_turn_is_prompt_and_completion_as_everywhere(tmp_path: Path, text: Text) -> None:
    snapshot = write(tmp_path / "s", "demonstrations", {"completion": "yes", "finish": "length", "weight": 2.0})
    (found,) = load_demonstrations("train", data=DemonstrationsConfig(snapshot=snapshot), text=text).examples
    assert found.sharing.scored is None
    assert list(found.sharing.completions[0]) == text.completion_ids("yes", finished=False)
    assert (found.weight, found.finish, found.text) == (2.0, "length", "yes")


def test_an_opening_assistant_turn_answers_nothing_and_is_not_scored(tmp_path: Path, text: Text) -> None:
    prompt = [{"role": "assistant", "content": "good"}, USER]
    snapshot = write(tmp_path / "s", "demonstrations", {"prompt": prompt, "completion": "yes"})
    (found,) = load_demonstrations("train", data=DemonstrationsConfig(snapshot=snapshot), text=text).examples
    assert list(found.sharing.prompt) == text.prompt_ids(prompt)
    assert found.sharing.scored is None


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path) -> None:
    forgetful = (
        "{% for message in messages %}{% if loop.index0 != 1 or messages | length < 3 %}"
        "{{ '<|start|>' + message['role'] + '\\n' + message['content'] + '<|end|>' + '\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
    )
    text = load_text(tiny_model(tmp_path / "m", template=forgetful))
    with pytest.raises(ModelError, match="changes earlier turns"):
        text.conversation_ids(DIALOGUE, "yes", finished=True)


def test_a_template_that_trims_scores_what_it_writes(tmp_path: Path) -> None:
    text = load_text(
        tiny_model(tmp_path / "m", template=TEMPLATE.replace("message['content']", "message['content'].strip()"))
    )
    runs = text.conversation_ids([USER, {"role": "assistant", "content": " good "}, USER], "yes", finished=True)
    assert text.tokenizer.decode([i for ids, scored in runs if scored for i in ids]) == "good<|end|>yes<|end|>"


def test_a_template_that_refuses_roles_is_a_refused_model(tmp_path: Path) -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    text = load_text(tiny_model(tmp_path / "m", template=strict))
    with pytest.raises(ModelError, match="refuses turns of system, user: no system"):
        text.prompt_ids(with_control([USER], "good"))


def test_a_prompt_that_the_template_leaves_nothing_of_is_refused_by_its_id(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m['content'].strip() %}{{ m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    )
    text = load_text(tiny_model(tmp_path / "m", template=template))
    blank = {"prompt": [{"role": "user", "content": " "}]}
    pairs = write(tmp_path / "pairs", "preferences", preference(0), preference(1, **blank))
    with pytest.raises(SnapshotError, match="nothing of the prompt of p001"):
        load_part("train", data=DataConfig(snapshot=pairs), labels=Labels.SOFT, text=text)
    with pytest.raises(SnapshotError, match="nothing of the prompt of p001"):
        load_prompts("train", data=PromptsConfig(snapshot=pairs), text=text)
    imitated = write(tmp_path / "demonstrations", "demonstrations", {**blank, "completion": "yes"})
    with pytest.raises(SnapshotError, match="nothing of the prompt of e0"):
        load_demonstrations("train", data=DemonstrationsConfig(snapshot=imitated), text=text)


def test_feedme_takes_the_better_side_and_drops_ties(tmp_path: Path, text: Text) -> None:
    lines = [
        preference(0, chosen="good", rejected="bad"),
        preference(1, prob_chosen=0.5),
        # The posterior prefers the chosen one, but most votes went the other way: the target decides.
        preference(2, chosen="good", rejected="bad", prob_chosen=0.6, prob_share=0.4, rejected_finish="length"),
    ]
    snapshot = write(tmp_path / "s", "preferences", *lines)
    by_share = load_chosen("train", data=DataConfig(snapshot=snapshot), text=text)
    assert [(e.id, e.text, e.finish) for e in by_share.examples] == [("p000", "good", "end"), ("p002", "bad", "length")]
    assert (by_share.ties, by_share.dropped) == (1, 0)
    by_posterior = load_chosen("train", data=DataConfig(snapshot=snapshot, target=Target.POSTERIOR), text=text)
    assert [e.text for e in by_posterior.examples] == ["good", "good"]


def test_conditioning_puts_each_side_under_its_control(tmp_path: Path, text: Text) -> None:
    snapshot = write(tmp_path / "s", "preferences", preference(0), preference(1, prob_chosen=0.5))
    found = load_conditioned("train", data=DataConfig(snapshot=snapshot), good="yes", bad="no", text=text)
    assert [(e.id, e.prompt[0]) for e in found.examples] == [
        ("p000:chosen", {"role": "system", "content": "yes"}),
        ("p000:rejected", {"role": "system", "content": "no"}),
    ]
    for example in found.examples:
        assert list(example.sharing.prompt) == text.prompt_ids(example.prompt)
    assert found.ties == 1


def test_a_control_is_merged_with_a_system_turn() -> None:
    assert with_control([{"role": "system", "content": "Be brief."}, USER], "good") == [
        {"role": "system", "content": "good\n\nBe brief."},
        USER,
    ]


def test_rankings_keep_their_completions_in_order(tmp_path: Path, text: Text) -> None:
    record = {"completions": ["bad", "good", "no"], "ranking": [[1], [0, 2]], "finishes": ["end", "length", "end"]}
    snapshot = write(tmp_path / "s", "rankings", record)
    (found,) = load_rankings("train", data=DataConfig(snapshot=snapshot), text=text).examples
    assert [text.decode(ids) for ids in found.sharing.completions] == ["bad", "good", "no"]
    assert found.sharing.completions[1][-1] != text.end_id
    assert found.ranking == [[1], [0, 2]]
    assert found.lengths == tuple(map(len, found.sharing.completions))


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        ([[0], [0, 1]], "at most once"),
        ([[0], [2]], "at most once"),
        ([[0], []], "no place empty"),
        ([], "no place empty"),
    ],
)
def test_a_ranking_that_cannot_be_is_refused(tmp_path: Path, ranking: list[list[int]], message: str) -> None:
    with pytest.raises(SnapshotError, match=rf"train.jsonl, line 1: .*{message}"):
        write(tmp_path / "s", "rankings", {"completions": ["good", "bad"], "ranking": ranking})


def test_a_preference_gives_one_desirable_and_one_undesirable_example(tmp_path: Path, text: Text) -> None:
    snapshot = write(tmp_path / "s", "preferences", preference(0), preference(1, prob_chosen=0.5))
    found = load_ratings("train", data=DataConfig(snapshot=snapshot), text=text)
    assert [(e.id, e.desirable) for e in found.examples] == [("p000:chosen", True), ("p000:rejected", False)]
    assert found.ties == 1


def test_ratings_are_read_as_they_are(tmp_path: Path, text: Text) -> None:
    snapshot = write(tmp_path / "s", "ratings", {"completion": "bad", "desirable": False, "finish": "length"})
    (found,) = load_ratings("train", data=DataConfig(snapshot=snapshot), text=text).examples
    assert (found.desirable, found.finish, found.text) == (False, "length", "bad")


def test_a_prompt_of_several_lines_counts_once(tmp_path: Path, text: Text) -> None:
    first = [{"role": "user", "content": "good?"}]
    snapshot = write(tmp_path / "s", "preferences", *(preference(n, prompt=first) for n in range(3)), preference(3))
    found = load_prompts("train", data=PromptsConfig(snapshot=snapshot), text=text)
    assert [(item.id, item.ids) for item in found.examples] == [
        ("p000", tuple(text.prompt_ids(first))),
        ("p003", tuple(text.prompt_ids(preference(3)["prompt"]))),
    ]


def test_a_prompt_that_is_too_long_is_refused_or_dropped(tmp_path: Path, text: Text) -> None:
    snapshot = write(tmp_path / "s", "prompts", {}, {"prompt": [{"role": "user", "content": "dog " * 50}]})
    with pytest.raises(SnapshotError, match=r"1 of 2 examples are longer than data.max_prompt_tokens = 40"):
        load_prompts("train", data=PromptsConfig(snapshot=snapshot, max_prompt_tokens=40), text=text)
    data = PromptsConfig(snapshot=snapshot, max_prompt_tokens=40, allow_drop=True)
    found = load_prompts("train", data=data, text=text)
    assert ([item.id for item in found.examples], found.dropped) == (["e0"], 1)


def test_the_halves_of_the_train_part_share_no_group_and_leave_none_out(tmp_path: Path, text: Text) -> None:
    planted_snapshot(tmp_path / "s", train=24, test=4)

    def groups(part: str, half: Half) -> set[str]:
        data = DataConfig(snapshot=str(tmp_path / "s"), half=half)
        return {pair.group for pair in load_part(part, data=data, labels=Labels.SOFT, text=text).pairs}

    first, second = groups("train", Half.FIRST), groups("train", Half.SECOND)
    assert first and second and not first & second
    assert first | second == groups("train", Half.ALL)
    assert groups("test", Half.FIRST) == groups("test", Half.ALL)
    assert half_of("g001") is (Half.FIRST if hashlib.sha256(b"g001").hexdigest() < "8" else Half.SECOND)


def test_a_pair_has_the_margin_of_its_line(tmp_path: Path, text: Text) -> None:
    # What another program calls votes is no count of ours.
    lines = [preference(0, margin=0.5, meta={"votes": 3}), preference(1)]
    snapshot = write(tmp_path / "s", "preferences", *lines)
    pairs = load_part("train", data=DataConfig(snapshot=snapshot), labels=Labels.SOFT, text=text).pairs
    assert [pair.margin for pair in pairs] == [0.5, None]
    assert [pair.votes for pair in pairs] == [(0, 0), (0, 0)]


def test_a_snapshot_of_another_kind_is_refused(tmp_path: Path) -> None:
    snapshot = write(tmp_path / "s", "prompts", {})
    with pytest.raises(SnapshotError, match="holds prompts, not preferences or ratings"):
        verify_kind(snapshot, "preferences", "ratings")
