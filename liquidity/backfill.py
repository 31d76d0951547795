"""The history of a market's coins: whom to ask and how fast, and what came of it."""

import time
from dataclasses import dataclass

from liquidity.data.chart import coin_label, fetch_chart
from liquidity.data.coingecko import CALLS_PER_MINUTE
from liquidity.data.history import Journal, covered, days_missing
from liquidity.errors import FetchError, RefusedError
from liquidity.progress import duration, progress_bar

# So many coins in a row that fail, each after all its tries, are no fault of the coins.
MOST_IN_A_ROW = 5
FAILURES_NAMED = 5  # in the job's last sentence
NAME_LETTERS = 30  # of a coin beside the bar


@dataclass(frozen=True)
class Question:
    """A coin of `/coins/markets` to ask for, how many days of it, and the first one to keep."""

    coin: dict
    days: int
    since: str  # ISO 8601, or "" for all of them


def fetch_history(server, out, coins, *, days, now, console):
    """Bring the history of `coins` in the folder `out` to the last `days` days before `now`.

    Asks only for what is not there yet. A FetchError names the coins that failed; the same command
    asks for them again, and for what had not come when it was stopped.
    """
    failed, gone, odd, example = [], [], 0, ""
    with Journal(out, days=days, now=now) as journal:
        questions = list_questions(coins, journal.ids, covered(out), days=days, today=now.date())
        console.say(_plan(server, len(questions), len(coins), len(journal.ids)))
        try:
            with progress_bar(console, "History", len(questions), waits=True) as advance:
                for question, chart, error in _answers(server, questions, notify=console.say):
                    coin = question.coin
                    if chart:
                        rows, wrong = chart
                        journal.add(coin, [row for row in rows if row[0] >= question.since])
                        odd += len(wrong)
                        example = example or "".join(f"{coin_label(coin)}, {w}" for w in wrong[:1])
                    elif error:
                        failed.append(str(error))
                    else:
                        gone.append(f"{coin_label(coin)}: the server does not know it any more.")
                    advance(f"{coin['name']:.{NAME_LETTERS}}")
        except (FetchError, KeyboardInterrupt) as error:
            raise type(error)(
                f"{error} {_kept(journal)} The same command goes on from there.".lstrip()
            ) from error
        kept = _kept(journal)
    if questions:
        console.say(kept)
    console.say_some(gone)
    if odd:
        console.say(f"{odd:,} values are left out as unknown, such as {example}.")
    if failed:
        more = f" And {len(failed) - FAILURES_NAMED} more." if len(failed) > FAILURES_NAMED else ""
        raise FetchError(
            f"{len(failed)} of {len(coins):,} coins, which the same command asks for again. "
            f"{' '.join(failed[:FAILURES_NAMED])}{more}"
        )


def list_questions(coins, there, known, *, days, today):
    """What to ask so that the last `days` days of every coin are known, in the coins' order.

    `there` are the ids of what came already, `known` is the folder's answer of `covered`.
    """
    questions = []
    for coin in coins:
        span = known.get(coin["id"])
        missing = days_missing(span, days=days, today=today)
        if missing and coin["id"] not in there:
            since = span[1].isoformat() if missing < days else ""
            questions.append(Question(coin, missing, since))
    return questions


def _answers(server, questions, *, notify):
    """Each question with its chart and no error, with none and an error, or, where the server does
    not know the coin any more, with neither; as fast as the rate limit allows.

    Raises FetchError where it is of no use to ask on.
    """
    pause, in_a_row, moment = 60 / server.calls_per_minute, 0, time.monotonic()
    for question in questions:
        time.sleep(max(0, moment - time.monotonic()))
        moment = time.monotonic() + pause
        chart, failure = None, None
        try:
            chart = fetch_chart(server, question.coin, days=question.days, notify=notify)
        except RefusedError:
            raise
        except FetchError as error:
            failure = error
        in_a_row = 0 if chart else in_a_row + 1
        if in_a_row == MOST_IN_A_ROW:
            last = failure or f"{coin_label(question.coin)}: the server does not know it."
            raise FetchError(f"{in_a_row} coins in a row, the last is {last}")
        yield question, chart, failure


def _plan(server, calls, coins, came):
    """What is going to happen, and for how long."""
    if not calls:
        return f"History: all of {coins:,} coins are there; nothing to ask for."
    there = f", {coins - calls:,} are there" if coins > calls else ""
    cut = f", {came:,} of them from a fetch that was cut off" if came else ""
    pace = server.calls_per_minute
    return (
        f"History: {calls:,} of {coins:,} coins to ask for{there}{cut}. A call each, {pace:g} a "
        f"minute ({CALLS_PER_MINUTE}): about {duration(60 * calls / pace)}."
    )


def _kept(journal):
    """Make what came a file of the folder, and say which."""
    coins, rows, path = len(journal.ids), journal.rows, journal.publish()
    return f"{rows:,} days of {coins:,} coins in {path}." if path else "No history came."
