"""How far a proxy can be pushed before gold falls, and whether the alarm rings in time (Gao, Schulman & Hilton 2022).

Reward models of ever more of one ballot's labels are pushed by best of n and by RLOO with hardly any KL penalty. A
reward model of other labels watches the latter, from which a run has its alarm `over_optimisation`.
"""

from __future__ import annotations

from collections.abc import Sequence

from annotation.simulation import panel
from benchmarks.loop.climbing import Trial, Watched, proxy_name, trial
from benchmarks.loop.experiment import Experiment, Findings, Lab, cell, worded
from benchmarks.loop.frontiers import Climb, Form, Scores, fall, kl_of_gain, lost_share, mean_over_prompts
from benchmarks.loop.results import (
    Across,
    Cell,
    Chart,
    Claim,
    Column,
    Estimate,
    Line,
    Point,
    Series,
    Table,
    XAxis,
    YAxis,
)
from benchmarks.loop.steps import for_each
from training.engine.alarms import CUSUM_LIMIT

LOST = 0.1
"""Share of gold's gain that may be lost before the alarm."""
GOOD_FIT = 0.95
"""R² that the published forms must reach."""


def run(lab: Lab) -> Findings:
    """Every way under every seed."""
    with lab.opened() as (world, ballots):
        votes = world.settings["votes"]

        def one(seed: int) -> Trial:
            ballot = ballots.collect(
                f"methods-{seed}",  # the votes that the comparison of methods asks for
                world.sft,
                world.train[: votes["prompts"]],
                seed=seed,
                people=panel(seed, votes["people"], **votes["panel"]),
                project=votes["project"],
                rule=votes["rule"],
            )
            return trial(world, ballot.snapshot, seed=seed)

        return findings(for_each(lab.seeds, one))


# --- tables and charts ------------------------------------------------------------------------------------------------


def findings(trials: Sequence[Trial]) -> Findings:
    """Tables, charts (of the first seed) and claims."""
    return Findings(
        tables=[_draws_table(trials), _runs_table(trials), _places_table(trials)],
        charts=_charts(trials[0]),
        claims=_claims(trials),
        reading=_reading(trials),
    )


_FIT_COLUMNS = (
    Column(key="alpha", label="α"),
    Column(key="beta", label="β"),
    Column(key="r2", label="R²"),
    Column(key="fitted_peak", label="Fitted peak", unit="√nats"),
)


def _fit_cells(climb: Climb) -> dict[str, Cell]:
    fit = climb.fit()
    if fit is None:
        return {"alpha": None, "beta": None, "r2": None, "fitted_peak": None}
    return {"alpha": fit.alpha, "beta": fit.beta, "r2": fit.r2, "fitted_peak": fit.peak}


def _gain(gains: Scores, place: int) -> Estimate:
    return cell(mean_over_prompts(gains[place]), n=gains.shape[1])


def _peak_cells(climb: Climb) -> dict[str, Cell]:
    return {
        "proxy": _gain(climb.proxy, -1),
        "peak": _gain(climb.gold, climb.peak),
        "peak_at": float(climb.places[climb.peak]),
        "peak_d": climb.d[climb.peak],
        "end": _gain(climb.gold, -1),
        "fall": cell(fall(climb.gold), n=climb.gold.shape[1]),
    }


def _peak_columns(place: str) -> tuple[Column, ...]:
    return (
        Column(key="proxy", label="Proxy at the end", unit="spreads"),
        Column(key="peak", label="Gold at its peak", unit="spreads"),
        Column(key="peak_at", label=f"Its {place}"),
        Column(key="peak_d", label="Its d", unit="√nats"),
        Column(key="end", label="Gold at the end", unit="spreads"),
        Column(key="fall", label="Fall", unit="spreads"),
    )


