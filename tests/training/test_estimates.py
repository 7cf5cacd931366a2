"""What a job would take, held against the engine's own tokens and weights; steps are in `test_inputs`."""

from __future__ import annotations

import json
import shutil
from uuid import uuid4

import pytest
from torch import nn

from tests.engine.tiny import tiny_model
from tests.training.small import directories, small
from tests.world import client
from training import estimates, lengths
from training.engine.models import load_policy
from training.engine.text import load_text
from training.estimates import estimate
from training.launching import prepare
from training.lengths import Example, measure, measured
from training.models import Job, Run, RunMetric, Worker

__all__ = ["directories", "small"]  # fixtures

pytestmark = pytest.mark.django_db
ESTIMATE = "/api/v1/projects/helpful/jobs/estimate"
LIMIT = 25  # tokens: some of the planted pairs are longer
TALKS = [
    [{"role": "user", "content": "What is the name of the good dog?"}],
    [{"role": "system", "content": "Be <|end|> kind."}, {"role": "user", "content": "Ünïcode ☃ and\n\nlines "}],
    [
        {"role": "user", "content": "Hm?"},
        {"role": "assistant", "content": "It is red."},
        {"role": "user", "content": "<|start|>assistant"},
    ],
]


def taken(small, method="reward", overrides=None, **fields):
    return estimate(prepare(small.project, small.wish(method, overrides, **fields)))


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_as_the_engine_counts_them(directories):
    text, counted = load_text(directories / "policy"), measure(directories / "policy")
    assert counted.is_exact
    for talk in TALKS:
        assert counted.prompt(talk) == len(text.prompt_ids(talk))
        for turn in talk:  # special tokens that are spelled out are plain text in a completion
            assert counted.completion(turn["content"]) == len(text.completion_ids(turn["content"], finished=False))


def test_without_a_template_or_a_tokenizer_the_count_is_a_guess_and_says_so(directories, tmp_path):
    bare = tiny_model(tmp_path / "bare", template=None)
    guessed = measure(bare)
    assert not guessed.is_exact and "without its chat template" in guessed.basis
    assert guessed.completion("good") == len(load_text(bare).completion_ids("good", finished=False))
    shutil.copytree(directories / "policy", tmp_path / "broken")
    (tmp_path / "broken" / "tokenizer.json").write_text("{}")
    for directory in (tmp_path / "broken", tmp_path / "nowhere"):
        by_letters = measure(directory)
        assert not by_letters.is_exact and by_letters.basis.startswith("characters")
        assert by_letters.completion("x" * 400) == 100


def test_a_template_that_fails_or_would_run_code_leaves_a_guess(directories, tmp_path):
    for number, template in enumerate(
        ("{{ raise_exception('no') }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}")
    ):
        directory = tmp_path / str(number)
        shutil.copytree(directories / "policy", directory)
        (directory / "chat_template.jinja").write_text(template)
        assert not measure(directory).is_exact


def test_a_long_part_is_measured_on_some_of_it(directories, monkeypatch):
    config = {"data": {"max_tokens": 512}}
    counted = measure(directories / "policy")

    def found():
        return measured(directories / "preferences", parts=["train"], config=config, method="dpo", measure=counted)

    whole = found()
    assert whole.is_exact and (len(whole.examples), whole.weight) == (24, 1)
    monkeypatch.setattr(lengths, "MOST_LINES", 10)
    some = found()
    assert not some.is_exact and (len(some.examples), some.weight) == (8, 3)
    assert "on 8 of 24 examples" in some.basis
    assert Example(prompt=3, completions=(1, 4)).tokens == 11 and Example(prompt=3, completions=()).tokens == 3


def test_half_of_the_prompts_is_the_half_that_the_engine_takes(small):
    from training.engine.pairs import half_of
    from training.engine.records import iter_lines
    from training.snapshots import snapshot_path

    lines = list(iter_lines(snapshot_path(small.snapshots["preferences"]), "train"))
    first = sum(half_of(line["group"]) == "first" for line in lines)
    assert taken(small, overrides={"data": {"half": "first"}}).examples == first
    assert taken(small, overrides={"data": {"half": "second"}}).examples == len(lines) - first


def test_what_is_too_long_is_said_before_and_that_the_run_would_be_refused(small):
    found = taken(small, overrides={"data": {"max_tokens": LIMIT}})
    assert 2 < found.dropped < 22 and found.examples + found.dropped == 24
    assert "the run will be refused: raise data.max_tokens, or set data.allow_drop" in found.notes
    allowed = taken(small, overrides={"data": {"max_tokens": LIMIT, "allow_drop": True}, "batch": {"pairs": 1}})
    assert (allowed.steps, len(allowed.notes)) == (found.examples, 1)
    nothing = taken(small, overrides={"data": {"max_tokens": 2, "allow_drop": True}})
    assert (nothing.steps, nothing.tokens) == (0, 0) and "nothing would be left to train on" in nothing.notes


# --- memory -----------------------------------------------------------------------------------------------------------


def test_an_adapter_has_as_many_parameters_as_the_layers_it_stands_beside_say(small, directories):
    model = load_policy(directories / "policy")
    layers = [layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and "lm_head" not in name]
    wanted = sum(5 * (layer.in_features + layer.out_features) for layer in layers)
    assert estimates._adapter_parameters(estimates._shape(small.policy), rank=5) == wanted


