"""Inputs by role, promised or there; and the real engine on what every method's job hands it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from annotation.errors import DomainError
from tests.builders import NOW, completion, prompt
from tests.engine.engine_runs import own_signals
from tests.training.rows import claim
from tests.training.small import directories, small
from training import inputs, jobs, runner
from training.engine.__main__ import MODULES, main
from training.engine.config import parse_config
from training.engine.errors import ConfigError
from training.estimates import estimate
from training.forms import METHODS
from training.jobs import Outcome
from training.launching import Wish, launch, prepare, queue
from training.models import Job, JobStatus, ModelKind, ModelSource, ModelVersion, Round

__all__ = ["directories", "small"]  # fixtures

pytestmark = pytest.mark.django_db


def queued(small, method, overrides=None, **fields):
    return queue(prepare(small.project, small.wish(method, overrides, **fields)), by=None, now=NOW)


def ref(model):
    return {"model": str(model.public_id)}


def test_every_method_of_the_engine_can_be_launched_but_those_that_have_requests_of_their_own():
    of_rounds_promotions_and_verdicts = {"sample", "convert", "judge"}
    assert set(METHODS) == set(MODULES) - of_rounds_promotions_and_verdicts


@pytest.mark.parametrize("method", METHODS)
def test_the_engine_runs_what_the_request_of_every_method_says_and_takes_the_estimated_steps(small, tmp_path, method):
    expected = estimate(prepare(small.project, small.wish(method)))
    job = queued(small, method)
    assert Job.objects.get().config == job.config
    request = runner.build_request(job, tmp_path)
    parse_config(json.loads(json.dumps(request)))
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = runner.engine_command(job, tmp_path, None, 15.0)
    verb = command[command.index("training.engine") + 1]
    with own_signals():
        code = main([verb, str(tmp_path / "request.json"), "--out", str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    assert (code, result["status"]) == (0, "done"), result
    if not METHODS[method].trains:
        assert expected.steps is None
        return
    assert expected.steps == result["step"]
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0].get("data/dropped_too_long", 0) == expected.dropped == (1 if method == "sft" else 0)
    seen = metrics[-1]["train/tokens"]
    if "sampling" in request:  # completions may end before the limit, and two that are the same make no pair
        assert seen <= expected.tokens
        assert seen > 0 or method == "online_dpo"
    elif "max_steps" in request["stop"] and request["stop"]["max_steps"]:
        assert seen == pytest.approx(expected.tokens, rel=0.1)  # which examples come first is drawn
    else:
        assert seen == expected.tokens
    assert expected.memory_bytes > 0 and expected.seconds > 0


def test_further_models_go_to_the_engine_by_role_and_are_noted_as_used(small, tmp_path, directories):
    roles = {"rewards": [ref(small.reward), ref(small.other)], "held_out": [ref(small.other)]}
    job = queued(small, "grpo", {"models": {"combine": "worst"}}, inputs=roles)
    models = runner.build_request(job, tmp_path)["models"]
    assert models == {
        "base": str(directories / "policy"),
        "rewards": [str(directories / "reward"), str(directories / "other")],
        "held_out": [str(directories / "other")],
        "combine": "worst",
    }
    assert set(job.uses.all()) == {small.reward, small.other}


def test_an_evaluation_takes_a_reference_and_expert_iteration_another_policy(small, tmp_path, directories):
    policy = ref(small.policy)
    evaluated = queued(small, "evaluate", inputs={"reference": policy, "rewards": ref(small.reward)})
    assert runner.build_request(evaluated, tmp_path)["models"] == {
        "policy": str(directories / "policy"),
        "reference": str(directories / "policy"),
        "rewards": [str(directories / "reward")],
        "combine": "mean",
    }
    iterated = queued(small, "expert_iteration", inputs={"policy": policy, "rewards": ref(small.reward)})
    assert runner.build_request(iterated, tmp_path)["models"]["policy"] == str(directories / "policy")


def test_a_score_job_reads_the_completions_of_a_round_with_who_wrote_them(small, tmp_path):
    asked = prompt(small.project)
    made = Round.objects.create(
        project=small.project, number=1, job=queued(small, "serve"), prompts=1, completions=2, sampling={}, overlap=1
    )
    rows = [completion(asked, f"It is {n}.", index=n, origin=made.public_id) for n in range(2)]
    completion(asked, "Of another round.")
    wish = Wish(
        method="score",
        overrides={"features": False},
        inputs={"rewards": [ref(small.reward)], "round": str(made.public_id)},
    )
    job = queue(prepare(small.project, wish), by=None, now=NOW)
    data = runner.build_request(job, tmp_path)["data"]
    lines = [json.loads(line) for line in Path(data["completions"]).read_text().splitlines()]
    source = str(rows[0].source.public_id)
    assert lines == [
        {"prompt_id": str(asked.public_id), "index": n, "policy": source, "text": f"It is {n}.", "finish": "end"}
        for n in range(2)
    ]
    (given,) = [json.loads(line) for line in Path(data["prompts"]).read_text().splitlines()]
    assert (given["id"], given["prompt"]) == (str(asked.public_id), asked.messages)


# --- promises ---------------------------------------------------------------------------------------------------------


def finish(job, *, steps=(), best=None):
    """Run a job to its end, leaving checkpoints of these steps."""
    claimed = claim(job_id=job.pk)
    for step in steps:
        path = f"{job.public_id}/1/checkpoints/step-{step}"
        jobs.record_checkpoint(claimed, run_id=claimed.run_id, step=step, path=path, sha256="0", size_bytes=1)
    best = None if best is None else f"{job.public_id}/1/checkpoints/step-{best}"
    assert jobs.finish(claimed, Outcome(reason="done"), best=best, now=NOW)


def registered(promotion, kind):
    """The model that the promotion would make."""
    promotion.refresh_from_db()
    return ModelVersion.objects.create(
        project=promotion.project,
        name=promotion.config["name"],
        kind=kind,
        source=ModelSource.JOB,
        path="made",
        sha256="7" * 64,
        checkpoint=promotion.checkpoint,
    )


def test_a_reward_model_and_the_ppo_that_needs_it_are_queued_at_one_time(small, tmp_path, settings):
    reward = queued(small, "reward", promote_as="judge of dogs")
    promotion = Job.objects.get(method="convert")
    ppo = queued(small, "ppo", inputs={"rewards": [{"name": "judge of dogs"}]})
    assert list(ppo.depends_on.all()) == [promotion] and list(promotion.depends_on.all()) == [reward]
    assert (ppo.inputs, promotion.checkpoint) == ({"rewards": [{"job": str(promotion.public_id)}]}, None)
    assert [claim(job_id=job.pk) for job in (promotion, ppo)] == [None, None]

    finish(reward, steps=(3, 6), best=3)
    request = runner.build_request(promotion, tmp_path)
    assert request["models"]["source"].endswith("checkpoints/step-3")  # the best one
    assert request["models"]["base"] == small.policy.path
    finish(promotion)
    made = registered(promotion, ModelKind.REWARD)
    assert claim(job_id=ppo.pk) is not None
    again = runner.build_request(Job.objects.get(pk=ppo.pk), tmp_path)
    assert again["models"]["rewards"] == [str(settings.MODELS_DIR / "made")]
    assert list(ppo.uses.all()) == [made]


def test_a_promoted_checkpoint_stays_the_same_though_a_better_one_comes(small, tmp_path):
    reward = queued(small, "reward", promote_as="one")
    finish(reward, steps=(3, 6))
    promotion = Job.objects.get(method="convert")
    first = runner.build_request(promotion, tmp_path)["models"]["source"]
    assert first.endswith("step-6")  # none is marked best: the last
    reward.runs.get().checkpoints.filter(step=3).update(is_best=True)
    assert runner.build_request(Job.objects.get(pk=promotion.pk), tmp_path)["models"]["source"] == first


def test_training_goes_on_from_a_policy_that_is_still_being_trained(small, tmp_path, settings):
    sft = queued(small, "sft", promote_as="writer", make_current=True)
    promotion = Job.objects.get(method="convert")
    assert promotion.inputs == {"current": True}
    dpo = queued(small, "dpo", model=None, inputs={"base": {"job": str(promotion.public_id)}})
    assert (dpo.model, list(dpo.depends_on.all())) == (None, [promotion])
    finish(sft, steps=(6,))
    runner.build_request(promotion, tmp_path)
    finish(promotion)
    made = registered(promotion, ModelKind.POLICY)
    runner.build_request(dpo, tmp_path)
    dpo.refresh_from_db()
    assert dpo.model == made
    ppo = queued(small, "rloo", model=None, inputs={"base": {"name": "writer"}, "rewards": [ref(small.reward)]})
    assert runner.build_request(ppo, tmp_path)["models"]["base"] == str(settings.MODELS_DIR / "made")


def test_what_waits_for_a_failed_job_fails_with_it_down_to_the_end(small):
    reward = queued(small, "reward", promote_as="never")
    queued(small, "ppo", inputs={"rewards": [{"name": "never"}]})
    jobs.fail(claim(job_id=reward.pk), Outcome(reason="bad data"), now=NOW)
    for _ in range(2):
        jobs.fail_dependents(now=NOW)
    assert set(Job.objects.values_list("status", flat=True)) == {JobStatus.FAILED}
    with pytest.raises(DomainError, match="no model and no promotion named 'never'"):
        queued(small, "ppo", inputs={"rewards": [{"name": "never"}]})


def test_a_promotion_of_a_job_without_checkpoints_says_so(small, tmp_path):
    reward = queued(small, "reward", promote_as="nothing")
    finish(reward)
    with pytest.raises(ConfigError, match=f"job {reward.number} has left no checkpoint"):
        inputs.checkpoint_to_promote(Job.objects.get(method="convert"))


def refusal(small, method, overrides=None, **fields):
    with pytest.raises(DomainError) as caught:
        prepare(small.project, small.wish(method, overrides, **fields))
    assert Job.objects.count() == fields.get("jobs", 0)
    return caught.value.code, *caught.value.details


def test_inputs_that_do_not_fit_are_refused_by_their_name(small, settings):
    reward, policy = ref(small.reward), ref(small.policy)
    assert refusal(small, "ppo", inputs={}) == ("bad_config", "inputs.rewards")
    assert refusal(small, "ppo", inputs={"rewards": [policy]})[0] == "unknown_model"
    assert refusal(small, "ppo", inputs={"rewards": [reward] * 9}) == ("bad_config", "inputs.rewards")
    assert refusal(small, "dpo", inputs={"rewards": [reward]}) == ("bad_config", "inputs.rewards")
    assert refusal(small, "ppo", inputs={"rewards": [{"path": "/etc"}]}) == ("invalid", "inputs.rewards")
    assert refusal(small, "ppo", inputs={"rewards": [{"model": "7"}]}) == ("invalid", "inputs.rewards")
    assert refusal(small, "ppo", inputs={"rewards": "all"}) == ("bad_config", "inputs.rewards")
    assert refusal(small, "score", inputs={"rewards": [reward, reward]}) == ("bad_config", "inputs.rewards")
    assert refusal(small, "score", snapshot=None) == ("invalid", "snapshot")
    assert refusal(small, "reward", model=small.reward) == ("invalid", "model")
    assert refusal(small, "reward", model=None) == ("invalid", "model")
    assert refusal(small, "reward", inputs={"base": policy}) == ("invalid", "inputs.base")
    assert refusal(small, "reward", promote_as=small.policy.name) == ("name_taken",)
    assert refusal(small, "evaluate", promote_as="x") == ("invalid", "promote_as")
    assert refusal(small, "evaluate", model=None, inputs={"reference": policy, "rewards": [reward]}) == (
        "invalid",
        "model",
    )
    assert refusal(small, "evaluate", model=None, inputs={}) == ("bad_config", "models.policy")
    assert refusal(small, "evaluate", {"data": {"part": "test"}}, snapshot=small.snapshots["demonstrations"]) == (
        "snapshot_too_small",
        "snapshot",
    )


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.kinds])
def test_every_method_refuses_a_snapshot_that_it_cannot_read(small, method):
    snapshot = small.snapshots["preferences"]
    for kind in ("prompts", "demonstrations", "preferences", "rankings", "ratings"):
        snapshot.kind = kind
        if kind not in METHODS[method].kinds:
            assert refusal(small, method, snapshot=snapshot) == ("invalid", "snapshot")
        else:
            prepare(small.project, small.wish(method, snapshot=snapshot))


def test_a_judge_is_asked_only_where_the_operator_allows_it(small, settings, tmp_path):
    def judged(url):
        return {"online_dpo": {"labeller": "judge", "judge": {"model": "m", "server": {"url": url}}}}

    assert refusal(small, "online_dpo", {"online_dpo": {"labeller": "judge"}}) == ("bad_config", "online_dpo.judge")
    assert refusal(small, "online_dpo", inputs={}) == ("bad_config", "models.rewards")
    settings.OUTBOUND = ("127.0.0.1:8001",)
    key = "online_dpo.judge.server.url"
    assert refusal(small, "online_dpo", judged("http://127.0.0.1:8000/v1"), inputs={}) == ("bad_config", key)
    secret = judged("http://127.0.0.1:8001/v1")
    secret["online_dpo"]["judge"]["server"]["key_file"] = "/etc/shadow"
    assert refusal(small, "online_dpo", secret) == ("bad_config", "online_dpo.judge.server.key_file")
    settings.JUDGE_URL, settings.JUDGE_KEY_FILE = "http://127.0.0.1:8001/v1", "/keys/own"
    job = queued(small, "online_dpo", judged("http://127.0.0.1:8001/v1"), inputs={})
    server = runner.build_request(job, tmp_path)["online_dpo"]["judge"]["server"]
    assert (server["addresses"], server["key_file"]) == (["127.0.0.1"], "/keys/own")
    settings.JUDGE_URL = "http://127.0.0.1:9999/v1"
    assert runner.build_request(job, tmp_path)["online_dpo"]["judge"]["server"]["key_file"] is None


def test_a_job_that_was_queued_by_the_short_way_is_the_same(small):
    short = launch(
        project=small.project,
        method="dpo",
        snapshot=small.snapshots["preferences"],
        model=small.policy,
        overrides={"seed": 4},
        by=None,
        now=NOW,
    )
    assert short.config == queued(small, "dpo", {"seed": 4}).config
