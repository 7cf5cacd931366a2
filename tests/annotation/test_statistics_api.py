"""The statistics of a project by the API: the numbers of the functions, reasons instead of numbers, and downloads."""

from __future__ import annotations

import csv
import io
import json
from uuid import uuid4

import numpy as np
import pytest
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from annotation import assignment as assignments
from annotation.api.reports import flat
from annotation.consensus import settle_due
from annotation.exclusion import exclude
from annotation.feedback import read_form
from annotation.models import FlagKind, Membership, Retraction, Role
from annotation.pairing import Pair, create_comparisons
from annotation.reports.cache import fingerprint
from annotation.statistics.aggregation import annotator_accuracy, dawid_skene, vote_counts
from annotation.statistics.agreement import (
    accuracy_ceiling,
    gwet_ac,
    krippendorff_alpha,
    percent_agreement,
    unanimous_share,
)
from annotation.statistics.ranking import bradley_terry, davidson, rao_kupper
from tests import builders, world
from tests.annotation.statistics.published import pandalm, rows_of
from tests.builders import NOW, cast

pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("error")]
ADDRESS = "/api/v1/projects/helpful/statistics/"
MODELS = ("rao_kupper", "davidson", "bradley_terry", "crowd_bt", "plackett_luce", "rank_centrality")
REPORTS = (
    "agreement", *(f"agreement?split={split}" for split in ("criterion", "batch", "guideline", "time")),
    "agreement?split=time&window=votes", "matrix?min_common=2", "matrix?weights=ordinal", "people", "bias", "worst",
    "worst?by=division", "advice", "advice?accuracy=0.7", "ranking?controls=side,length,style,people",
    *(f"ranking?model={model}" for model in MODELS),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _empty_cache():
    cache.clear()


def text_of(response) -> str:
    return (b"".join(response.streaming_content) if response.streaming else response.content).decode()


def ask(project, report, **query):
    response = world.client(project.created_by).get(ADDRESS + report, query)
    assert response.status_code == 200, response.content
    return json.loads(response.content, parse_constant=pytest.fail)  # NaN and Infinity are no JSON


def figures_of(body):
    """Every figure in an answer."""
    if isinstance(body, dict):
        if "value" in body and "reason" in body:
            yield body
        else:
            for value in body.values():
                yield from figures_of(value)
    elif isinstance(body, list):
        for value in body:
            yield from figures_of(value)


@pytest.fixture
def pandalm_project(test_data):
    """The shared votes of PandaLM by the real import."""
    project = builders.project()
    body = (test_data / "multi_annotator" / "pandalm.jsonl").read_bytes()
    answer = world.client(project.created_by).generic(
        "POST", "/api/v1/projects/helpful/imports?kind=votes", body, content_type="application/x-ndjson"
    )
    assert answer.status_code == 201, answer.content
    settle_due(now=NOW, limit=10_000)
    return project


def test_the_api_shows_the_published_agreement_of_pandalm(pandalm_project):
    """STATISTICS §10, rows 18 to 20."""
    overall = ask(pandalm_project, "agreement")["overall"]
    values = {name: overall[name]["value"] for name in ("percent", "fleiss", "alpha", "alpha_ordinal", "ac1", "ac2")}
    assert values == pytest.approx(
        {"percent": 0.9125, "fleiss": 0.8486, "alpha": 0.8487, "alpha_ordinal": 0.8592, "ac1": 0.8770, "ac2": 0.8560},
        abs=1e-4,
    )
    alpha = overall["alpha"]
    assert [alpha[name] for name in ("se", "low", "high")] == pytest.approx([0.0243, 0.801, 0.897], abs=1e-3)
    assert (overall["comparisons"], overall["votes"], overall["people"], alpha["n_groups"]) == (686, 2058, 3, 123)
    matrix = ask(pandalm_project, "matrix")
    pairs = sorted((matrix["kappa"][i][j], matrix["se"][i][j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert pairs == [pytest.approx(pair, abs=1e-4) for pair in ((0.8208, 0.02), (0.8494, 0.0185), (0.8757, 0.017))]
    assert matrix["n_common"] == [[686] * 3] * 3


def test_the_api_shows_the_same_numbers_as_the_functions(pandalm_project, test_data):
    votes = pandalm(test_data)
    table = vote_counts(votes.item, votes.label, n_items=686, K=3)
    shown = ask(pandalm_project, "agreement")
    expected = {
        "ac1": gwet_ac(table, group=votes.group),
        "alpha_ordinal": krippendorff_alpha(table, level="ordinal", group=votes.group),
        "unanimous": unanimous_share(table, group=votes.group),
    }
    for name, found in expected.items():
        figure = shown["overall"][name]
        assert [figure[part] for part in ("value", "low", "high")] == pytest.approx(
            [found.value, found.low, found.high]
        )
    decisive = table * np.array([1, 0, 1])
    ceiling = accuracy_ceiling(percent_agreement(decisive, group=votes.group))
    assert shown["ceiling"]["best"]["value"] == pytest.approx(ceiling.ceiling.value)
    assert shown["ceiling"]["upper"]["high"] == pytest.approx(ceiling.upper.high)


@pytest.mark.parametrize("model", [rao_kupper, davidson, bradley_terry])
def test_the_ranking_is_that_of_the_function(pandalm_project, test_data, model):
    votes = pandalm(test_data)
    rows = {row["pair"]: row for row in rows_of(test_data / "statistics" / "pandalm_votes.csv")}
    pairs = [(rows[name]["model_1"], rows[name]["model_2"]) for name in votes.ids]
    systems = sorted({name for pair in pairs for name in pair})
    a, b = (np.array([systems.index(pair[side]) for pair in pairs])[votes.item] for side in (0, 1))
    found = model(a, b, 1 - votes.label / 2, n=len(systems), group=votes.group[votes.item])
    body = ask(pandalm_project, "ranking", model=model.__name__)
    shown = {row["name"]: row["plain"] for row in body["systems"]}
    assert sorted(shown) == systems
    for i, name in enumerate(systems):
        figures = [shown[name][part] for part in ("strength", "se", "low", "high")]
        assert figures == pytest.approx([found.strength[i], found.se[i], found.low[i], found.high[i]], abs=1e-8)
    assert body["fit"]["log_likelihood"] == pytest.approx(found.loglik)
    assert body["prompts"] == 123


def test_accuracies_are_those_of_the_joint_fit(pandalm_project, test_data):
    votes = pandalm(test_data)
    fit = dawid_skene(*votes.given, **votes.sizes)
    found = annotator_accuracy(fit, *votes.given, **votes.sizes)
    shown = {row["pseudonym"]: row["accuracy"] for row in ask(pandalm_project, "people")["people"]}
    assert sorted(row["value"] for row in shown.values()) == pytest.approx(sorted(found.value), abs=1e-6)
    assert sorted(row["low"] for row in shown.values()) == pytest.approx(sorted(found.low), abs=1e-6)


# --- reasons instead of numbers ---------------------------------------------------------------------------------------


def two_people(**form):
    project = builders.project(overlap=2, form=read_form({"kind": "choice", **form}))
    return project, [builders.member(project, name) for name in ("ann", "ben")]


def no_votes():
    project, _ = two_people()
    builders.comparisons(project, 2)
    return project


def one_annotator():
    project, (ann, _) = two_people()
    for made in builders.comparisons(project, 3):
        cast(made, ann, "a")
    return project


def all_ties():
    project, people = two_people()
    for made in meet(project, ("x", "y"), ("y", "z")):
        for person in people:
            cast(made, person, "tie")
    return project


def constant_labels():
    project, people = two_people()
    for made in builders.comparisons(project, 3):
        for person in people:
            cast(made, person, "a")
    return project


def disconnected():
    project, people = two_people()
    for made, letters in zip(meet(project, ("x", "y"), ("u", "v"), ("x", "y")), ("ab", "aa", "bb"), strict=True):
        for person, letter in zip(people, letters, strict=True):
            cast(made, person, letter)
    return project


def undefeated():
    project, people = two_people()
    for made in meet(project, ("x", "y"), ("x", "z"), ("y", "z")):
        for person in people:
            cast(made, person, "a")
    return project


def one_source():
    return builders.settled(project := builders.project(), 3) and project


def ratings():
    project = builders.project(form=read_form({"kind": "rating", "size": 1}))
    for i, made in enumerate(builders.sets(project, 2, size=1)):
        cast(made, builders.member(project, f"rater-{i}"), points=5, ratings={"a": {"overall": 4}})
    return project


def ratings_of_three():
    """With a criterion that does not apply to every completion."""
    criteria = [{"key": key, "label": key} for key in ("truth", "style")]
    project = builders.project(form=read_form({"kind": "rating", "size": 3, "criteria": criteria}))
    (made,) = builders.sets(project)
    for name, points in (("ann", 5), ("ben", 2)):
        rows = {letter: {"truth": points, "style": None if letter == "a" else 3} for letter in "abc"}
        cast(made, builders.member(project, name), points=5, ratings=rows)
    assert ask(project, "ranking", criterion="style", model="plackett_luce")["votes"] == 0
    assert {row["key"] for row in ask(project, "agreement", split="criterion")["rows"]} == {"truth", "style"}
    return project


def rankings():
    project = builders.project(form=read_form({"kind": "ranking", "size": 3}))
    ann = builders.member(project, "ann")
    (made,) = builders.sets(project)
    cast(made, ann, ranking=[["a"], ["b", "c"]])
    return project


def meet(project, *pairs):
    """A comparison for each pair of systems, each of its own prompt."""
    found = []
    for i, (a, b) in enumerate(pairs):
        asked = builders.prompt(project, f"What is {i}?")
        first = builders.completion(asked, f"First of {i}.", by=a)
        pair = Pair(prompt=asked, a=first, b=builders.completion(asked, f"Second of {i}.", by=b, index=1))
        found += create_comparisons(project=project, pairs=[pair], origin=uuid4(), overlap=None, now=NOW)
    return found


SITUATIONS = (
    no_votes, one_annotator, all_ties, constant_labels, disconnected, undefeated, one_source, ratings, ratings_of_three,
    rankings,
)  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_what_does_not_exist_has_a_reason_in_every_report(situation):
    project = situation()
    settle_due(now=NOW, limit=1000)
    seen = 0
    for report in REPORTS:
        for figure in figures_of(ask(project, report)):
            assert (figure["value"] is None) <= (figure["reason"] is not None), (report, figure)
            assert (figure["low"] is None) == (figure["high"] is None), (report, figure)
            seen += 1
    assert seen > 40


def test_one_annotator_has_no_agreement():
    overall = ask(one_annotator(), "agreement")["overall"]
    names = ("percent", "unanimous", "alpha", "alpha_ordinal", "fleiss", "ac1", "ac2")
    assert {overall[name]["reason"] for name in names} == {"no_overlap"}


def test_constant_labels_agree_but_not_beyond_chance():
    overall = ask(constant_labels(), "agreement")["overall"]
    assert overall["percent"]["value"] == 1
    assert {overall[name]["reason"] for name in ("alpha", "alpha_ordinal", "fleiss")} == {"one_class"}
    assert overall["ac1"]["value"] == 1


@pytest.mark.parametrize("model", ["rao_kupper", "davidson"])
def test_nothing_but_ties_gives_no_ranking_by_models_of_ties(model):
    body = ask(all_ties(), "ranking", model=model)
    assert body["fit"]["reason"] == "one_class"
    assert [row["plain"]["strength"] for row in body["systems"]] == [None] * 3


def test_systems_that_never_meet_are_in_components_of_their_own():
    body = ask(disconnected(), "ranking", model="bradley_terry")
    part = {row["name"]: row["component"] for row in body["systems"]}
    assert part["x"] == part["y"] != part["u"] == part["v"]
    assert "not_connected" in body["fit"]["warnings"]
    names = [row["name"] for row in body["systems"]]
    assert body["win_rates"]["model"][names.index("x")][names.index("u")] is None
    assert body["win_rates"]["rate"][names.index("x")][names.index("y")] == pytest.approx(0.25)


def test_an_undefeated_system_has_a_finite_strength():
    """By symmetry of x over z and z under x their strengths are opposite, and y is in the middle."""
    plain = {row["name"]: row["plain"] for row in ask(undefeated(), "ranking", model="bradley_terry")["systems"]}
    assert plain["x"]["strength"] == pytest.approx(-plain["z"]["strength"])
    assert plain["y"]["strength"] == pytest.approx(0, abs=1e-9)
    assert [plain[name]["rank"] for name in "xyz"] == [1, 2, 3]


# --- who may ask, and how ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", ["agreement", "matrix", "people", "ranking", "bias", "worst", "advice"])
def test_a_stranger_finds_nothing_and_an_annotator_is_refused(report):
    project, (ann, _) = two_people()
    assert world.client(builders.user("stan")).get(ADDRESS + report).status_code == 404
    assert world.client(ann).get(ADDRESS + report).status_code == 403
    assert world.client().get(ADDRESS + report).status_code in {401, 403}
    vera = builders.member(project, "vera", Role.VIEWER)
    assert world.client(vera).get(ADDRESS + report)["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("agreement?split=person", "split"), ("agreement?split=time&window=year", "window"),
        ("agreement?as=xlsx", "as"), ("matrix?weights=cubic", "weights"), ("matrix?min_common=1", "min_common"),
        ("matrix?most=1000", "most"), ("ranking?model=elo", "model"), ("ranking?controls=side,mood", "controls"),
        ("ranking?criterion=truth", "criterion"), ("worst?by=length", "by"), ("worst?cursor=xx", "cursor"),
        ("worst?limit=0", "limit"), ("advice?accuracy=2", "accuracy"), ("advice?accuracy=nan", "accuracy"),
    ],
)  # fmt: skip
def test_a_bad_parameter_is_named_with_its_value(query, field):
    project, _ = two_people()
    answer = world.client(project.created_by).get(ADDRESS + query)
    assert answer.status_code == 400
    (message,) = answer.json()["details"][field]
    value = dict(part.split("=") for part in query.partition("?")[2].split("&"))[field]
    assert value.split(",")[-1] in message


def test_every_report_is_downloaded_with_its_definition():
    project, people = two_people()
    for made in builders.comparisons(project, 2):
        for person in people:
            cast(made, person, "a", rationale='=HYPERLINK("http://x")')
    settle_due(now=NOW)
    olga = world.client(project.created_by)
    for report in ("agreement", "matrix", "people", "ranking", "bias", "worst", "advice"):
        page = ask(project, report)
        file = olga.get(f"{ADDRESS}{report}?as=json")
        assert file.json() == page
        assert file["Content-Disposition"] == f'attachment; filename="helpful-{report}.json"'
        table = olga.get(f"{ADDRESS}{report}?as=csv")
        assert table["Content-Type"] == "text/csv"
        first, _, rest = text_of(table).partition("\r\n")
        assert first == f"# {page['definition']}"
        rows = list(csv.DictReader(io.StringIO(rest)))
        assert all(None not in row and None not in row.values() for row in rows), report
        assert not [cell for row in rows for cell in row.values() if cell.startswith("=")]
    assert rows[0]["agreement"] == "1.0"


def test_a_row_is_flat_with_its_figures_as_columns():
    row = {"who": "ann", "share": {"value": 0.5, "se": None, "low": 0.4, "high": 0.6, "reason": None, "n": 3}}
    nested = {"fit": {"converged": True}, "flags": ["position", "drift"]}
    assert flat(row | nested) == {
        "who": "ann", "share": 0.5, "share_se": None, "share_low": 0.4, "share_high": 0.6, "share_reason": None,
        "fit_converged": True, "flags": "position drift",
    }  # fmt: skip


# --- the cache --------------------------------------------------------------------------------------------------------


def test_every_fact_changes_the_fingerprint_and_asking_twice_does_not():
    project, (ann, ben) = two_people()
    made = builders.comparisons(project, 3)
    seen = [fingerprint(project)]

    def note():
        seen.append(fingerprint(project))
        assert len(set(seen)) == len(seen)

    vote = cast(made[0], ann, "a")
    note()
    Retraction.objects.create(project=project, vote=vote, by=ann)
    note()
    builders.make_gold(made[1])
    note()
    exclude(project=project, user=ben, by=project.created_by, reason="guessed", now=NOW)
    note()
    Membership.objects.filter(user=ann).update(pseudonym="a-1")
    note()
    (leased,) = builders.lease(project, ann, now=timezone.now())
    assignments.flag(assignment=leased, kind=FlagKind.HARMFUL, note="", now=timezone.now())
    note()
    project.form_number += 1
    project.save()
    note()
    assert fingerprint(project) == fingerprint(project)


def test_a_vote_is_in_the_next_answer():
    project, (ann, ben) = two_people()
    made = builders.comparisons(project)[0]
    cast(made, ann, "a")
    assert ask(project, "agreement")["overall"]["percent"]["value"] is None
    cast(made, ben, "a")
    assert ask(project, "agreement")["overall"]["percent"]["value"] == 1


@pytest.mark.parametrize(
    ("report", "expected"),
    [("agreement", 23), ("matrix", 21), ("people", 51), ("ranking", 25), ("bias", 49), ("advice", 26), ("worst", 7)],
)
def test_a_report_takes_as_many_queries_however_many_votes(report, expected):
    project, people = two_people()
    counts = []
    for start in (0, 10):
        for made in builders.comparisons(project, 2 if start == 0 else 10, start=start):
            for person in people:
                cast(made, person, "a")
        settle_due(now=NOW, limit=1000)
        browser = world.client(project.created_by)
        with CaptureQueriesContext(connection) as queries:
            assert browser.get(ADDRESS + report).status_code == 200
        counts.append(len(queries))
    assert counts == [expected, expected]


# --- divided comparisons ----------------------------------------------------------------------------------------------


def divided_project():
    """Three comparisons: all agree, two of three do, and one vote each for a, tie and b."""
    project = builders.project(overlap=3, form=read_form({"kind": "scale", "points": 5}))
    people = [builders.member(project, name) for name in ("ann", "ben", "cid")]
    made = builders.comparisons(project, 3)
    letters = {1: "a", 3: "tie", 5: "b"}
    for item, points in zip(made, ((1, 1, 1), (1, 1, 5), (1, 3, 5)), strict=True):
        for person, point in zip(people, points, strict=True):
            cast(item, person, letters[point], points=5, scale=point, rationale=f"{person.name} said {point}")
    settle_due(now=NOW)
    return project, people, made


def test_the_most_divided_come_first_with_their_votes_side_by_side():
    project, people, made = divided_project()
    body = ask(project, "worst", by="division")
    assert [item["id"] for item in body["items"]] == [str(item.public_id) for item in reversed(made)]
    assert [item["top_share"] for item in body["items"]] == pytest.approx([1 / 3, 2 / 3, 1])
    ballots = body["items"][0]["ballots"]
    assert [(row["choice"], row["strength"], row["rationale"]) for row in ballots] == [
        ("a", 1, "ann said 1"), ("tie", 0, "ben said 3"), ("b", -1, "cid said 5")
    ]  # fmt: skip
    assert ballots[0]["annotator"] == Membership.objects.get(user=people[0]).pseudonym
    assert [row["source"] for row in body["items"][0]["completions"]] == ["policy-1", "policy-1"]


def test_pages_of_divided_comparisons_hold_each_once():
    project, _, made = divided_project()
    found, cursor = [], ""
    while cursor is not None:
        body = ask(project, "worst", limit=1, **({"cursor": cursor} if cursor else {}))
        found += [item["id"] for item in body["items"]]
        cursor = body["next"]
    assert len(found) == 3
    assert set(found) == {str(item.public_id) for item in made}


def test_an_excluded_persons_votes_and_single_votes_are_not_among_them():
    project, people, _ = divided_project()
    alone = builders.comparisons(project, 1, start=50)[0]
    cast(alone, people[0], "a", points=5, scale=1)
    exclude(project=project, user=people[2], by=project.created_by, reason="guessed", now=NOW)
    settle_due(now=NOW)
    body = ask(project, "worst")
    assert str(alone.public_id) not in {item["id"] for item in body["items"]}
    assert {row["annotator"] for item in body["items"] for row in item["ballots"]} == {
        Membership.objects.get(user=person).pseudonym for person in people[:2]
    }
