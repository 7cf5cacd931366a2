"""What the CSV of a report holds where one table does not hold all of it."""

from __future__ import annotations

import csv

import pytest

from annotation.api.bias import BIAS_TABLES
from annotation.api.ranking import TABLES
from annotation.api.statistics import AGREEMENT_TABLES
from tests import builders, world

pytestmark = pytest.mark.django_db
ADDRESS = "/api/v1/projects/helpful/statistics/"
TABLES_OF = {"agreement": AGREEMENT_TABLES, "ranking": TABLES, "bias": BIAS_TABLES}


@pytest.fixture
def olga():
    project = builders.project()
    people = [builders.member(project, f"p{i}") for i in range(3)]
    for k, item in enumerate(builders.comparisons(project, 8)):
        for i, person in enumerate(people):
            builders.cast(item, person, "ab"[(k + (i == 0)) % 2])
    return world.client(project.created_by)


def rows_of(olga, report, **query):
    file = olga.get(ADDRESS + report, {"as": "csv", **query})
    assert file.status_code == 200
    comment, *lines = b"".join(file.streaming_content).decode().splitlines()
    assert comment.startswith("# ")
    return list(csv.DictReader(lines)), file.headers["Content-Disposition"]


@pytest.mark.parametrize(("report", "table"), [(report, table) for report, of in TABLES_OF.items() for table in of])
def test_every_table_is_a_file_of_its_own_with_the_definition(olga, report, table):
    _, name = rows_of(olga, report, table=table)
    whole = next(iter(TABLES_OF[report])) == table
    assert name == f'attachment; filename="helpful-{report if whole else f"{report}-{table}"}.csv"'


def test_the_ceiling_stands_with_its_interval(olga):
    [row], _ = rows_of(olga, "agreement", table="ceiling")
    assert {"best", "best_low", "best_high", "best_reason"} <= set(row)


def test_consistency_without_repeats_has_its_reason(olga):
    [row], _ = rows_of(olga, "bias", table="consistency")
    assert (row["same"], row["same_reason"]) == ("", "no_votes")


def test_an_unknown_table_is_refused_by_name(olga):
    answer = olga.get(f"{ADDRESS}ranking", {"as": "csv", "table": "moon"})
    assert answer.status_code == 400
    assert "moon" in str(answer.json())
