"""A million comparisons, or votes, in a minute: set-based SQL that makes the rows as the product makes them.

Ten pairs of a prompt's five completions. Imported where Django is set up, on an empty database with one seeded project.
"""

# ruff: noqa: S608  (names and expressions of this file, no input)
from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import numpy as np
from django.db import connection, transaction
from django.db.models import Max

from annotation import models
from annotation.models import Slot, SlotState
from annotation.people import imported_annotators
from tests.services.hammer import PROJECT

PAIRS = [(i, j) for i in range(5) for j in range(i + 1, 5)]


def fill(n: int, *, overlap: int) -> None:
    """Add `n` comparisons to the seeded project by INSERT … SELECT."""
    project = models.Project.objects.get(slug=PROJECT)
    source = models.Source.objects.create(project=project, kind=models.SourceKind.POLICY, name="bench")
    now, common = "CURRENT_TIMESTAMP", {"project_id": str(project.pk)}
    lite = connection.vendor == "sqlite"
    uuid = "lower(hex(randomblob(16)))" if lite else "gen_random_uuid()"
    origin = f"'{uuid4().hex}'"
    # A hash of its own for each row, spread as sha256 is; `rank` is its first 31 bits, as in pairing.
    digest = (
        (lambda seed: "lower(hex(randomblob(32)))")
        if lite
        else (lambda seed: f"encode(sha256(({seed})::text::bytea), 'hex')")
    )
    rank = (
        "abs(random()) % 2147483648"
        if lite
        else "('x' || substr(encode(sha256((g)::text::bytea), 'hex'), 1, 8))::bit(32)::bigint >> 1"
    )
    left = " ".join(f"WHEN {k} THEN {i}" for k, (i, _) in enumerate(PAIRS))
    right = " ".join(f"WHEN {k} THEN {j}" for k, (_, j) in enumerate(PAIRS))
    messages = '\'[{"role": "user", "content": "Question \' || g || \': why is the sky blue, and who says so?"}]\''
    prompts, completions = n // len(PAIRS), n // len(PAIRS) * 5
    _insert(
        models.Prompt,
        prompts,
        common
        | {
            "id": "g",
            "public_id": uuid,
            "messages": messages if lite else f"({messages})::jsonb",
            "content_hash": digest("'p' || g"),
            "created_at": now,
        },
    )
    text = "'Answer ' || g || ': ' || '" + "It scatters, and so it is. " * 12 + "'"
    _insert(
        models.Completion,
        completions,
        common
        | {
            "id": "g",
            "public_id": uuid,
            "prompt_id": "(g - 1) / 5 + 1",
            "source_id": str(source.pk),
            "text": text,
            "content_hash": digest("'c' || g"),
            "origin": origin,
            "index": "(g - 1) % 5",
            "created_at": now,
        },
    )
    _insert(
        models.Comparison,
        n,
        common
        | {
            "id": "g",
            "public_id": uuid,
            "prompt_id": f"(g - 1) / {len(PAIRS)} + 1",
            "origin": origin,
            "pair_hash": digest("g"),
            "overlap": str(overlap),
            "rank": rank,
            "created_at": now,
        },
    )
    first = f"(g - 1) / {len(PAIRS)} * 5 + 1 + CASE (g - 1) % {len(PAIRS)}"
    for position, other in ((0, left), (1, right)):
        _insert(
            models.ComparisonCompletion,
            n,
            {"comparison_id": "g", "completion_id": f"{first} {other} END", "position": str(position)},
        )
    for number in range(1, overlap + 1):
        _insert(
            models.Slot,
            n,
            common | {"comparison_id": "c.id", "number": str(number), "rank": "c.rank"},
            source="annotation_comparison c",
        )
    _insert(models.Consensus, n, common | {"comparison_id": "g"})
    with connection.cursor() as cursor:
        for model in () if lite else (models.Prompt, models.Completion, models.Comparison):
            table = model._meta.db_table
            cursor.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))")
        cursor.execute("ANALYZE" if lite else "VACUUM ANALYZE")


