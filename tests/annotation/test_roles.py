"""Who may call what: every route of the schema × every kind of caller, by a table. A new route needs a line here."""

from __future__ import annotations

import json

import pytest
from django.db import transaction
from django.utils import timezone

from annotation import members
from annotation.models import Project, Role, TokenScope
from annotation.people import create_token
from tests import builders, world

pytestmark = pytest.mark.django_db

# What a caller gets: o = it works (2xx, or the route's own refusal of what was sent), else the status.
# "gone" was an owner and has left: a stranger, whatever the table says of owners.
CALLERS = (
    "nobody", "stan", "ann", "ada", "vera", "max", "olga", "reads", "writes", "jobs", "elsewhere", "none", "gone"
)  # fmt: skip
#             nobody stan ann ada vera max olga | tokens of olga: read, write, jobs, of another project, without scope
TABLE = {
    "public":   ("o   o   o   o   o   o   o", "o   o   o   o   o   o"),
    "self":     ("401 o   o   o   o   o   o", "o   403 403 o   403"),
    "make":     ("401 o   o   o   o   o   o", "403 o   403 o   403"),
    "person":   ("401 o   o   o   o   o   o", "403 403 403 403 403"),
    "static":   ("401 o   o   o   o   o   o", "o   o   o   o   o"),
    "site":     ("401 403 403 403 o   o   o", "o   403 403 o   403"),
    "queue":    ("401 404 o   o   403 o   o", "403 o   403 404 403"),
    "told":     ("401 404 o   o   403 o   o", "o   403 403 404 403"),
    "own":      ("401 404 o   o   404 o   o", "403 o   403 404 403"),
    "read":     ("401 404 403 403 o   o   o", "o   403 403 404 403"),
    "manage":   ("401 404 403 403 403 o   o", "o   403 403 404 403"),
    "write":    ("401 404 403 403 403 o   o", "403 o   403 404 403"),
    "owner":    ("401 404 403 403 403 403 o", "403 o   403 404 403"),
    "join":     ("o   o   409 409 409 409 409", "403 403 403 403 403"),
    "jobs":     ("401 404 403 403 403 o   o", "403 403 o   404 403"),
    "judge":    ("401 404 403 o   403 o   o", "o   403 403 404 403"),
    "rule":     ("401 404 403 o   403 o   o", "403 o   403 404 403"),
    "operator": ("401 404 403 403 403 403 403", "403 403 403 404 403"),
}  # fmt: skip
ROUTES = {
    "session_show": "public", "session_sign_in": "public", "session_sign_out": "public",
    "tokens_list": "self", "tokens_create": "person", "tokens_revoke": "person",
    "metrics_list": "static", "workers_list": "site", "experiments_list": "site", "experiments_show": "site",
    "annotate_projects": "self", "annotate_guideline": "told", "annotate_queue": "queue",
    "annotate_heartbeat": "queue", "annotate_release": "queue",
    "annotate_vote": "own", "annotate_skip": "own", "annotate_flag": "own", "annotate_retract": "own",
    "annotate_votes": "told", "annotate_completion": "own",
    "projects_list": "self", "projects_create": "make", "projects_show": "read", "projects_change": "write",
    "guidelines_add": "write", "prompts_list": "read", "comparisons_list": "read", "imports_create": "write",
    "imports_list": "read", "imports_show": "read", "imports_errors": "read", "exports_list": "read",
    "exports_download": "read",
    "overview": "read", "snapshots_list": "read", "snapshots_freeze": "write", "snapshots_preview": "read",
    "snapshots_show": "read", "snapshots_export": "read", "snapshots_sum": "read", "snapshots_card": "read",
    "snapshots_difference": "read", "snapshots_similarity": "read", "models_list": "read",
    "models_register": "operator",
    "methods_list": "read", "jobs_list": "read", "jobs_submit": "jobs", "jobs_show": "read", "jobs_metrics": "read",
    "jobs_estimate": "manage", "jobs_chain": "jobs", "jobs_sweep": "jobs", "jobs_clone": "jobs", "jobs_change": "jobs",
    "quota_show": "read", "quota_change": "owner",
    "jobs_samples": "read", "jobs_log": "read", "jobs_cancel": "jobs", "jobs_retry": "jobs", "jobs_promote": "jobs",
    "alarms_list": "read", "alarms_show": "read", "alarms_acknowledge": "write", "alarms_act": "jobs",
    "jobs_alarms": "read",
    "evaluations_list": "read", "evaluations_start": "jobs", "evaluations_show": "read", "evaluations_judge": "jobs",
    "policies_ranking": "read",
    "playground_list": "read", "playground_ask": "jobs", "playground_show": "read", "playground_stop": "jobs",
    "playground_send": "write",
    "rounds_list": "read", "rounds_start": "jobs", "rounds_show": "read", "rounds_stop": "jobs",
    "rounds_continue": "jobs", "rounds_freshness": "read", "schedule_show": "read", "schedule_change": "jobs",
    "jobs_curves": "read", "jobs_compare": "read", "jobs_metrics_csv": "read", "jobs_tensorboard": "read",
    "jobs_tensorboard_archive": "read",
    "annotate_conversations": "told", "annotate_conversation": "told",
    "annotate_conversation_start": "queue", "annotate_conversation_say": "queue",
    "annotate_conversation_retry": "queue", "annotate_conversation_end": "queue",
    "conversations_list": "read", "conversations_show": "read", "chat_show": "read", "chat_change": "write",
    "pairs_make": "write", "comparisons_prioritise": "write", "sources_list": "read",
    "comparisons_show": "read", "votes_list": "read", "flags_list": "read",
    "members_list": "read", "members_change": "write", "members_remove": "owner",
    "invitations_list": "manage", "invitations_create": "owner", "invitations_revoke": "owner",
    "invitations_look": "public", "invitations_accept": "join",
    "adjudication_list": "judge", "adjudication_show": "judge", "adjudication_votes": "judge",
    "adjudication_answer": "rule", "adjudication_rule": "rule", "adjudication_reopen": "rule",
    "adjudication_escalate": "rule", "adjudication_send": "write",
    "members_exclusion": "read", "members_exclude": "write", "members_readmit": "write",
    "members_lineage": "read", "models_lineage": "read", "votes_lineage": "read", "prompts_lineage": "read",
    "prompts_erase": "owner",
    "snapshots_lineage": "read", "models_show": "read", "models_change": "write", "models_verify": "write",
    "models_download": "read", "models_votes": "read",
    "annotate_onboarding": "told", "annotate_guideline_changes": "told", "annotate_guideline_confirm": "queue",
    "annotate_practice": "queue", "annotate_explanation": "told", "annotate_qualification": "queue",
    "annotate_qualification_next": "queue", "annotate_feedback": "told", "annotate_feedback_read": "queue",
    "annotate_objection": "queue",
    "gold_list": "read", "gold_give": "write", "gold_change": "write", "gold_retire": "write",
    "gold_construct": "write", "gold_promote": "write", "annotators_list": "read", "annotators_show": "read",
    "annotators_pause": "write", "annotators_resume": "write", "annotators_requalify": "write",
    **dict.fromkeys(
        (f"statistics_{name}" for name in (
            "agreement", "matrix", "people", "ranking", "bias", "worst", "advice", "arms", "plan",
        )),
        "read",
    ),
    "quality_show": "read", "references_give": "write", "agreement_reference": "read",
    "guidelines_list": "read", "guidelines_difference": "read", "audit_list": "manage",
    "webhooks_list": "manage", "webhooks_create": "write", "webhooks_change": "write", "webhooks_remove": "write",
    "webhooks_ping": "write", "webhooks_pause": "write", "webhooks_resume": "write",
    "deliveries_list": "manage", "deliveries_repeat": "write",
}  # fmt: skip
OWN_REFUSALS = {  # what was sent cannot be done, whoever asks
    "session_sign_in": 400,  # a wrong password
    "tokens_revoke": 404,  # no such token
    "annotate_qualification": 409, "annotate_qualification_next": 409,  # the project asks for none
    "models_verify": 409, "models_download": 409,  # its files are not there
    "rounds_continue": 409,  # it was not stopped
    "prompts_erase": 400,  # not confirmed
    "annotators_resume": 409, "annotators_requalify": 409,  # nobody is paused, and there is no qualification
}  # fmt: skip
SITE_WIDE = {"models_lineage"}  # of a base model, which every project sees
NOT_FOR_ONE_PROJECT = {"projects_create": 400}  # a token of one project makes no others


