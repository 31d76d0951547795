"""The live market as a snapshot file, and its history (python -m liquidity.coingecko)."""

import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from liquidity.processes import loading

with loading():
    import pandas as pd

    from liquidity.backfill import fetch_history
    from liquidity.command import Parser, run, whole_number
    from liquidity.contract import COIN, DATE, HIGH_24H, ID, LOW_24H
    from liquidity.data.coingecko import BASE_URL, find_server
    from liquidity.data.listing import PAGE_SIZE, fetch_page
    from liquidity.data.market import api_frame
    from liquidity.errors import FetchError, SettingsError
    from liquidity.output import replaced
    from liquidity.progress import progress_bar
    from liquidity.terminal import Terminal

PROG = "liquidity.coingecko"
# Columns of /coins/markets that no history has: who does not keep them now never gets them.
EXTRA = [HIGH_24H, LOW_24H, "circulating_supply", "total_supply", "max_supply"]
MOST_DAYS = 10_000  # more than there are since Bitcoin's first block


def main(argv=None):
    """Fetch a snapshot; returns the exit code: 0, 1 (failed), 2 (bad settings), 130 (stopped)."""
    args = parse_arguments(argv)

    def job():
        server = find_server(os.environ)
        check_folder(args.out)
        console = Terminal()
        coins = fetch(server, args.out, pages=args.pages, console=console)
        if args.history:
            now = datetime.now(UTC)
            fetch_history(server, args.out, coins, days=args.history, now=now, console=console)

    return run(PROG, job)


def fetch(server, out, *, pages, console):
    """Write the largest `pages` x 250 coins as a new snapshot in the folder `out`.

    Returns the coins as a list of dicts. Where a page fails, the pages before it are kept beside
    it, under a name that is not read as a snapshot; the FetchError (or KeyboardInterrupt) says
    where.
    """
    path = out / f"coingecko_{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.csv"
    coins, received, left_out = {}, 0, []
    try:
        with progress_bar(console, "Pages", pages) as advance:
            for page in range(1, pages + 1):
                found, unusable = fetch_page(server, page, notify=console.say)
                if not found:
                    break
                # Pages shift while they are fetched: the later answer holds.
                coins |= {coin["id"]: coin for coin in found}
                received += len(found)
                left_out += unusable
                advance(f"{len(coins):,} coins")
        if not coins:
            raise FetchError(f"page 1: the list of coins is empty: check {BASE_URL}.")
        frame = write_snapshot(coins, path)
    except (FetchError, KeyboardInterrupt) as error:
        if not coins:
            raise
        kept = path.with_name(f"{path.name}.partial")
        write_snapshot(coins, kept)
        raise type(error)(
            f"{error} What came before, {len(coins):,} coins, is kept in {kept}: take .partial "
            "off its name to use it.".lstrip()
        ) from error
    if not found:
        console.say(f"Page {page} is past the end of the list.")
    console.say_some(left_out)
    gaps = frame.drop(columns=EXTRA, errors="ignore").isna().sum()
    lacking = ", ".join(f"{count} lack {name}" for name, count in gaps[gaps > 0].items())
    console.say(
        f"{len(frame):,} coins in {path} ({received - len(frame)} came on two pages"
        f"{'; ' + lacking if lacking else ''})"
    )
    return list(coins.values())


def write_snapshot(coins, path):
    """Write `{id: coin}` as a CSV file of our columns, the id and EXTRA, all of it or nothing;
    returns its frame.
    """
    records = list(coins.values())
    frame = api_frame(records, origin=path).drop(columns=EXTRA, errors="ignore")
    # A line break in a name would end the row where it is read.
    frame[COIN] = [" ".join(coin["name"].split()) for coin in records]
    frame.insert(frame.columns.get_loc(COIN), ID, list(coins))
    for name in EXTRA:
        if name in records[0]:
            frame[name] = [amount(coin[name]) for coin in records]
    # The moment of midnight closes the day before, unlike a plain day.
    times = pd.Series([coin.get("last_updated") for coin in records], dtype="str")
    midnight = times.str.contains(r"[T ]00:00(?::00(?:\.0*)?)?(?:Z|\+00:00)?$", na=False)
    frame.loc[midnight, DATE] -= pd.Timedelta(days=1)
    with replaced(path, overwrite=True) as file:
        frame.to_csv(file, index=False, encoding="utf-8", date_format="%Y-%m-%d")
    return frame


def amount(value):
    """A number of EXTRA, or None for anything else: no model reads it, so it stops no fetch."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value < 1e300 else None


def check_folder(out):
    """Make the folder, and fail now if nothing can be written there. Raises SettingsError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise SettingsError(
            f"--out: expected a folder that can be written to, got {str(out)!r} ({error.strerror})."
        ) from error


def parse_arguments(argv):
    """The command's settings; leaves with exit code 2 and one sentence where they make no sense."""
    parser = Parser(prog=PROG, description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/snapshots"), help="folder")
    parser.add_argument(
        "--pages", type=whole_number(1), default=4, help=f"pages of {PAGE_SIZE} coins each (4)"
    )
    parser.add_argument(
        "--history",
        type=whole_number(0),
        default=0,
        metavar="DAYS",
        help="days before today to have of every coin of the pages, a call per coin (0)",
    )
    args = parser.parse_args(argv)
    if args.history > MOST_DAYS:
        parser.error(f"argument --history: expected at most {MOST_DAYS} days, got {args.history}")
    return args


if __name__ == "__main__":
    sys.exit(main())
