"""From a panel to what a forecast learns from: targets, shortened histories, splits and folds."""

from itertools import pairwise

import numpy as np

from liquidity.model.model import DAYS, UNKNOWN_COIN, UNKNOWN_DAY, history_features

CUT_SHARE = 0.25
CUT_LENGTHS = (1, 2, 3, 5, 7, 14, 30)


def horizon_target(coin, day, level, *, horizon):
    """The level of each row's coin exactly `horizon` days later.

    Arrays of shape (rows,) in any order: integers for coin and day, as in `history_features`, and
    float64 for `level`, log10(liquidity + EPSILON), NaN in a gap. NaN where that day is not there
    or a gap; of several rows of that day the last known one counts.
    """
    coin, day = np.asarray(coin, np.int64), np.asarray(day, np.int64)
    target = np.full(len(day), np.nan)
    dated = (coin != UNKNOWN_COIN) & (day != UNKNOWN_DAY)
    if not dated.any():
        return target
    # Coin and day as one number that sorts as they do, with room for the days that are asked for.
    first, last = day[dated].min(), day[dated].max()
    key = np.unique(coin, return_inverse=True)[1] * (last - first + 1 + horizon) + (day - first)
    there = np.flatnonzero(dated & ~np.isnan(level))
    there = there[np.argsort(key[there], kind="stable")]
    asked = np.flatnonzero(dated)
    # The last of several equal keys is the one before the first larger key.
    found = np.searchsorted(key[there], key[asked] + horizon, side="right") - 1
    asked, found = asked[found >= 0], there[found[found >= 0]]
    hit = key[found] == key[asked] + horizon
    target[asked[hit]] = level[found[hit]]
    return target


def cut_histories(rows, *, random_state, share=CUT_SHARE, lengths=CUT_LENGTHS):
    """How many days of history each of `rows` training rows may use, of shape (rows,).

    DAYS for most; for a random `share` of them one of `lengths`. A forest that only ever saw long
    histories loses to persistence on a coin that is sent alone.
    """
    random = np.random.default_rng(random_state)
    days = np.full(rows, DAYS)
    cut = random.permutation(rows)[: round(share * rows)]
    days[cut] = random.choice(lengths, len(cut))
    return days


def cut_features(X, days_used, panel, rows, days):
    """Copies of `X[rows]` and `days_used[rows]` as they are with `days` days of history each.

    `panel` holds the five arrays of `history_features`, `X` and `days_used` its answer for every
    row, `rows` positions in them; only the rows with less than DAYS are computed again.
    """
    X, days_used = X[rows], days_used[rows]
    cut = np.flatnonzero(days < DAYS)
    X[cut], days_used[cut] = history_features(*panel, days=days[cut], answer=rows[cut])
    return X, days_used


def repeat_young(rows, young, *, times):
    """Positions `rows` with those of really young coins (`young`, of the table's shape) `times`
    times, to train on.

    They are a hundredth of the rows, and old coins with a cut history, which look alike and behave
    otherwise, outnumber them by far.
    """
    return np.concatenate([rows, np.repeat(rows[young[rows]], times - 1)])


def embargo_split(day, *, start, horizon):
    """Positions of the rows to train on, of the embargo and of the rows to test on.

    `start` is the first day tested. A row trains if its target is from before `start`; the
    `horizon` days in between are the embargo.
    """
    train, test = day < start - horizon, day >= start
    return np.flatnonzero(train), np.flatnonzero(~train & ~test), np.flatnonzero(test)


def time_folds(day, *, cv, horizon):
    """Make up to min(cv, days - 1) pairs (training positions, scoring positions), in time order.

    The days are cut into cv + 1 parts of equally many days (scikit-learn's TimeSeriesSplit): each
    part but the first is scored once, by what trains on the days before it less the embargo of
    `horizon` days. Folds that have no row to train on are left out: the caller checks the count.
    """
    days = np.unique(day)
    cv = min(cv, len(days) - 1)
    starts = days[len(days) - len(days) // (cv + 1) * np.arange(cv, 0, -1)]
    folds = []
    for start, end in pairwise([*starts, np.inf]):
        train, _, test = embargo_split(day, start=start, horizon=horizon)
        if len(train):
            folds.append((train, test[day[test] < end]))
    return folds
