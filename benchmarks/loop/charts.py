"""Charts of a result as pictures for documents: one SVG each, the same bytes for the same result.

They look as on the page of experiments: its colours, dashes and marks, intervals as whiskers, a name at the end of each
curve. The ground is white, so that they read on a dark page too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.loop.results import Across, Chart, Kind, Result, Scale, Series

TEXT, MUTED, LINE = "#17202a", "#52606d", "#d3d9e0"  # the light colours of ui/tokens.css
COLOURS = ("#0b63a5", "#a04a00", "#cc3377", "#17202a", "#b8860b")
DASHES: tuple[tuple[float, tuple[float, ...] | None], ...] = (
    (0, None), (0, (6, 4)), (0, (2, 3)), (0, (10, 3, 2, 3)), (0, (1, 4)),
)  # fmt: skip
MARKS = ("o", "s", "D", "^", "v")
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx")
FEW_PLACES = 8  # of an axis: named themselves, with whiskers; more have round numbers and a band around the line
LINE_SHARE = 0.06  # of the height, that a line of text takes
LONG_NAMES = 62  # characters of all categories together that fit side by side

STYLE = {
    "svg.hashsalt": "winnow",  # else the ids inside are drawn at random
    "font.size": 10,
    "text.color": TEXT,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "hatch.linewidth": 0.8,
}


def write_charts(result: Result, directory: Path) -> list[Path]:
    """Every chart of a result as `loop-<experiment>-<setting>-<number>.svg`, in their order from 1."""
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for number, chart in enumerate(result.charts, start=1):
        file = directory / f"loop-{result.experiment}-{result.setting}-{number}.svg"
        with mpl.rc_context(STYLE):
            draw(chart).savefig(file, metadata={"Date": None, "Title": chart.title, "Creator": None})
        files.append(file)
    return files


def draw(chart: Chart) -> Figure:
    """The picture of one chart."""
    figure = Figure(figsize=(7.6, 4.2), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08), facecolor="white")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_title(chart.title, loc="left", fontsize=11, fontweight="bold", pad=12)
    axes.set_xlabel(chart.x.label)
    axes.set_ylabel(chart.y.label)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    if chart.x.scale == Scale.CATEGORY:
        _over_names(axes, chart)
    else:
        _over_numbers(axes, chart)
    for line in chart.lines:
        across = axes.axvline if line.axis == Across.X else axes.axhline
        across(line.at, color=MUTED, linewidth=1, linestyle=(0, (3, 3)), zorder=1.5)
    _label_lines(axes, chart)
    if chart.x.scale == Scale.CATEGORY:
        if len(chart.series) > 1:
            figure.legend(loc="outside upper right", ncols=min(3, len(chart.series)), frameon=False, labelcolor=TEXT)
    else:
        _label_ends(axes, chart)
    return figure


def _over_numbers(axes: Axes, chart: Chart) -> None:
    if chart.x.scale == Scale.LOG:
        axes.set_xscale("log")
    places = sorted({float(point.x) for one in chart.series for point in one.points})
    least = min((after - before for before, after in pairwise(places)), default=1.0)
    if chart.x.scale == Scale.LOG or len(places) <= FEW_PLACES:
        axes.xaxis.set_major_locator(FixedLocator(_with_room(places, is_log=chart.x.scale == Scale.LOG)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    bars = [one for one in chart.series if one.kind == Kind.BARS]
    width = 0.8 * least / max(1, len(bars))
    for index, one in enumerate(chart.series):
        shift = _beside(one, bars) * width
        _draw_series(axes, one, index, [float(point.x) + shift for point in one.points], width=width)


def _beside(one: Series, others: Sequence[Series]) -> float:
    """How many widths a series stands beside its place, so that those that stand at one place are around it."""
    return others.index(one) - (len(others) - 1) / 2 if one in others else 0.0


def _with_room(places: Sequence[float], *, is_log: bool) -> list[float]:
    """Those of the ascending places whose names do not touch, the last one among them."""
    length = places[-1] / places[0] if is_log else places[-1] - places[0]
    room = length ** (1 / FEW_PLACES) * 0.99 if is_log else length / FEW_PLACES * 0.99
    kept = [places[-1]]
    for place in reversed(places[:-1]):
        if (kept[-1] / place if is_log else kept[-1] - place) >= room:
            kept.append(place)
    return kept[::-1]


def _over_names(axes: Axes, chart: Chart) -> None:
    names = [*dict.fromkeys(str(point.x) for one in chart.series for point in one.points)]
    upright = [one for one in chart.series if one.kind != Kind.LINE]  # a line leads from name to name
    width = 0.76 / max(1, len(upright))
    for index, one in enumerate(chart.series):
        shift = _beside(one, upright) * width
        _draw_series(axes, one, index, [names.index(str(point.x)) + shift for point in one.points], width=width * 0.94)
    long = sum(map(len, names)) > LONG_NAMES
    axes.set_xticks(range(len(names)), names, rotation=35 if long else 0, ha="right" if long else "center")
    axes.set_xlim(-0.6, len(names) - 0.4)


def _draw_series(axes: Axes, series: Series, index: int, xs: Sequence[float], *, width: float) -> None:
    colour, turn = COLOURS[index % len(COLOURS)], index + index // len(COLOURS)
    ys = [point.y for point in series.points]
    if series.kind == Kind.BARS:
        face, hatch = (colour, "") if turn % len(HATCHES) == 0 else ("white", HATCHES[turn % len(HATCHES)])
        axes.bar(xs, ys, width=width, facecolor=face, edgecolor=colour, hatch=hatch, linewidth=1.2, label=series.name)
    else:
        is_line = series.kind == Kind.LINE
        axes.plot(
            xs, ys, color=colour, label=series.name, linewidth=2,
            linestyle=DASHES[turn % len(DASHES)] if is_line else "",
            marker=MARKS[turn % len(MARKS)], markersize=5, markerfacecolor="white" if turn % 2 else colour,
        )  # fmt: skip
    bounds = [
        (x, point.low, point.high)
        for x, point in sorted(zip(xs, series.points, strict=True), key=lambda pair: pair[0])
        if point.low is not None and point.high is not None
    ]
    if not bounds:
        return
    at, lows, highs = zip(*bounds, strict=True)
    if series.kind == Kind.LINE and len(at) > FEW_PLACES:
        axes.fill_between(at, lows, highs, color=colour, alpha=0.15, linewidth=0)
        return
    whisker = TEXT if series.kind == Kind.BARS else colour
    axes.vlines(at, lows, highs, color=whisker, linewidth=1.2)
    axes.plot([*at, *at], [*lows, *highs], linestyle="", marker="_", markersize=6, color=whisker)


def _label_lines(axes: Axes, chart: Chart) -> None:
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    for line in chart.lines:
        lies = line.axis == Across.Y
        axes.annotate(
            line.label, (1, line.at) if lies else (line.at, 1),
            xycoords=("axes fraction", "data") if lies else ("data", "axes fraction"),
            xytext=(-4, 4) if lies else (4, -11), textcoords="offset points",
            ha="right" if lies else "left", color=MUTED, fontsize=9, bbox=ground, zorder=5,
        )  # fmt: skip


def _label_ends(axes: Axes, chart: Chart) -> None:
    """The name of each series beside the right edge, at the height of its last point or as near as there is room."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top)
    last = [max(one.points, key=lambda point: float(point.x)).y for one in chart.series]
    heights = apart([(y - bottom) / (top - bottom) for y in last], LINE_SHARE)
    for index, (one, height) in enumerate(zip(chart.series, heights, strict=True)):
        colour = COLOURS[index % len(COLOURS)]
        axes.annotate(
            one.name, (1, height), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points", va="center",
            color=colour, annotation_clip=False,
        )  # fmt: skip


def apart(places: Sequence[float], least: float) -> list[float]:
    """The same places in their order, moved so that no two of them are nearer than `least`."""
    moved = list(places)
    ranked = sorted(range(len(places)), key=lambda index: places[index])
    for before, after in pairwise(ranked):
        moved[after] = max(moved[after], moved[before] + least)
    if ranked:
        # What was pushed out at the top goes back down, and pushes the others with it.
        moved[ranked[-1]] = min(moved[ranked[-1]], max(1.0, least * (len(places) - 1)))
    for after, before in pairwise(ranked[::-1]):
        moved[before] = min(moved[before], moved[after] - least)
    return moved
