"""The live market as a snapshot file, from CoinGecko's API (python -m liquidity.coingecko)."""

import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from liquidity.command import Parser, run, whole_number
from liquidity.data.coingecko import PAGE_SIZE, fetch_page, find_server
from liquidity.data.market import api_frame
from liquidity.errors import FetchError, SettingsError
from liquidity.output import replaced
from liquidity.progress import progress_bar
from liquidity.terminal import Terminal

PROG = "liquidity.coingecko"


def main(argv=None):
    """Fetch a snapshot; returns the exit code: 0, 1 (failed), 2 (bad settings), 130 (stopped)."""
    args = parse_arguments(argv)

    def job():
        server = find_server(os.environ)
        check_folder(args.out)
        fetch(server, args.out, pages=args.pages, console=Terminal())

    return run(PROG, job)


def fetch(server, out, *, pages, console):
    """Write the largest `pages` x 250 coins as a new snapshot in the folder `out`.

    Where a page fails, the pages before it are kept beside it, under a name that is not read as
    a snapshot; the FetchError (or KeyboardInterrupt) says where.
    """
    path = out / f"coingecko_{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.csv"
    coins, received = {}, 0
    try:
        with progress_bar(console, "Pages", pages) as advance:
            for page in range(1, pages + 1):
                found = fetch_page(server, page, notify=console.print)
                # Pages shift while they are fetched: the later answer holds.
                coins |= {coin["id"]: coin for coin in found}
                received += len(found)
                advance(f"{len(coins):,} coins")
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
    gaps = frame.isna().sum()
    lacking = ", ".join(f"{count} lack {name}" for name, count in gaps[gaps > 0].items())
    console.print(
        f"{len(frame):,} coins in {path} ({received - len(frame)} came on two pages"
        f"{'; ' + lacking if lacking else ''})",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def write_snapshot(coins, path):
    """Write `{id: coin}` as a CSV file of our columns, all of it or nothing; returns its frame."""
    frame = api_frame(list(coins.values()), origin=path)
    # A line break in a name would end the row where it is read.
    frame["coin"] = frame["coin"].str.split().str.join(" ")
    with replaced(path, overwrite=True) as file:
        frame.to_csv(file, index=False, encoding="utf-8", date_format="%Y-%m-%d")
    return frame


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
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