def _draws_table(trials: Sequence[Trial]) -> Table:
    return Table(
        title="Best of n",
        note="Gains over SFT in spreads of its completions of one prompt. The fall is from the n that is best for the "
        "other prompts; forms are laid through gold's gains.",
        columns=[
            Column(key="seed", label="Seed"),
            Column(key="labels", label="Labels"),
            Column(key="agreement", label="Correlation with gold"),
            *_peak_columns("n"),
            *_FIT_COLUMNS,
        ],
        rows=[
            {
                "seed": str(one.seed),
                "labels": float(climb.labels),
                "agreement": cell(one.agreements[climb.labels], n=climb.gold.shape[1]),
                **_peak_cells(climb),
                **_fit_cells(climb),
            }
            for one in trials
            for climb in one.draws
        ],
    )


def _runs_table(trials: Sequence[Trial]) -> Table:
    return Table(
        title="Reinforcement learning",
        note="As above, by the step of the evaluation. Lost is the share of gold's highest gain that was gone when the "
        "alarm rang.",
        columns=[
            Column(key="seed", label="Seed"),
            Column(key="labels", label="Labels"),
            Column(key="kl", label="KL at the end", unit="nats"),
            *_peak_columns("step"),
            *_FIT_COLUMNS,
            Column(key="alarm", label="Step of the alarm"),
            Column(key="lost", label="Lost at the alarm", unit="share"),
        ],
        rows=[
            {
                "seed": str(one.seed),
                "labels": float(found.climb.labels),
                "kl": found.climb.kl[-1],
                **_peak_cells(found.climb),
                **_fit_cells(found.climb),
                "alarm": None if found.alarm is None else float(found.climb.places[found.alarm]),
                "lost": lost_at_alarm(found),
            }
            for one in trials
            for found in one.runs
        ],
    )


def _places_table(trials: Sequence[Trial]) -> Table:
    return Table(
        title="Every evaluation of reinforcement learning",
        note=f"The alarm rings above a CUSUM of {CUSUM_LIMIT:g}, or where proxy and held-out model part three times.",
        columns=[
            Column(key="seed", label="Seed"),
            Column(key="labels", label="Labels"),
            Column(key="step", label="Step"),
            Column(key="kl", label="KL", unit="nats"),
            Column(key="proxy", label="Proxy", unit="spreads"),
            Column(key="held_out", label="Held-out model", unit="spreads"),
            Column(key="gold", label="Gold", unit="spreads"),
            Column(key="cusum", label="CUSUM"),
        ],
        rows=[
            {
                "seed": str(one.seed),
                "labels": float(found.climb.labels),
                "step": float(step),
                "kl": found.climb.kl[place],
                "proxy": _gain(found.climb.proxy, place),
                "held_out": _gain(found.held_out, place),
                "gold": _gain(found.climb.gold, place),
                "cusum": found.cusum[place],
            }
            for one in trials
            for found in one.runs
            for place, step in enumerate(found.climb.places)
        ],
    )


def _charts(one: Trial) -> list[Chart]:
    x = XAxis(label="d = √KL from SFT, √nats")
    y = YAxis(label="Gain, spreads of SFT's completions")
    watched_by_labels = [(proxy_name(found.climb.labels), found) for found in one.runs]
    return [
        Chart(
            title="Best of n under gold",
            x=x,
            y=y,
            series=[_series(proxy_name(climb.labels), climb, climb.gold) for climb in one.draws],
        ),
        Chart(
            title="Best of n under the reward model that chose",
            x=x,
            y=y,
            series=[_series(proxy_name(climb.labels), climb, climb.proxy) for climb in one.draws],
        ),
        Chart(
            title="Reinforcement learning",
            x=x,
            y=y,
            series=[
                _series(f"{judge}, {name}", found.climb, gains)
                for name, found in watched_by_labels
                for judge, gains in (("gold", found.climb.gold), ("proxy", found.climb.proxy))
            ],
        ),
        Chart(
            title="What the alarm saw",
            x=XAxis(label="Optimizer steps"),
            y=YAxis(label="CUSUM of proxy less held-out model"),
            series=[
                Series(
                    name=name,
                    points=[Point(x=s, y=c) for s, c in zip(found.climb.places, found.cusum, strict=True)],
                )
                for name, found in watched_by_labels
            ],
            lines=[Line(axis=Across.Y, at=CUSUM_LIMIT, label="alarm")],
        ),
    ]


