"""Hostile files, large ones as tasks that survive a crash, and the API of imports and exports."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import timedelta
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation import exporting
from annotation.exporting import Dataset, Format
from annotation.importing import batches, reading
from annotation.importing.batches import Incoming, import_file
from annotation.importing.cells import guard, unguard
from annotation.importing.reading import BadFile, FileFormat, read_records
from annotation.importing.rows import BadRow, BadRows, ImportKind
from annotation.models import AuditEvent, ImportBatch, ImportState, Prompt
from tests import builders, world
from tests.builders import NOW

pytestmark = pytest.mark.django_db
ADDRESS = "/api/v1/projects/helpful/imports"


@pytest.fixture
def project():
    return builders.project()


@pytest.fixture
def olga(project):
    return world.client(project.created_by)


def records(path, file_format):
    return list(read_records(path, file_format))


def refusals(found):
    return [(item.line, str(item.value)) for item in found if isinstance(item.value, BadRow)]


# --- hostile files ----------------------------------------------------------------------------------------------------


def test_a_line_that_is_too_long_is_refused_without_being_held(tmp_path):
    path = tmp_path / "x.jsonl"
    with path.open("wb") as handle:
        handle.write(b'{"a": 1}\n{"a": "')
        for _ in range(30):
            handle.write(b"x" * 1_000_000)
        handle.write(b'"}\n{"a": 2}\n')
    first, long, last = records(path, FileFormat.JSONL)
    assert (first.value, last.value, last.line) == ({"a": 1}, {"a": 2}, 3)
    assert "longer than" in str(long.value)


def test_csv_rows_are_refused_one_by_one(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(
        b"\xef\xbb\xbfprompt,category\r\n"
        b'"two\nlines",c\r\n'
        b"only one cell\r\n"
        b"a,b,c\r\n"
        b"\xff\xfe,c\r\n"
        b"nul\x00,c\r\n"
        b'stray "quote" is text,c\r\n'
        b'"bad"quote,c\r\n'
        b"\r\n"
        b"last,'=1+1\r\n"
    )
    found = records(path, FileFormat.CSV)
    assert found[0].value == {"prompt": "two\nlines", "category": "c"}
    assert found[-1].value == {"prompt": "last", "category": "=1+1"}
    lines = [line for line, _ in refusals(found)]
    assert lines[:4] == [4, 5, 6, 7]
    messages = " ".join(message for _, message in refusals(found))
    for said in ("1 cells", "3 cells", "UTF-8", "NUL"):
        assert said in messages


def test_a_csv_that_never_closes_its_quote_is_bounded(tmp_path):
    path = tmp_path / "x.csv"
    with path.open("w") as handle:
        handle.write('prompt\n"')
        for _ in range(300):
            handle.write("x" * 10_000 + "\n")
    found = records(path, FileFormat.CSV)
    assert refusals(found)
    assert len(found) < 400


@pytest.mark.parametrize(
    ("content", "said"),
    [("a,a\n1,2\n", "twice"), (",".join(f"c{i}" for i in range(600)) + "\n", "600 columns")],
)
def test_a_bad_header_refuses_the_file(tmp_path, content, said):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(BadFile, match=said):
        records(tmp_path / "x.csv", FileFormat.CSV)


@given(st.text())
def test_no_cell_is_a_formula_and_every_one_comes_back(text):
    cell = guard(text)
    assert not re.match(r"[=+\-@\t\r\n]", cell)
    assert unguard(cell) == text


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\x00", exclude_categories=["Cs"])), min_size=1))
def test_a_csv_of_any_texts_comes_back(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    schema = exporting.columns(Dataset.FLAGS)
    rows = [dict.fromkeys(schema, text) for text in texts]
    path.write_bytes(b"".join(exporting.encode(rows, schema, Format.CSV)))
    with path.open(newline="", encoding="utf-8") as handle:
        cells = [cell for row in csv.reader(handle) for cell in row]
    assert not any(re.match(r"[=+\-@\t\r\n]", cell) for cell in cells)
    found = [record.value for record in records(path, FileFormat.CSV)]
    assert found == [{name: text for name, text in row.items() if text} for row in rows if any(row.values())]


def parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_parquet_that_grows_too_much_is_refused_from_its_metadata(tmp_path):
    path = parquet(tmp_path / "x.parquet", {"prompt": ["\x20" * 900_000 + str(i) for i in range(40)]},
                   compression="zstd", use_dictionary=False)  # fmt: skip
    assert path.stat().st_size < 1_000_000
    with pytest.raises(BadFile, match="times when decompressed"):
        records(path, FileFormat.PARQUET)


def test_one_large_value_many_times_over_stays_small(tmp_path):
    path = parquet(tmp_path / "x.parquet", {"prompt": pa.array(["x" * 3_000_000] * 200).dictionary_encode()},
                   compression="none", dictionary_pagesize_limit=10_000_000)  # fmt: skip
    assert path.stat().st_size < 10_000_000
    before = pa.total_allocated_bytes()
    found = 0
    for record in read_records(path, FileFormat.PARQUET):
        found += "longer than" in str(record.value)
        assert pa.total_allocated_bytes() - before < 100_000_000
    assert found == 200


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompt": [b"binary"]}, "binary"),
        ({"prompt": pa.array([[b"x"]], pa.list_(pa.binary()))}, "list"),
        ({"prompt": pa.array([timedelta(1)])}, "duration"),
    ],
)
def test_columns_that_hold_no_text_refuse_the_file(tmp_path, columns, said):
    with pytest.raises(BadFile, match=said):
        records(parquet(tmp_path / "x.parquet", columns), FileFormat.PARQUET)


def test_nested_columns_are_read_and_bad_values_named(tmp_path):
    turns = [[{"role": "user", "content": "Hi"}], [{"role": "user", "content": "a\x00b"}]]
    path = parquet(tmp_path / "x.parquet", {"messages": turns, "score": [float("nan"), float("inf")]})
    first, second = records(path, FileFormat.PARQUET)
    assert first.value == {"messages": [{"role": "user", "content": "Hi"}]}
    assert "NUL" in str(second.value)


@pytest.mark.parametrize("body", [b"", b"PAR1", b"PAR1" + b"\x00" * 100 + b"PAR1", b"{}"])
def test_what_is_no_parquet_is_refused(tmp_path, body):
    (tmp_path / "x.parquet").write_bytes(body)
    with pytest.raises(BadFile):
        records(tmp_path / "x.parquet", FileFormat.PARQUET)


@pytest.mark.parametrize(
    "body", ["{}", "[", "[1", '[{"a": 1}', "[{]", "[1] 2", '[{"a": "x]', "[" * 100_000, '["\udcff']
)
def test_an_array_that_breaks_off_refuses_the_file(tmp_path, body):
    (tmp_path / "x.json").write_text(body, errors="surrogateescape")
    with pytest.raises(BadFile):
        records(tmp_path / "x.json", FileFormat.JSON)


def test_an_array_is_read_element_by_element(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK", 7)
    elements = [{"a": "x" * n, "b": [n, {"c": None}]} for n in range(20)]
    (tmp_path / "x.json").write_text("\ufeff [ " + " , ".join(map(json.dumps, [*elements, 12345678, "t"])) + " ] \n")
    found = records(tmp_path / "x.json", FileFormat.JSON)
    assert [item.value for item in found[:20]] == elements
    assert len(refusals(found)) == 2
    (tmp_path / "y.json").write_text("[]")
    assert records(tmp_path / "y.json", FileFormat.JSON) == []


def test_a_name_from_outside_is_never_a_path(project, olga, data_dir):
    body = '{"prompt": "x"}\n' * 2
    answer = olga.generic(
        "POST", f"{ADDRESS}?kind=prompts&name=../../etc/passwd", body, content_type="application/x-ndjson"
    )
    assert (answer.status_code, answer.json()["name"]) == (201, "../../etc/passwd")
    assert list((data_dir / "imports").iterdir()) == []
    assert olga.get(f"{ADDRESS}/..%2f..%2fetc/errors").status_code == 404


# --- as a task --------------------------------------------------------------------------------------------------------


def queued(project, tmp_path, lines, *, skip=False, kind=ImportKind.PROMPTS):
    path = tmp_path / f"{uuid4()}.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    incoming = Incoming(kind=kind, path=path, name="big", skip_bad_rows=skip)
    return batches.queue_import(project=project, incoming=incoming, by=project.created_by, now=NOW)


def prompts(n):
    return [{"prompt": f"Question {i}?"} for i in range(n)]


def test_a_task_checks_then_loads_and_leaves_nothing_behind(project, tmp_path, data_dir):
    batch = queued(project, tmp_path, prompts(1200))
    assert (batch.state, batch.file) == (ImportState.QUEUED, f"imports/{batch.public_id}/body")
    assert batches.run_due(now=NOW) == 1
    batch.refresh_from_db()
    assert (batch.state, batch.rows, batch.rows_done, batch.imported) == (ImportState.DONE, 1200, 1200, 1200)
    assert (batch.owner, batch.lease_expires_at, batch.file) == (None, None, "")
    assert not batches.batch_directory(batch).exists()
    assert AuditEvent.objects.filter(action="import.done", target=str(batch.public_id)).exists()
    assert batches.run_due(now=NOW) == 0


def test_a_task_with_bad_rows_is_refused_and_reports_each(project, olga, tmp_path):
    lines = prompts(1000)
    for i in range(0, 1000, 5):
        lines[i] = {"prompt": ""}
    batch = queued(project, tmp_path, lines)
    batches.run_due(now=NOW)
    batch.refresh_from_db()
    assert (batch.state, batch.rows, batch.skipped, batch.imported) == (ImportState.REFUSED, 1000, 200, 0)
    assert batch.reason.startswith("line 1, prompt: prompt must not be empty (199 more)")
    assert (Prompt.objects.count(), len(batch.errors)) == (0, 100)
    answer = olga.get(f"{ADDRESS}/{batch.public_id}/errors")
    report = [json.loads(line) for line in b"".join(answer.streaming_content).splitlines()]
    assert [row["line"] for row in report] == list(range(1, 1001, 5))
    again = queued(project, tmp_path, lines, skip=True)
    batches.run_due(now=NOW)
    again.refresh_from_db()
    assert (again.state, again.rows, again.imported, again.skipped) == (ImportState.DONE, 1000, 800, 200)
    assert len(batches.report_path(again).read_text().splitlines()) == 200


@pytest.mark.parametrize("skip", [False, True])
def test_a_worker_that_dies_is_replaced_by_one_that_goes_on(project, tmp_path, monkeypatch, skip):
    lines = prompts(2200)
    bad = {3, 700, 1600, 2100} if skip else set()
    batch = queued(project, tmp_path, ["{" if i in bad else line for i, line in enumerate(lines, 1)], skip=skip)
    loads = []

    class Killed(BaseException):
        pass

    real = batches.Loader.load

    def dying(self, rows, *, first):
        loads.append(first)
        if len(loads) == 3:
            real(self, rows, first=first)
            raise Killed  # in the middle of the third transaction
        return real(self, rows, first=first)

    monkeypatch.setattr(batches.Loader, "load", dying)
    with pytest.raises(Killed):
        batches.run_due(now=NOW)
    batch.refresh_from_db()
    assert (batch.state, batch.rows_done, Prompt.objects.count()) == (
        ImportState.LOADING,
        1000,
        1000 - len(bad & {3, 700}),
    )
    assert batches.run_due(now=NOW) == 0  # its lease is not over
    ImportBatch.objects.update(lease_expires_at=NOW)
    assert batches.run_due(now=NOW) == 1
    batch.refresh_from_db()
    assert loads[3:] == [1000, 1500, 2000]
    good = 2200 - len(bad)
    assert (batch.state, batch.rows, batch.imported, batch.duplicates) == (ImportState.DONE, 2200, good, 0)
    assert (batch.skipped, Prompt.objects.count()) == (len(bad), good)
    if skip:
        report = batches.report_path(batch).read_text().splitlines()
        assert [json.loads(line)["line"] for line in report] == sorted(bad)


def test_a_worker_whose_lease_is_taken_writes_no_more(project, tmp_path, monkeypatch):
    batch = queued(project, tmp_path, prompts(1500))
    real = batches.Loader.load

    def robbed(self, rows, *, first):
        if first:
            ImportBatch.objects.update(owner=uuid4())
        return real(self, rows, first=first)

    monkeypatch.setattr(batches.Loader, "load", robbed)
    batches.run_due(now=NOW)
    batch.refresh_from_db()
    assert (batch.rows_done, Prompt.objects.count(), batch.state) == (500, 500, ImportState.LOADING)


def test_a_batch_whose_file_is_gone_fails_with_its_reason(project):
    batch = ImportBatch.objects.create(project=project, kind="prompts", state=ImportState.LOADING)
    batches.run_due(now=NOW)
    batch.refresh_from_db()
    assert batch.state == ImportState.FAILED
    assert "Import the file again" in batch.reason


def test_a_lost_message_is_sent_again_by_the_tick(project, tmp_path):
    queued(project, tmp_path, prompts(1))
    assert batches.stale()
    assert not batches.stale()
    ImportBatch.objects.update(nudged_at=NOW)
    assert batches.stale()
    batches.run_due(now=NOW)
    ImportBatch.objects.update(nudged_at=NOW)
    assert not batches.stale()


# --- the API ----------------------------------------------------------------------------------------------------------


def post(browser, body, query, content_type="application/x-ndjson"):
    return browser.generic("POST", f"{ADDRESS}?{query}", body, content_type=content_type)


def test_a_large_body_is_a_task_with_progress(project, olga, monkeypatch):
    monkeypatch.setattr("annotation.api.imports.INLINE_BYTES", 1000)
    body = "".join(json.dumps(row) + "\n" for row in prompts(100))
    answer = post(olga, body, "kind=prompts")
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    batches.run_due(now=NOW)
    shown = olga.get(f"{ADDRESS}/{answer.json()['id']}").json()
    assert (shown["state"], shown["rows_done"], shown["imported"], shown["size_bytes"]) == ("done", 100, 100, len(body))
    assert shown["rate"] > 0
    assert olga.get(ADDRESS).json()["items"][0] == shown
    assert olga.get(f"{ADDRESS}/{uuid4()}").status_code == 404


def test_a_body_beyond_all_limits_is_refused(project, olga, monkeypatch, data_dir):
    monkeypatch.setattr("annotation.api.imports.MOST_BYTES", 100)
    answer = post(olga, '{"prompt": "x"}\n' * 100, "kind=prompts")
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert list((data_dir / "imports").iterdir()) == []


def test_a_dry_run_counts_and_writes_nothing(project, olga):
    post(olga, '{"prompt": "Known?"}\n', "kind=prompts")
    before = ImportBatch.objects.count(), Prompt.objects.count(), AuditEvent.objects.count()
    body = '{"prompt": "Known?"}\n{"prompt": "New?", "language": "en"}\n{"prompt": "New?"}\n{"prompt": 1}\n'
    answer = post(olga, body, "kind=prompts&dry_run=true").json()
    assert (answer["rows"], answer["duplicates"], answer["refused"]) == (4, 2, 1)
    assert [row["line"] for row in answer["examples"]] == [1, 2, 3]
    assert answer["examples"][1]["messages"] == [{"role": "user", "content": "New?"}]
    assert answer["errors"][0]["line"] == 4
    assert (ImportBatch.objects.count(), Prompt.objects.count(), AuditEvent.objects.count()) == before


def test_every_format_comes_in_by_its_content_type(project, olga):
    out = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["From Parquet?"]}), out)
    for body, content_type in (
        ('{"prompt": "Lines?"}\n', "application/x-ndjson; charset=utf-8"), ("prompt\nTable?\n", "text/csv"),
        (out.getvalue(), "application/vnd.apache.parquet"),
    ):  # fmt: skip
        assert post(olga, body, "kind=prompts", content_type).status_code == 201, content_type
    task = {"data": {"prompt": "P?", "answer1": "x", "answer2": "y"}}
    assert post(olga, json.dumps([task]), "kind=label_studio", "application/json").status_code == 201
    assert post(olga, "[]", "kind=prompts", "application/json").status_code == 415
    assert post(olga, "x", "kind=prompts", "application/zip").status_code == 415
    assert post(olga, b"PAR1", "kind=prompts", "application/vnd.apache.parquet").json()["code"] == "bad_file"


@pytest.mark.parametrize(
    "query", ["columns=[]", "columns={", 'columns={"prompt":1}', 'columns={"prompt":""}', "dry_run=1", "name=%00"]
)
def test_bad_parameters_are_refused_by_name(project, olga, query):
    answer = post(olga, "{}", f"kind=prompts&{query}")
    assert answer.status_code == 400
    assert any(key.startswith(query.partition("=")[0]) for key in answer.json()["details"])


def test_exports_stream_with_filters_and_refuse_what_does_not_belong(project, olga):
    builders.settled(project, 3)
    address = "/api/v1/projects/helpful/exports"
    sets = {item["name"]: item["rows"] for item in olga.get(address).json()["items"]}
    assert (sets["votes"], sets["prompts"], sets["preferences"]) == (9, 3, None)

    def lines(query):
        answer = olga.get(f"{address}/{query}")
        assert answer.status_code == 200, answer.content
        return [json.loads(line) for line in b"".join(answer.streaming_content).splitlines()]

    votes = lines("votes")
    assert "voter" not in json.dumps(votes)
    name = votes[0]["annotator"]
    assert len(lines(f"votes?annotator={name}")) == 3
    assert lines("votes?since=2030-01-01T00:00:00Z") == lines("votes?state=disputed") == []
    assert len(lines("comparisons?state=settled&source=policy-1")) == 3
    assert set(lines("preferences")[0]) == {"prompt", "chosen", "rejected", "prob_chosen", "prob_share", "weight"}
    assert isinstance(lines("preferences?layout=plain")[0]["chosen"], str)
    csv_file = olga.get(f"{address}/votes?as=csv")
    assert csv_file["Content-Disposition"] == 'attachment; filename="helpful-votes.csv"'
    for query, field in (
        ("votes?state=maybe", "state"), ("prompts?annotator=x", "annotator"), ("nothing", "dataset"),
        ("votes?as=xlsx", "as"), ("preferences?layout=x", "layout"), ("preferences?min_votes=0", "min_votes"),
    ):  # fmt: skip
        assert field in olga.get(f"{address}/{query}").json()["details"], query
    assert olga.get(f"{address}/votes?since=then").status_code == 400


def test_a_small_file_that_nobody_can_read_changes_nothing(project, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("prompt\n")
    with pytest.raises(BadRows, match="no rows"):
        import_file(
            project=project, incoming=Incoming(kind=ImportKind.PROMPTS, path=path, file_format=FileFormat.CSV), by=None,
            now=NOW,
        )  # fmt: skip
    assert not ImportBatch.objects.exists()