def expected(route: str, caller: str) -> int | str:
    if caller == "gone":
        caller = "stan"
    people, tokens = TABLE[ROUTES[route]]
    return dict(zip(CALLERS, [*people.split(), *tokens.split()], strict=False))[caller]


@pytest.fixture
def scene(settings):
    settings.OUTBOUND = ("public",)
    return world.build()


@pytest.fixture
def callers(scene):
    made = {name: world.client(scene.people[name]) for name in ("stan", "ann", "ada", "vera", "max", "olga")}
    elsewhere = Project.objects.get(slug="elsewhere")
    scopes = {
        "reads": ["read"],
        "writes": ["write"],
        "jobs": ["jobs"],
        "elsewhere": ["read", "write", "jobs"],
        "none": [],
    }
    for name, given in scopes.items():
        _, secret = create_token(
            user=scene.people["olga"], name=name, scopes=[TokenScope(scope) for scope in given], expires_days=1,
            project=elsewhere if name == "elsewhere" else None, now=timezone.now(),
        )  # fmt: skip
        made[name] = world.client(secret=secret)
    gone = builders.member(scene.project, "gone", Role.OWNER)
    members.remove(membership=gone.memberships.get(project=scene.project), by=scene.people["olga"], now=timezone.now())
    return made | {"nobody": world.client(), "gone": world.client(gone)}


