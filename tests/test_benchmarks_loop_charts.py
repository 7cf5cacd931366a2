"""Pictures of a result: one a chart, the same bytes each time, with all that the chart holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmarks.loop.charts import LINE_SHARE, apart, draw, write_charts
from benchmarks.loop.results import Chart, Kind, Point, Series, XAxis, YAxis
from tests.experiment import METHODS, result


def texts(figure: Figure) -> set[str]:
    figure.draw_without_rendering()
    return {one.get_text() for one in figure.findobj(Text)}


def test_each_chart_is_a_file_named_by_experiment_setting_and_number(tmp_path):
    files = write_charts(result(), tmp_path / "new")
    assert [file.name for file in files] == [f"loop-example-small-{number}.svg" for number in (1, 2, 3)]
    first = files[0].read_text()
    assert first.startswith("<?xml") and "<title>Win rate by method</title>" in first
    assert "date>" not in first


def test_the_same_result_gives_the_same_bytes(tmp_path):
    once, again = (write_charts(result(), tmp_path / name) for name in ("once", "again"))
    assert [file.read_bytes() for file in once] == [file.read_bytes() for file in again]


def test_a_picture_names_axes_series_categories_and_reference_lines():
    bars, curves, draws = result().charts
    shown = texts(draw(bars))
    assert {"Win rate by method", "Method", "chance", "held-out judge", *METHODS} <= shown
    assert {"DPO", "PPO", "SFT", "half of the steps", "Step"} <= texts(draw(curves))
    assert {"expected", "measured", "1", "64"} <= texts(draw(draws))


def test_bars_of_two_series_stand_beside_each_other_at_their_heights():
    (axes,) = draw(result().charts[0]).axes
    one, other = axes.containers
    assert [bar.get_height() for bar in one] == [win for win, *_ in METHODS.values()]
    assert all(left.get_x() + left.get_width() <= right.get_x() for left, right in zip(one, other, strict=True))


def test_six_series_are_told_apart_by_colour_and_dash_together():
    series = [Series(name=f"s{n}", points=[Point(x=0, y=n), Point(x=1, y=n)]) for n in range(6)]
    (axes,) = draw(Chart(title="T", x=XAxis(label="x"), y=YAxis(label="y"), series=series)).axes
    assert len({(line.get_color(), str(line.get_linestyle()), line.get_marker()) for line in axes.lines}) == 6


@pytest.mark.parametrize("kind", [*Kind])
def test_one_point_alone_is_drawn(tmp_path, kind):
    chart = Chart(
        title="T",
        x=XAxis(label="x"),
        y=YAxis(label="y"),
        series=[Series(name="s", kind=kind, points=[Point(x=3, y=1)])],
    )
    (file,) = write_charts(result(charts=[chart]), tmp_path)
    assert Path(file).stat().st_size > 0


def test_names_at_the_ends_keep_their_order_and_their_room():
    assert apart([0.2, 0.8], LINE_SHARE) == [0.2, 0.8]
    near = apart([0.5, 0.51, 0.5], 0.1)
    assert sorted(near) == pytest.approx([0.5, 0.6, 0.7]) and max(near) == near[1]
    assert apart([1.0, 0.99, 0.98], 0.1) == pytest.approx([1.0, 0.9, 0.8])
    assert apart([], 0.1) == []