def cast_votes(n: int, *, overlap: int, people: int, seed: int, share: float) -> list[float]:
    """Let people vote on the first or, called again, on the last comparisons; each person's planted accuracy.

    The truth of a comparison is a, a tie or b (.42, .16, .42); a person is right with Beta(8, 3), else says one of the
    others. The same seed plants the same; a slot that is done stays as it is.

    Args:
        share: of the comparisons; those without votes come first.
    """
    rng = np.random.default_rng(seed)
    accuracy = rng.beta(8, 3, people)
    truth = rng.choice(3, n, p=[0.42, 0.16, 0.42])
    first = int(Slot.objects.filter(state=SlotState.DONE).aggregate(last=Max("comparison_id"))["last"] or 0)
    last = min(n, first + round(share * n)) if first == 0 else n
    comparison = np.repeat(np.arange(first, last), overlap)
    number = np.tile(np.arange(overlap), last - first)
    person = (comparison * 7919 + number * 131) % people
    right = rng.random(len(comparison)) < accuracy[person]
    label = np.where(right, truth[comparison], (truth[comparison] + rng.integers(1, 3, len(comparison))) % 3)
    users = _voters(people)
    columns = (comparison + 1, number + 1, np.array(users)[person], label)
    _insert_votes(list(zip(*(column.tolist() for column in columns), strict=True)))
    return [float(value) for value in accuracy]


def _voters(people: int) -> list[int]:
    project = models.Project.objects.get(slug=PROJECT)
    names = [f"voter-{i:05}" for i in range(people)]
    made = imported_annotators(project=project, names=names, now=project.created_at)
    return [made[name].pk for name in names]


def _insert_votes(rows: list[tuple[int, int, int, int]]) -> None:
    """Votes and their slots from (comparison, number, user, class)."""
    project = models.Project.objects.get(slug=PROJECT)
    lite = connection.vendor == "sqlite"
    uuid = "lower(hex(randomblob(16)))" if lite else "gen_random_uuid()"
    with connection.cursor() as cursor, transaction.atomic():
        cursor.execute("CREATE TEMPORARY TABLE cast_votes (comparison bigint, number int, person bigint, class int)")
        if lite:
            cursor.executemany("INSERT INTO cast_votes VALUES (%s, %s, %s, %s)", rows)
        else:
            with cursor.copy("COPY cast_votes FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        values = {
            "project_id": str(project.pk), "public_id": uuid, "key": uuid, "comparison_id": "v.comparison",
            "annotator_id": "v.person", "choice": "CASE v.class WHEN 0 THEN 'a' WHEN 1 THEN 'tie' ELSE 'b' END",
            "body_hash": "'x'", "created_at": "CURRENT_TIMESTAMP",
        }  # fmt: skip
        _insert(models.Vote, len(rows), values, source="cast_votes v")
        cursor.execute(
            "UPDATE annotation_slot SET state = 'done', vote_id = w.id FROM cast_votes v JOIN annotation_vote w "
            "ON w.comparison_id = v.comparison AND w.annotator_id = v.person "
            "WHERE annotation_slot.comparison_id = v.comparison AND annotation_slot.number = v.number"
        )
        cursor.execute(
            "UPDATE annotation_consensus SET state = 'settled', votes = 5, posterior = 0.5, prob = 0.5 "
            "WHERE comparison_id IN (SELECT comparison FROM cast_votes)"
        )
        cursor.execute("DROP TABLE cast_votes")
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE" if lite else "VACUUM ANALYZE")


def _insert(model: Any, n: int, values: dict[str, str], *, source: str = "") -> None:
    """One statement for `n` rows numbered g; what is not said gets the model's own default."""
    columns, expressions = [], []
    for column in model._meta.concrete_fields:
        if column.primary_key and "id" not in values:
            continue
        columns.append(f'"{column.column}"')
        expressions.append(values.get(column.column) or _default(column))
    series = (
        f"(WITH RECURSIVE s(g) AS (SELECT 1 UNION ALL SELECT g + 1 FROM s WHERE g < {n}) SELECT g FROM s)"
        if connection.vendor == "sqlite"
        else f"generate_series(1, {n}) AS g"
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {model._meta.db_table} ({', '.join(columns)}) "
            f"SELECT {', '.join(expressions)} FROM {source or series}"
        )


def _default(column: Any) -> str:
    if column.null:
        return "NULL"
    value = column.get_default()
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return str(value)
    text = json.dumps(value) if isinstance(value, dict | list) else str(value)
    return f"'{text}'"
