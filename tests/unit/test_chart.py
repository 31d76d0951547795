"""A chart as it comes, and one row a day of it."""

from datetime import UTC, datetime

import pytest

from liquidity.data.chart import DAY, daily_rows

NOW = datetime(2026, 11, 26, 15, 23, tzinfo=UTC)
MIDNIGHT = 20_783 * DAY  # 2026-11-26, so of the 25th
HOUR = DAY // 24


def chart(*points):
    """A chart of points (milliseconds, price, volume, cap)."""
    names = ("prices", "total_volumes", "market_caps")
    return {name: [[p[0], p[n]] for p in points] for n, name in enumerate(names, 1)}


def rows(*points):
    found, odd = daily_rows(chart(*points), now=NOW)
    assert odd == []
    return found


def test_a_point_at_midnight_is_of_the_day_that_it_closes():
    points = [(MIDNIGHT - DAY, 1, 10, 100), (MIDNIGHT, 2, 20, 200)]
    assert rows(*points) == [["2026-11-24", 1.0, 10.0, 100.0], ["2026-11-25", 2.0, 20.0, 200.0]]
    assert rows(*points[::-1]) == rows(*points), "in the order of the days"


@pytest.mark.parametrize(
    ("hours", "day"), [(0.001, 25), (6, 25), (11.999, 25), (12, 26), (15.38, 26)]
)
def test_any_other_time_is_of_the_day_twelve_hours_before(hours, day):
    (row,) = rows((MIDNIGHT + round(hours * HOUR), 1, 10, 100))
    assert row[0] == f"2026-11-{day}"


def test_a_live_last_point_is_a_row_only_where_its_day_has_not_ended():
    last = (MIDNIGHT, 2, 20, 200)
    assert [r[1] for r in rows(last, (MIDNIGHT + 6 * HOUR, 3, 30, 300))] == [2]
    assert [r[1] for r in rows(last, (MIDNIGHT + 15 * HOUR, 3, 30, 300))] == [2, 3]


def test_of_hourly_points_the_one_nearest_to_the_days_end_counts():
    hours = [(MIDNIGHT + h * HOUR + 240_000, h + 30, 1, 1) for h in range(-30, 12)]
    found = rows(*hours)
    assert [(row[0], row[1]) for row in found] == [("2026-11-24", 6), ("2026-11-25", 30)]
    # The same days by the day: the same rows.
    assert rows((MIDNIGHT - DAY, 6, 1, 1), (MIDNIGHT, 30, 1, 1)) == found


def test_a_point_that_knows_more_counts_more_than_a_nearer_one():
    near, far = (MIDNIGHT, 2, 20, None), (MIDNIGHT - HOUR, 1, 10, 100)
    assert rows(near, far) == [["2026-11-25", 1.0, 10.0, 100.0]]
    assert rows(near) == [["2026-11-25", 2.0, 20.0, None]]
    assert rows((MIDNIGHT, None, None, None)) == []


def test_a_cap_of_zero_is_unknown_and_a_volume_of_zero_is_none():
    assert rows((MIDNIGHT, 0, 0, 0)) == [["2026-11-25", 0.0, 0.0, None]]


def test_no_points_are_no_rows():
    assert rows() == []


@pytest.mark.parametrize(
    ("value", "said"),
    [(-5, "-5"), (1e30, "1e+30"), (10**400, "1000"), (float("nan"), "NaN"), (True, "true"),
     ("9", '"9"'), ([], r"\[\]"), ({}, "{}")],
)  # fmt: skip
def test_a_value_against_the_rules_is_unknown_and_named(value, said):
    found, odd = daily_rows(chart((MIDNIGHT, 1, 10, value)), now=NOW)
    assert found == [["2026-11-25", 1.0, 10.0, None]]
    assert len(odd) == 1
    assert odd[0].startswith("market_caps: 2026-11-25: expected a number > 0, at most 1e+18, got ")
    assert said.replace("\\", "") in odd[0]


@pytest.mark.parametrize(
    "point",
    [None, 5, [], [MIDNIGHT], [MIDNIGHT, 1, 2], ["now", 1], [None, 1], [True, 1], [1e300, 1],
     [float("inf"), 1], [-(10**400), 1], [MIDNIGHT // 1000, 1], [MIDNIGHT + 3 * DAY, 1]],
)  # fmt: skip
def test_a_point_without_a_time_is_left_out_and_named(point):
    good = chart((MIDNIGHT, 1, 10, 100))
    good["prices"].insert(0, point)
    found, odd = daily_rows(good, now=NOW)
    assert found == [["2026-11-25", 1.0, 10.0, 100.0]]
    assert [each.partition(":")[0] for each in odd] == ["prices"]


@pytest.mark.parametrize(
    "answer", [None, [], 5, "x", {}, {"prices": []}, {**chart(), "market_caps": None}, {"error": 1}]
)
def test_what_is_no_chart_is_said(answer):
    with pytest.raises(ValueError, match="expected prices, total_volumes, market_caps as lists"):
        daily_rows(answer, now=NOW)


def test_a_chart_without_one_point_of_use_is_a_failure():
    with pytest.raises(ValueError, match="none of its points can be used, such as prices"):
        daily_rows(chart((MIDNIGHT // 1000, 1, 10, 100)), now=NOW)


def test_a_chart_of_more_points_than_there_can_be_is_refused():
    with pytest.raises(ValueError, match="expected at most 100,000 points, got 100,001"):
        daily_rows({**chart(), "prices": [[MIDNIGHT, 1]] * 100_001}, now=NOW)