def test_every_route_has_a_line_in_the_table():
    assert {route.name for route in world.routes()} == set(ROUTES)


def test_every_caller_gets_from_every_route_what_the_table_says(scene, callers):
    wrong, calls = [], 0
    for route in world.routes():
        for caller in CALLERS if route.name in ROUTES else ():  # one without a line fails the test above
            person = caller if caller in scene.people else "olga"
            with transaction.atomic():
                # A sign-in or sign-out changes the browser: those get one of their own.
                browser = callers[caller]
                cookies = browser.cookies.copy()
                answer = scene.call(browser, route, person=person)
                browser.cookies = cookies
                transaction.set_rollback(True)
            calls += 1
            want = expected(route.name, caller)
            if want == "o":
                refusal = OWN_REFUSALS.get(route.name)
                if caller == "elsewhere":
                    refusal = refusal or NOT_FOR_ONE_PROJECT.get(route.name)
                ok = answer.status_code == refusal if refusal else 200 <= answer.status_code < 300
            else:
                ok = answer.status_code == int(want)
            if not ok:
                shown = b"" if answer.streaming else answer.content[:200]
                wrong.append((route.method, route.name, caller, want, answer.status_code, shown))
    print(f"{calls} calls")
    assert wrong == []


def test_ids_of_another_project_are_not_there(scene, callers):
    """Olga owns both projects, and yet an id opens nothing but in its own."""
    open_doors, asked = [], 0
    for route in world.routes():
        if "{slug}" not in route.path or "{public_id}" not in route.path or route.name in SITE_WIDE:
            continue
        path = scene.path(route, person="olga").replace(f"/{scene.project.slug}/", "/elsewhere/")
        body, kind = scene.body(route)
        with transaction.atomic():
            answer = callers["olga"].generic(route.method.upper(), path, json.dumps(body), content_type=kind)
            transaction.set_rollback(True)
        asked += 1
        if answer.status_code != 404:
            open_doors.append((route.name, answer.status_code))
    assert asked > 20
    assert open_doors == []


