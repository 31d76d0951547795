"""Whether files call a day what a model knows as another one, told by the weekdays.

A daily value of 00:00 UTC covers the day before, and sources label it by either. A forecast that
takes one for the other errs as if the market had drifted; but volume falls at the weekend and comes
back after it, and that says which day a label means.
"""

import math

import numpy as np

SHIFTS = (0, -1, 1)
# The log of how many times likelier the dates have to be with a shift. On a real panel of five and
# a half years it is not reached by any 28 days as they are, but by half of them with their dates
# shifted, by five sixths of 60 days and by all of 180 (a test counts).
ENOUGH = 5


def weekday_profile(day, change):
    """The mean change of L from the day before, Monday first, each date counting once.

    Arrays of shape (rows,): days since 1970, and L(day) - L(day - 1), NaN where it is not known.
    Returns seven numbers, or None where a weekday never comes.
    """
    changes = DailyChanges()
    changes.add(day, change)
    day, mean = changes.means()
    weekdays = [mean[_weekday(day) == weekday] for weekday in range(7)]
    return [float(some.mean()) for some in weekdays] if all(map(len, weekdays)) else None


class DailyChanges:
    """The mean change of L over all coins, date by date, of rows that come in blocks."""

    def __init__(self):
        self._sums = {}  # day: [sum, rows]

    def add(self, day, change):
        """Take up rows; arrays as those of `weekday_profile`."""
        known = ~np.isnan(change)
        days, position = np.unique(day[known], return_inverse=True)
        sums, rows = np.bincount(position, change[known]), np.bincount(position)
        for each, *new in zip(days.tolist(), sums.tolist(), rows.tolist(), strict=True):
            before = self._sums.get(each, (0.0, 0))
            self._sums[each] = before[0] + new[0], before[1] + new[1]

    def means(self):
        """Days in their order and the mean change on each, of shape (days,)."""
        day = np.array(sorted(self._sums), np.int64)
        return day, np.array([self._sums[each][0] / self._sums[each][1] for each in day.tolist()])

    def likely_shift(self, profile):
        """-1 or 1 if the dates fit `profile` much better so many days later; else 0.

        The likelihood ratio of normal errors around the profile of each weekday. Where no weekday
        differs from the others, nothing is told.
        """
        day, mean = self.means()
        errors = [np.square(mean - np.take(profile, _weekday(day + s))).sum() for s in SHIFTS]
        best = int(np.argmin(errors))
        if best == 0 or not 0 < errors[best] < np.square(mean).sum():
            return 0
        likelier = len(day) / 2 * math.log(errors[0] / errors[best])
        return SHIFTS[best] if likelier > ENOUGH else 0


def _weekday(day):
    """Monday is 0; 1970-01-01 was a Thursday."""
    return (day + 3) % 7