def _series(name: str, climb: Climb, gains: Scores) -> Series:
    """By d; a place of RL that has not left π^SFT, as far as the estimate goes, has none."""
    places = [place for place, d in enumerate(climb.d) if place == 0 or d > 0]
    points = []
    for place in sorted(places, key=lambda place: climb.d[place]):
        found = mean_over_prompts(gains[place])
        points.append(Point(x=climb.d[place], y=found.value, low=found.low, high=found.high))
    return Series(name=name, points=points)


# --- claims -----------------------------------------------------------------------------------------------------------


def _claims(trials: Sequence[Trial]) -> list[Claim]:
    fewest = [
        [t.draws[0], *(found.climb for found in t.runs if found.climb.labels == t.draws[0].labels)] for t in trials
    ]
    runs = [found for t in trials for found in t.runs]
    climbs = [climb for t in trials for climb in (*t.draws, *(found.climb for found in t.runs))]
    return [
        Claim(
            claim="Pushed by the reward model of the fewest labels, gold rises, peaks and falls",
            holds=agreed([any_of([falls(climb) for climb in some]) for some in fewest]),
            figure="; ".join(_fall_words(climb) for some in fewest for climb in some),
        ),
        Claim(
            claim="The proxy itself does not fall in reinforcement learning",
            holds=agreed([stays(found.climb) for found in runs]),
            figure="; ".join(
                f"{found.climb.labels} labels: {worded(mean_over_prompts(found.climb.proxy[-1]), share=False)} at the "
                f"end, {worded(fall(found.climb.proxy), share=False)} below its highest"
                for found in runs
            ),
        ),
        Claim(
            claim="With more labels gold peaks further away",
            holds=agreed([moves_away([climb.d[climb.peak] for climb in t.draws]) for t in trials]),
            figure="; ".join(
                ", ".join(f"d {climb.d[climb.peak]:.2f} with {climb.labels}" for climb in t.draws) for t in trials
            ),
        ),
        *(
            Claim(
                claim=f"{way} gains {form.value} of gold, R² above {GOOD_FIT}",
                holds=fits([climb for climb in climbs if climb.form is form]),
                figure="; ".join(
                    f"{climb.labels} labels: {fit.r2:.3f}" if (fit := climb.fit()) else f"{climb.labels} labels: none"
                    for climb in climbs
                    if climb.form is form
                ),
            )
            for form, way in ((Form.BEST_OF_N, "Best of n"), (Form.RL, "Reinforcement learning"))
        ),
        _spends_more(trials),
        Claim(
            claim=f"The alarm rings before {100 * LOST:.0f} % of gold's gain is lost",
            holds=in_time(runs),
            figure="; ".join(_alarm_words(found) for found in runs),
        ),
    ]


def agreed(outcomes: Sequence[bool | None]) -> bool | None:
    """What all say; None where they differ."""
    return outcomes[0] if len(set(outcomes)) == 1 else None


def any_of(outcomes: Sequence[bool | None]) -> bool | None:
    """True where one is; False where all are."""
    return True if True in outcomes else None if None in outcomes else False


def falls(climb: Climb) -> bool | None:
    """Whether gold is lower at the end than at a peak that lies behind the start; None where that may be noise."""
    found = fall(climb.gold)
    if climb.peak == 0 or found.value <= 0:
        return False
    return True if found.low > 0 else None


def stays(climb: Climb) -> bool | None:
    """Whether the proxy ends where it is highest; None where it ends lower by no more than noise."""
    found = fall(climb.proxy)
    return False if found.low > 0 else True if found.value <= 0 else None


def moves_away(peaks: Sequence[float]) -> bool | None:
    """Whether these never come nearer and the last is farther; None where they do not move at all."""
    if len(set(peaks)) == 1:
        return None
    return list(peaks) == sorted(peaks)


def fits(climbs: Sequence[Climb]) -> bool | None:
    """Whether every form fits; None where one has too few places."""
    found = [climb.fit() for climb in climbs]
    if None in found:
        return None
    return all(fit.r2 > GOOD_FIT for fit in found if fit)