def test_ids_of_another_project_are_not_there_in_a_body_either(scene, callers):
    for route in world.routes():
        if route.name not in {"jobs_submit", "adjudication_send"}:
            continue
        path = scene.path(route, person="olga").replace(f"/{scene.project.slug}/", "/elsewhere/")
        answer = callers["olga"].post(path, scene.body(route)[0])
        if route.name == "adjudication_send":
            assert answer.json() == {"matched": 0, "sent": 0}
        else:
            assert answer.status_code in {400, 404}


def test_a_stranger_cannot_tell_a_project_that_is_there_from_one_that_is_not(scene, callers):
    there, not_there = (callers["stan"].get(f"/api/v1/projects/{slug}") for slug in ("helpful", "nothing"))
    assert there.status_code == not_there.status_code == 404
    assert there.json() == not_there.json()


def test_a_session_and_a_token_together_are_refused(scene, callers):
    browser = callers["olga"]
    browser.credentials(HTTP_AUTHORIZATION="Bearer wnw_whatever")
    answer = browser.get("/api/v1/projects")
    assert (answer.status_code, answer.json()["code"]) == (401, "bad_token")


@pytest.mark.parametrize("what", ["unknown", "revoked", "expired", "inactive", "malformed"])
def test_a_token_that_is_no_longer_good_is_refused(scene, what):
    now = timezone.now()
    token, secret = create_token(
        user=scene.people["olga"], name="t", scopes=[TokenScope.READ], project=None, expires_days=1, now=now
    )
    if what == "revoked":
        token.revoked_at = now
    elif what == "expired":
        token.expires_at = now
    elif what == "inactive":
        scene.people["olga"].is_active = False
        scene.people["olga"].save()
    token.save()
    secret = {"unknown": secret[:-1] + "!", "malformed": secret + " x"}.get(what, secret)
    answer = world.client(secret=secret).get("/api/v1/projects")
    assert (answer.status_code, answer.json()["code"]) == (401, "bad_token")


def test_a_token_of_one_project_sees_only_it(scene, callers):
    for address in ("/api/v1/projects", "/api/v1/annotate/projects"):
        assert {row["slug"] for row in callers["elsewhere"].get(address).json()["items"]} == {"elsewhere"}
        assert {row["slug"] for row in callers["reads"].get(address).json()["items"]} == {"elsewhere", "helpful"}
    assert [row["name"] for row in callers["elsewhere"].get("/api/v1/tokens").json()["items"]] == ["elsewhere"]
    for name, slugs in (("elsewhere", {"elsewhere"}), ("reads", {"elsewhere", "helpful"})):
        projects = callers[name].get("/api/v1/session").json()["user"]["projects"]
        assert {row["slug"] for row in projects} == slugs


def test_a_secret_is_shown_once_and_stored_as_its_hash(scene, callers):
    made = callers["olga"].post("/api/v1/tokens", {"name": "ci", "scopes": ["read"], "project": "helpful"}).json()
    assert made["secret"].startswith("wnw_")
    listed = callers["olga"].get("/api/v1/tokens")
    assert made["secret"] not in listed.content.decode()
    assert world.client(secret=made["secret"]).get("/api/v1/projects/helpful").status_code == 200
    assert callers["olga"].delete(f"/api/v1/tokens/{made['id']}").status_code == 204
    assert callers["olga"].delete(f"/api/v1/tokens/{made['id']}").status_code == 204
    assert world.client(secret=made["secret"]).get("/api/v1/projects/helpful").status_code == 401


def test_people_cannot_reach_each_others_tokens_assignments_and_votes(scene, callers):
    made = callers["olga"].post("/api/v1/tokens", {"name": "ci", "scopes": ["read"]}).json()
    assert callers["ann"].delete(f"/api/v1/tokens/{made['id']}").status_code == 404
    for name in ("stan", "ada", "olga", "max"):
        address = f"/api/v1/annotate/assignments/{scene.leased['ann'].public_id}"
        for action in ("vote", "skip", "flag"):
            assert callers[name].post(f"{address}/{action}", {"choice": "left"}).status_code == 404
        vote = scene.voted["ann"].public_id
        assert callers[name].post(f"/api/v1/annotate/votes/{vote}/retract").status_code == 404
