"""History features: one implementation for panel, request and stream, equal bit for bit."""

import datetime
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liquidity.model import model
from liquidity.model.model import (
    DAYS,
    HISTORY_FEATURES,
    UNKNOWN_COIN,
    UNKNOWN_DAY,
    history_features,
    last_features,
)
from liquidity.scoring.history import DatesFallError, Stream

MONDAY = (datetime.date(2024, 7, 15) - datetime.date(1970, 1, 1)).days


def same(a, b):
    """Equal bit for bit: also the sign of zero counts, and NaN equals NaN."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    a, b = np.where(np.isnan(a), np.nan, a), np.where(np.isnan(b), np.nan, b)
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def take(panel, rows):
    return [values[rows] for values in panel]


def history_of(panel, row, days):
    """Positions of the earlier rows of the row's coin within `days` days that end with its own."""
    coin, day = panel[:2]
    if coin[row] == UNKNOWN_COIN or day[row] == UNKNOWN_DAY:
        return []
    same_coin = (coin == coin[row]) & (day != UNKNOWN_DAY)
    return np.flatnonzero(same_coin & (day < day[row]) & (day > day[row] - days))


def slow_features(coin, day, volume, cap, price):
    """The definition, row by row with dictionaries and math.fsum; follows FORECAST.md."""
    usable = [v >= 0 and c > 0 for v, c in zip(volume, cap, strict=True)]
    out, used = [], []
    for i in range(len(day)):
        known_day = day[i] != UNKNOWN_DAY
        dow = (datetime.date(1970, 1, 1) + datetime.timedelta(int(day[i]))).weekday() \
            if known_day else math.nan  # fmt: skip
        if not usable[i]:
            out.append([math.nan] * 13 + [dow])
            used.append(0)
            continue
        by_age = {}
        if known_day and coin[i] != UNKNOWN_COIN:
            for j in range(len(day)):
                if coin[j] == coin[i] and usable[j] and day[j] != UNKNOWN_DAY:
                    by_age[int(day[i]) - int(day[j])] = j
        by_age = {age: j for age, j in by_age.items() if 0 < age < DAYS} | {0: i}
        L = {age: math.log10(volume[j] / cap[j] + 0.001) for age, j in by_age.items()}
        log_price = {age: math.log10(price[j]) for age, j in by_age.items() if price[j] > 0}
        log_volume = {age: math.log10(volume[j] + 1) for age, j in by_age.items()}
        ew7 = math.fsum(0.75**age * L[age] for age in L) / math.fsum(0.75**age for age in L)

        def mean(days, L=L, ew7=ew7):
            present = [L[age] for age in L if age < days]
            return math.fsum(present) / len(present) - ew7

        changes = [abs(L[age] - L[age + 1]) for age in range(30) if age in L and age + 1 in L]
        week = [L[age] for age in L if age < 7]

        def change(values, age):
            return values[0] - values[age] if 0 in values and age in values else math.nan

        out.append([
            L[0] - ew7, ew7, L[1] - ew7 if 1 in L else math.nan,
            mean(3), mean(7), mean(30), mean(90),
            math.fsum(changes) / len(changes) if len(changes) >= 5 else math.nan,
            statistics.stdev(week) if len(week) >= 3 else math.nan,
            change(log_volume, 1), change(log_price, 1), change(log_price, 7),
            math.log10(cap[i]), dow,
        ])  # fmt: skip
        used.append(len(by_age))
    return np.array(out, float).reshape(-1, len(HISTORY_FEATURES)), np.array(used)


@st.composite
def panels(draw, *, ordered=False, known=False, gaps=True):
    """Rows of up to 4 coins: gaps, duplicates, single days, unknown coins and days, bad values."""
    rows = draw(st.integers(1, 150))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    span = draw(st.sampled_from([1, 3, 10, 40, 150, 400]))
    coin = random.integers(0, draw(st.integers(1, 4)), rows)
    day = MONDAY + random.integers(0, span, rows)
    if draw(st.booleans()):  # long runs of days without a gap, as real panels have
        day = MONDAY + np.arange(rows) // draw(st.integers(1, 4))
    volume = 10 ** random.uniform(0, 9, rows)
    cap = 10 ** random.uniform(5, 11, rows)
    price = 10 ** random.uniform(-8, 4, rows)
    volume[random.random(rows) < 0.05] = 0
    if gaps:
        share = draw(st.sampled_from([0, 0.1, 0.5]))
        cap[random.random(rows) < share] = draw(st.sampled_from([0, -1, np.nan]))
        volume[random.random(rows) < share / 2] = draw(st.sampled_from([np.nan, -1]))
        price[random.random(rows) < share] = draw(st.sampled_from([0, np.nan]))
    if not known:
        coin[random.random(rows) < 0.1] = UNKNOWN_COIN
        day[random.random(rows) < 0.1] = UNKNOWN_DAY
    order = np.argsort(day, kind="stable") if ordered else random.permutation(rows)
    return take((coin, day, volume, cap, price), order)


