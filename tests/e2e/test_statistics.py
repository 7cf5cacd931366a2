"""The statistics pages in a real browser, on real votes: they show what the functions find, and download it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from annotation.statistics.aggregation import vote_counts
from annotation.statistics.agreement import gwet_ac, krippendorff_alpha, percent_agreement
from annotation.statistics.ranking import rao_kupper
from tests.annotation.statistics.published import pandalm, rows_of
from tests.e2e.site import Site

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def imported(site: Site, test_data: Path) -> str:
    """A project with the shared PandaLM votes: 686 comparisons by three people."""
    api = site.api()
    api.call("POST", "projects", {"name": "Pandalm", "overlap": 3})
    raw = (test_data / "multi_annotator" / "pandalm.jsonl").read_bytes()
    api.call("POST", "projects/pandalm/imports?kind=votes", raw=raw)
    return f"{site.url}/r/pandalm"


def test_the_agreement_page_shows_what_the_functions_find(imported: str, signed_in: Page, test_data: Path) -> None:
    votes = pandalm(test_data)
    counts = vote_counts(votes.item, votes.label, n_items=votes.n_items, K=3)
    percent = percent_agreement(counts, group=votes.group)
    alpha = krippendorff_alpha(counts, group=votes.group)
    ac1 = gwet_ac(counts, group=votes.group)
    page = signed_in
    page.goto(f"{imported}/agreement")
    main = page.get_by_role("main")
    expect(main.get_by_text(f"{100 * percent.value:.1f} %").first).to_be_visible()
    assert percent.low is not None
    expect(main.get_by_text(f"[{100 * percent.low:.1f}, {100 * percent.high:.1f}]").first).to_be_visible()
    expect(main.get_by_text(f"{alpha.value:.3f}", exact=True).first).to_be_visible()
    expect(main.get_by_text(f"[{alpha.low:.3f}, {alpha.high:.3f}]").first).to_be_visible()
    expect(main.get_by_text(f"{ac1.value:.3f}", exact=True).first).to_be_visible()
    expect(main.get_by_role("gridcell", name="0.82").or_(main.get_by_text("0.82", exact=True)).first).to_be_visible()


def test_the_ranking_page_shows_the_strengths_and_downloads_them(
    imported: str, signed_in: Page, test_data: Path, tmp_path: Path
) -> None:
    rows = rows_of(test_data / "statistics" / "pandalm_votes.csv")
    systems = sorted({row["model_1"] for row in rows} | {row["model_2"] for row in rows})
    outcome = {"1": 1.0, "0": 0.5, "2": 0.0}
    flat = [(row, row[f"annotator_{w}"]) for row in rows for w in "123"]
    found = rao_kupper(
        [systems.index(row["model_1"]) for row, _ in flat],
        [systems.index(row["model_2"]) for row, _ in flat],
        [outcome[choice] for _, choice in flat],
        n=len(systems),
    )
    best = systems[int(found.strength.argmax())]
    page = signed_in
    page.goto(f"{imported}/ranking")
    row = page.get_by_role("row").filter(has_text=best).first
    expect(row).to_be_visible()
    expect(row.get_by_text(f"{found.strength.max():.2f}").first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").first.click()
    path = tmp_path / "ranking.csv"
    download.value.save_as(path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#")  # the definition comes with the figures
    table = list(csv.DictReader(line for line in text.splitlines() if line and not line.startswith("#")))
    strengths = {line["name"]: float(line["plain_strength"]) for line in table}
    assert strengths == pytest.approx(dict(zip(systems, found.strength.tolist(), strict=True)), abs=1e-6)


@pytest.mark.parametrize(
    ("path", "heading"),
    [("bias", "Bias"), ("worst", "Divided"), ("advice", "Planning"), ("agreement", "Agreement")],
)
def test_every_page_opens_without_an_error(imported: str, signed_in: Page, path: str, heading: str) -> None:
    signed_in.goto(f"{imported}/{path}")
    expect(signed_in.get_by_role("heading", name=heading, exact=True).first).to_be_visible()
    signed_in.wait_for_load_state("networkidle")
    expect(signed_in.get_by_text("Couldn't load")).to_have_count(0)


def test_a_project_without_votes_says_so_everywhere(site: Site, signed_in: Page) -> None:
    site.api().call("POST", "projects", {"name": "Empty", "overlap": 3})
    for path in ("agreement", "ranking", "bias", "worst", "advice"):
        signed_in.goto(f"{site.url}/r/empty/{path}")
        signed_in.wait_for_load_state("networkidle")
        expect(signed_in.get_by_text("Couldn't load")).to_have_count(0)
        text = signed_in.get_by_role("main").inner_text()
        assert (
            "NaN" not in text and "Infinity" not in text and "undefined" not in text.replace("Hatched: undefined", "")
        )
