"""What makes a champion stale: days scored, the clock, the market itself."""

import numpy as np
import pandas as pd
import pytest

from liquidity.contract import FORECAST_FEATURES
from liquidity.data.market import read_market
from liquidity.forecast.weekdays import weekday_profile
from liquidity.model.model import HISTORY_FEATURES
from liquidity.monitor import drift, market
from liquidity.monitor.outcomes import DayFigures, day_figures, pooled

COVERAGE = 0.9


def days(*pairs, rows=200):
    """DayFigures of pairs (skill, coverage), one after the other."""
    return [
        DayFigures(
            target=20_000 + number,
            rows=rows,
            error=rows * (1 - skill),
            persistence=float(rows),
            har=float(rows),
            spread=2.0 * rows,
            inside=round(coverage * rows),
            brier=0.0,
        )
        for number, (skill, coverage) in enumerate(pairs)
    ]


GOOD, WORSE, WIDE, NARROW = (0.2, 0.9), (-0.1, 0.9), (0.2, 1.0), (0.2, 0.74)


@pytest.mark.parametrize(
    ("pairs", "kind"),
    [
        ([GOOD] * 7, None),
        ([], None),
        ([WORSE, WORSE, WORSE, GOOD, GOOD, WORSE], "skill"),
        ([WORSE, WORSE, WORSE, WORSE, GOOD], None),  # the latest is fine
        ([WORSE, WORSE, GOOD, GOOD, GOOD, GOOD, WORSE], None),  # three are no four
        ([WORSE, WORSE, WORSE, *[GOOD] * 6, WORSE], None),  # long ago
        ([NARROW] * 4, "coverage"),
        ([NARROW, WORSE, NARROW, NARROW], "skill"),
        ([WIDE] * 4, "coverage"),
        ([*[GOOD] * 6, (0.2, 0.69)], "coverage"),  # one day is enough
        ([(0.2, 0.69), GOOD], None),
    ],
)
def test_bad_days_among_the_last_ones_make_a_champion_stale(pairs, kind):
    found = drift.judge_days(days(*pairs), COVERAGE, {})
    assert [finding.kind for finding in found] == ([kind] if kind else [])
    assert all(finding.retrain for finding in found)


def test_a_day_of_few_coins_is_not_judged():
    assert not drift.judge_days(days(*[WORSE] * 7, rows=drift.LEAST_ROWS - 1), COVERAGE, {})


def test_the_limits_follow_the_models_own_coverage():
    assert not drift.judge_days(days(*[(0.2, 0.7)] * 7), 0.8, {})


def test_a_finding_says_what_in_numbers():
    (found,) = drift.judge_days(days(WORSE, GOOD, NARROW, WORSE, WORSE), COVERAGE, {})
    assert found.said == (
        "worse than today's liquidity on 3 and with a coverage outside 75 % to 98.5 % on 1 of the "
        "last 5 scored days, the latest included"
    )


def test_a_day_on_which_prices_moved_too_is_the_markets_own():
    some = days(*[GOOD] * 6, (0.2, 0.5))
    assert drift.judge_days(some, COVERAGE, {some[-1].target: drift.STORM - 0.01})
    assert not drift.judge_days(some, COVERAGE, {some[-1].target: drift.STORM})
    assert drift.judge_days(days(*[(0.2, 0.5)] * 4), COVERAGE, {some[3].target: 0.2})


def test_how_far_prices_went_is_a_median_over_coins():
    day = pd.Timestamp("2026-01-01") + pd.to_timedelta([0, 0, 0, 1, 1, 1, 3], unit="D")
    frame = pd.DataFrame({"date": day, "coin": list("abcabca"), "mkt_cap": 1.0, "24h_volume": 1.0})
    frame["price"] = [1.0, 1.0, 1.0, 1.1, 1 / 1.2, 9.0, 5.0]
    moves = drift.price_moves(market.from_frame(frame), 30)
    assert {day: round(move, 6) for day, move in moves.items()} == {20455: 0.2}


def test_days_add_up():
    table = pd.DataFrame(
        {
            "liquidity": [0.1, 0.2, 0.3, 0.4], "lower": [0.05, 0.1, 0.2, 0.3],
            "upper": [0.2, 0.3, 0.4, 0.5], "p_high": [0.0, 0.1, 0.2, 0.3],
            "persistence": [0.2, 0.1, 0.3, 0.8], "har": [0.1, np.nan, 0.3, 0.4],
            "actual": [0.15, 0.6, np.nan, 0.45],
        }
    )  # fmt: skip
    both = day_figures(0, table, 0.5)
    assert both.rows == 3
    assert both.inside == 2
    assert both.brier == pytest.approx(0.0 + 0.9**2 + 0.3**2)
    apart = [day_figures(0, table.iloc[rows], 0.5) for rows in ([0], [1, 2, 3])]
    for name in ("live_rows", "live_coverage", "live_brier", "live_skill"):
        assert pooled(apart)[name] == pytest.approx(both.figures[name]), name
    assert np.isnan(both.figures["live_har_skill"])
    assert day_figures(0, table.iloc[[2]], 0.5) is None