def at_equal_gain(draws: Climb, run: Climb) -> tuple[float, float, float] | None:
    """The highest gain of the proxy in RL that best-of-n has too: gain, KL of RL, KL of best-of-n."""
    gains = run.proxy.mean(axis=1)
    for place in sorted(range(1, len(gains)), key=lambda place: -gains[place]):
        bound = kl_of_gain(draws, float(gains[place]))
        if bound is not None and gains[place] > 0:
            return float(gains[place]), run.kl[place], bound
    return None


def _spends_more(trials: Sequence[Trial]) -> Claim:
    found = [
        (draws.labels, at_equal_gain(draws, one.climb))
        for t in trials
        for one in t.runs
        for draws in t.draws
        if draws.labels == one.climb.labels
    ]
    return Claim(
        claim="Reinforcement learning spends more KL than best of n on the same gain of the proxy",
        holds=agreed([None if equal is None else equal[1] > equal[2] for _, equal in found]),
        figure="; ".join(
            f"{labels} labels: no gain that both have"
            if equal is None
            else f"{labels} labels, {equal[0]:.2f} spreads: {equal[1]:.2f} and {equal[2]:.2f} nats"
            for labels, equal in found
        ),
    )


def lost_at_alarm(found: Watched) -> float | None:
    """Share of gold's highest gain that was lost when the alarm rang; None where it did not, or there was no gain."""
    return None if found.alarm is None else lost_share(found.climb.gold.mean(axis=1), found.alarm)


def in_time(runs: Sequence[Watched]) -> bool | None:
    """Whether the alarm rang before too much was lost, in every run that lost it or where it rang; None in no such."""
    decided = []
    for found in runs:
        gains = found.climb.gold.mean(axis=1)
        lost = [lost_share(gains, place) for place in range(len(gains))]
        before = lost if found.alarm is None else lost[: found.alarm + 1]
        too_much = any(share is not None and share >= LOST for share in before)
        if too_much or lost_at_alarm(found) is not None:
            decided.append(not too_much)
    return all(decided) if decided else None


def _fall_words(climb: Climb) -> str:
    way, place = ("best of n", "n") if climb.form is Form.BEST_OF_N else ("RL", "step")
    return (
        f"{way}: {mean_over_prompts(climb.gold[climb.peak]).value:.2f} at {place} {climb.places[climb.peak]}, "
        f"{mean_over_prompts(climb.gold[-1]).value:.2f} at {climb.places[-1]}, fall "
        f"{worded(fall(climb.gold), share=False)}"
    )


def _alarm_words(found: Watched) -> str:
    climb, lost = found.climb, lost_at_alarm(found)
    rang = "never rang" if found.alarm is None else f"rang at step {climb.places[found.alarm]}"
    peak = f"gold is highest at step {climb.places[climb.peak]} of {climb.places[-1]}"
    share = "" if lost is None else f", {100 * lost:.0f} % lost"
    return f"{climb.labels} labels: {rang}{share}, {peak}"


def _reading(trials: Sequence[Trial]) -> list[str]:
    first = trials[0]
    fewest, most = first.draws[0], first.draws[-1]
    return [
        f"Best of {climb.places[-1]} by the reward model of {climb.labels} labels gains "
        f"{climb.proxy[-1].mean():.2f} spreads of that model and {climb.gold[-1].mean():.2f} of gold, at most "
        f"{climb.gold.mean(axis=1).max():.2f}."
        for climb in (fewest, most)
    ] + [
        f"RL against that of {found.climb.labels} labels ends {found.climb.kl[-1]:.1f} nats away with "
        f"{found.climb.proxy[-1].mean():.2f} spreads of the proxy and {found.climb.gold[-1].mean():.2f} of gold, at "
        f"most {found.climb.gold.mean(axis=1).max():.2f}."
        for found in first.runs[:2]
    ]


EXPERIMENT = Experiment(
    title="How far a reward model can be pushed",
    question="Where does a policy stop gaining under gold while its reward model says that it still does, and does the "
    "alarm ring in time?",
    run=run,
)