@settings(max_examples=40, deadline=None)
@given(panels())
def test_features_are_what_the_definition_says(panel):
    X, used = history_features(*panel)
    expected, expected_used = slow_features(*panel)
    np.testing.assert_array_equal(used, expected_used)
    np.testing.assert_allclose(X, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(panels(), st.integers(0, 2**32 - 1))
def test_features_have_the_same_bits_however_the_rows_arrive(panel, seed):
    random = np.random.default_rng(seed)
    coin, day = panel[:2]
    X, used = history_features(*panel)

    # Shuffled, with the rows of one coin and day in their order: the last one has to stay last.
    order = random.permutation(len(day))
    for key in {(c, d) for c, d in zip(coin.tolist(), day.tolist(), strict=True)}:
        where = np.flatnonzero((coin[order] == key[0]) & (day[order] == key[1]))
        order[where] = np.sort(order[where])
    shuffled, shuffled_used = history_features(*take(panel, order))
    assert same(shuffled, X[order])
    assert same(shuffled_used, used[order])

    # A subset of the coins, with other numbers.
    some = np.flatnonzero(np.isin(coin, random.integers(-1, 4, 2)))
    part = take(panel, some)
    part[0] = np.where(part[0] == UNKNOWN_COIN, UNKNOWN_COIN, 1_000_000 - part[0])
    assert same(history_features(*part)[0], X[some])

    # Arrays that are neither contiguous nor forward, and other types.
    backwards = [values[::-1].copy()[::-1] for values in panel]
    assert same(history_features(*backwards)[0], X)

    # Only some of the rows are answered.
    wanted = random.integers(0, len(day), 5)
    assert same(history_features(*panel, answer=wanted)[0], X[wanted])

    # Each row as a request: its coin's rows of the last 90 days, itself the last of its day.
    for row in random.integers(0, len(day), 5):
        request = take(panel, [*history_of(panel, row, DAYS), row])
        assert same(last_features(*request[1:])[0], X[[row]])
        assert same(last_features(*request[1:])[1], used[[row]])
        assert same(history_features(*request)[0][-1:], X[[row]])


@settings(max_examples=40, deadline=None)
@given(panels(ordered=True), st.data())
def test_a_stream_has_the_bits_of_the_panel_in_blocks_of_any_size(panel, data):
    X, used = history_features(*panel)
    stream, at, parts = Stream(), 0, []
    while at < len(panel[0]):
        size = data.draw(st.integers(1, 60))
        parts.append(stream.answer(*take(panel, slice(at, at + size))))
        at += size
    assert same(np.concatenate([part[0] for part in parts]), X)
    assert same(np.concatenate([part[1] for part in parts]), used)


@settings(max_examples=40, deadline=None)
@given(panels(), st.integers(0, 2**32 - 1))
def test_looking_back_fewer_days_has_the_bits_of_a_shorter_history(panel, seed):
    day = panel[1]
    days = np.random.default_rng(seed).choice([1, 2, 3, 5, 7, 14, 30, 90], len(day))
    X, used = history_features(*panel, days=days)
    for row in range(0, len(day), 7):
        rows = [*history_of(panel, row, days[row]), row]
        expected, expected_used = history_features(*take(panel, rows))
        assert same(X[row], expected[-1])
        assert used[row] == expected_used[-1]


@pytest.mark.parametrize("days", [1, 2, 89, 90, 91, 1000])
def test_one_coin_day_by_day_has_the_bits_of_all_its_days(days):
    random = np.random.default_rng(days)
    panel = [np.zeros(days, int), MONDAY + np.arange(days), *10 ** random.uniform(2, 9, (3, days))]
    X, used = history_features(*panel)
    for end in range(1, days + 1, max(1, days // 50)):
        assert same(last_features(*[values[:end] for values in panel[1:]])[0], X[end - 1 : end])
    np.testing.assert_array_equal(used, np.minimum(np.arange(days) + 1, DAYS))


def test_weekday_and_lone_rows():
    X, used = history_features(
        [UNKNOWN_COIN, UNKNOWN_COIN, 0, 0], [MONDAY, MONDAY, UNKNOWN_DAY, MONDAY + 6],
        [1e6] * 4, [1e7] * 4, [1.0] * 4,
    )  # fmt: skip
    np.testing.assert_array_equal(X[:, -1], [0, 0, np.nan, 6])
    np.testing.assert_array_equal(used, [1, 1, 1, 1])
    assert np.isnan(X[:, HISTORY_FEATURES.index("lag1")]).all()


def test_the_last_of_several_rows_of_a_day_counts_and_a_gap_counts_not():
    day = [MONDAY, MONDAY, MONDAY, MONDAY + 1]
    X, _ = history_features([0] * 4, day, [1, 2, 3, 4.0], [1, 1, 0, 1.0], [1.0] * 4)
    lag1 = X[3, HISTORY_FEATURES.index("lag1")] + X[3, HISTORY_FEATURES.index("ew7")]
    assert lag1 == pytest.approx(math.log10(2.001))
    assert np.isnan(X[2, :-1]).all()


def test_a_gap_is_a_gap_and_not_the_row_before():
    X, used = history_features([0, 0], [MONDAY, MONDAY + 2], [1, 2.0], [1, 1.0], [1.0, 1.0])
    assert np.isnan(X[1, [HISTORY_FEATURES.index(name) for name in ("lag1", "dv1", "dp1")]]).all()
    assert used[1] == 2


def test_extreme_numbers_are_gaps_and_warn_about_nothing():
    values = [0.0, 5e-324, 1e-300, 1.0, 1e300, np.inf, -np.inf, np.nan, -0.0]
    volume, cap, price = (grid.ravel() for grid in np.meshgrid(values, values, values))
    X, used = history_features(np.zeros(len(cap), int), np.full(len(cap), 1), volume, cap, price)
    assert not np.isinf(X).any()
    assert (used[~((volume >= 0) & (cap > 0))] == 0).all()


def test_two_rows_a_lifetime_apart_cost_nothing():
    _, used = history_features([0, 0], [0, 2**40], [1.0] * 2, [1.0] * 2, [1.0] * 2)
    np.testing.assert_array_equal(used, [1, 1])


def test_no_rows():
    X, used = history_features([], [], [], [], [])
    assert X.shape == (0, 14)
    assert used.shape == (0,)
    assert Stream().answer([], [], [], [], [])[0].shape == (0, 14)


def test_a_stream_refuses_falling_dates_and_keeps_what_it_knew():
    stream = Stream()
    ones = [np.ones(3)] * 3
    stream.answer([0, 1, 0], [MONDAY, MONDAY, MONDAY + 1], *ones)
    with pytest.raises(DatesFallError, match=r"row 3: 2024-07-15 comes after 2024-07-16") as error:
        stream.answer([1, 2, 0], [MONDAY + 5, MONDAY, MONDAY], *ones)
    assert error.value.row == 2
    with pytest.raises(DatesFallError, match="row 2: 2024-07-17 comes after 2024-07-19"):
        stream.answer([3, 3, 3], [MONDAY + 4, MONDAY + 2, MONDAY + 3], *ones)
    _, used = stream.answer([1, 0, 3], [MONDAY + 1, MONDAY + 1, MONDAY], *ones)
    np.testing.assert_array_equal(used, [2, 2, 1])


def test_blocks_are_bounded_however_far_apart_the_answered_rows_are(monkeypatch):
    """The last rows of coins with long histories: a block must not span all of their days."""
    random = np.random.default_rng(0)
    panel = [np.repeat(np.arange(20), 200), np.tile(np.arange(200), 20)]
    panel += list(10 ** random.uniform(1, 9, (3, 4000)))
    X, _ = history_features(*panel)
    monkeypatch.setattr(model, "_SPAN", 150)
    wanted = np.arange(199, 4000, 200)
    assert same(history_features(*panel, answer=wanted)[0], X[wanted])