def test_memory_grows_with_what_is_held(small):
    adapter = taken(small, "dpo", {})
    whole = taken(small, "dpo", {"adapter": None})
    without_reference = taken(small, "dpo", {"adapter": None, "dpo": {"logit": "orpo"}})
    parameters = small.policy.parameters
    assert whole.memory_bytes - without_reference.memory_bytes == 4 * parameters
    larger = taken(small, "dpo", {"memory": {"micro_tokens": 2048}})
    recomputed = taken(small, "dpo", {"memory": {"micro_tokens": 2048, "recompute": "on"}})
    assert adapter.memory_bytes < recomputed.memory_bytes < larger.memory_bytes
    one = {"inputs": {"rewards": [{"model": str(small.reward.public_id)}]}}
    two = {"inputs": {"rewards": [{"model": str(model.public_id)} for model in (small.reward, small.other)]}}
    added = taken(small, "rloo", {}, **two).memory_bytes - taken(small, "rloo", {}, **one).memory_bytes
    assert added == 4 * small.other.parameters
    assert (
        taken(small, "ppo", {}, **one).memory_bytes
        > taken(small, "ppo", {"ppo": {"critic": "shared"}}, **one).memory_bytes
    )


# --- time -------------------------------------------------------------------------------------------------------------


def a_run(small, *, seconds, tokens, method="reward", project=None):
    job = Job.objects.create(
        project=project or small.project,
        number=Job.objects.count() + 1,
        method=method,
        config={},
        model=small.policy,
        status="succeeded",
    )
    run = Run.objects.create(job=job, attempt=1, owner=uuid4(), config_hash="", host="h", last_step=2)
    for seq in (1, 2, 3):
        share = (seq - 1) / 2
        RunMetric.objects.create(
            run=run,
            seq=seq,
            step=seq - 1,
            time=1000 + seconds * share,
            values={"train/loss": 0.5} | ({"train/tokens": tokens * share} if seq > 1 else {"train/tokens": 0.0}),
            offset=seq,
        )


def test_time_is_that_of_past_runs_of_the_method_on_the_model(small):
    before = taken(small)
    assert "no run of reward on policy yet" in before.basis["seconds"] and "on a CPU" in before.basis["seconds"]
    for seconds in (10, 20, 40):
        a_run(small, seconds=seconds, tokens=1000)
    a_run(small, seconds=1, tokens=1_000_000, method="dpo")  # another method says nothing
    found = taken(small)
    assert found.seconds == pytest.approx(found.tokens / 50)  # the median of 100, 50 and 25 tokens a second
    assert found.basis["seconds"].startswith("the last 3 runs of reward on policy, evaluations and all: 50 tokens")


def test_without_past_runs_the_rate_is_that_of_the_machine_that_is_there(small):
    slow = taken(small)
    Worker.objects.create(host="h", pid=1, queue="gpu", devices=[{"name": "H100"}], heartbeat_at="2026-11-20T12:00Z")
    fast = taken(small)
    assert slow.seconds / fast.seconds == pytest.approx(estimates.RATES["GPU"] / estimates.RATES["CPU"])
    assert "on a GPU" in fast.basis["seconds"]


def test_sampling_is_reckoned_at_its_limit(small):
    quick = {"batch": {"iterations": 3, "completions": 8, "minibatch": 2, "inner_epochs": 2}}
    short = taken(small, "ppo", {**quick, "sampling": {"max_new_tokens": 10}})
    long = taken(small, "ppo", {**quick, "sampling": {"max_new_tokens": 110}})
    assert (short.iterations, short.steps) == (3, 3 * 2 * 4)
    assert long.tokens - short.tokens == pytest.approx(100 * 3 * 2 * 8)
    assert long.basis["tokens"].startswith("at most, every completion at its limit")
    cut = taken(small, "ppo", {**quick, "stop": {"max_steps": 9}})
    assert (cut.iterations, cut.steps) == (2, 9)


# --- HTTP -------------------------------------------------------------------------------------------------------------


def test_the_dry_run_queues_nothing_and_refuses_as_submitting_does(small, django_assert_max_num_queries):
    olga = client(small.project.created_by)
    snapshot = small.snapshots["preferences"]
    body = {"method": "dpo", "snapshot": str(snapshot.public_id), "model": str(small.policy.public_id)}
    body["config"] = {"batch": {"pairs": 7, "epochs": 3}}
    with django_assert_max_num_queries(20):
        answer = olga.post(ESTIMATE, body, format="json")
    assert answer.status_code == 200, answer.content
    found = answer.json()
    assert (found["steps"], found["examples"], found["iterations"]) == (12, 24, None)
    assert found["seconds_basis"] == found["basis"]["seconds"]
    assert found["tokens"] > 0 and found["memory_bytes"] > 4 * small.policy.parameters
    assert Job.objects.count() == 0
    bad = olga.post(ESTIMATE, body | {"config": {"batch": {"pairs": 0}}}, format="json")
    assert (bad.status_code, list(bad.json()["details"])) == (400, ["batch.pairs"])
    missing = olga.post(ESTIMATE, body | {"method": "ppo"}, format="json")
    assert (missing.status_code, list(missing.json()["details"])) == (400, ["inputs.rewards"])
    evaluated = olga.post(ESTIMATE, body | {"method": "evaluate", "config": {}}, format="json").json()
    assert (evaluated["steps"], evaluated["examples"]) == (None, 8)
    json.dumps(evaluated)
    serving = {"method": "serve", "model": str(small.policy.public_id)}
    assert olga.post(ESTIMATE, serving, format="json").json()["steps"] is None


def test_a_snapshot_whose_files_are_elsewhere_leaves_a_note(small, settings, tmp_path):
    settings.SNAPSHOTS_DIR = tmp_path / "elsewhere"
    found = taken(small)
    assert (found.steps, found.tokens, found.seconds) == (None, None, None)
    assert "cannot be read on this server" in found.notes[0] and found.memory_bytes > 0