@pytest.mark.parametrize(
    ("lags", "found"),
    [
        ([1] * 20 + [2] * 3, True),
        ([1] * 20 + [0] * 3, True),
        ([1] * 20 + [2] * 2, False),
        ([1] * 20 + [2, 1, 2], False),
        ([1] * 20 + [4] * 3, False),  # fetching was away
        ([1] * 5 + [2] * 3, False),  # too early to know what is usual
        ([1, 2] * 10 + [2] * 3, False),  # nothing is usual
        ([], False),
    ],
)
def test_days_that_lie_otherwise_to_the_clock_are_found(lags, found):
    assert bool(drift.judge_clock(lags)) == found


def test_an_old_version_is_trained_again():
    assert not drift.judge_age(20_000, 20_000 + drift.OLDEST)
    (finding,) = drift.judge_age(20_000, 20_001 + drift.OLDEST)
    assert finding.retrain


def test_a_forecast_that_nobody_makes_any_more_is_found():
    assert not drift.judge_forecasts([100], 103)
    assert "no forecast was made since 1970-04-11" in drift.judge_forecasts([100], 104)[0].said
    assert drift.judge_forecasts([], 104)


@pytest.fixture(scope="module")
def some(panel):
    """The synthetic market's last 30 days, and its last day."""
    frame, _ = read_market(panel[1], required=FORECAST_FEATURES)
    whole = market.from_frame(frame)
    return whole.frame.iloc[whole.rows(whole.last - 29, whole.last)], whole.last


def judge(frame, today, **columns):
    frame = frame.assign(**columns).reset_index(drop=True)
    return drift.judge_market(market.from_frame(frame), today)


def test_a_market_as_it_should_be_has_nothing_wrong(some):
    frame, last = some
    assert judge(frame, last + 1) == []
    assert judge(frame, last + drift.LATE) == []


@pytest.mark.parametrize("column", FORECAST_FEATURES)
@pytest.mark.parametrize("factor", [100, 0.01])
def test_a_column_in_another_unit_is_named(some, column, factor):
    frame, last = some
    newest = frame["date"] >= frame["date"].max() - pd.Timedelta(days=2)
    found = judge(frame, last + 1, **{column: frame[column].where(~newest, factor * frame[column])})
    assert [finding.kind for finding in found] == ["units"]
    assert found[0].said.startswith(f"{column} of ")
    assert not found[0].retrain


def test_changes_in_percent_are_named(some):
    frame, last = some
    change = pd.Series(np.random.default_rng(0).normal(0, 0.01, len(frame)), frame.index)
    assert judge(frame, last + 1, **{"1h": change}) == []
    newest = frame["date"] == frame["date"].max()
    found = judge(frame, last + 1, **{"1h": change.where(~newest, 100 * change)})
    assert "write 1h as a fraction" in found[0].cure


def test_snapshots_that_do_not_come_are_found(some):
    frame, last = some
    (late,) = judge(frame, last + drift.LATE + 1)
    assert "the newest snapshot is of 2026-06-30, 4 days ago" in late.said
    day = frame["date"].max() - frame["date"]
    holes = frame[~day.dt.days.isin([1, 3, 4])]
    (missing,) = judge(holes, last + 1)
    assert missing.said == (
        "3 of the last 7 days have no snapshot: 2026-06-26, 2026-06-27, 2026-06-29"
    )
    assert judge(frame[~day.dt.days.isin([1, 3])], last + 1) == []


def test_days_that_mean_other_days_are_found_by_their_weekdays(panel):
    frame, _ = read_market(panel[1], required=FORECAST_FEATURES)
    whole = market.from_frame(frame)
    rows, before = drift._pairs(whole, 149)
    profile = weekday_profile(whole.day[rows], whole.level[rows] - whole.level[before])
    assert drift.judge_weekdays(whole, profile) == []
    assert drift.judge_weekdays(whole, None) == []
    moved = market.Market(whole.frame, whole.day + 1, whole.level)
    (found,) = drift.judge_weekdays(moved, profile)
    assert found.cure == "if that is so, use --day-shift -1"


def test_features_that_have_moved_are_told_and_decide_nothing():
    random = np.random.default_rng(0)
    known = random.normal(size=5000)
    quantiles = {HISTORY_FEATURES[0]: np.quantile(known, np.linspace(0, 1, 21)).tolist()}
    quantiles[HISTORY_FEATURES[-1]] = np.quantile(np.arange(7), np.linspace(0, 1, 21)).tolist()
    X = np.full((2000, len(HISTORY_FEATURES)), np.nan)
    X[:, 0] = random.normal(size=2000)
    same = drift.feature_drift(quantiles, X)
    X[:, 0] += 1
    moved = drift.feature_drift(quantiles, X)
    assert list(same.index) == [HISTORY_FEATURES[0]]
    assert same.loc["l0", "psi"] < 0.05 < 0.5 < moved.loc["l0", "psi"]
    assert moved.loc["l0", "wasserstein"] == pytest.approx(1 / 1.35, abs=0.1)
    X[:, -1] = 3.0  # a single weekday
    assert np.isfinite(drift.feature_drift(quantiles, X).loc["dow", "psi"])
