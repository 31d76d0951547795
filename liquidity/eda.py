"""A look at a market: numbers, figures and one page that holds both (python -m liquidity.eda)."""

import base64
import html
import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from rich.console import Console

from liquidity import plots, tracking
from liquidity.arguments import Parser
from liquidity.features import TARGET, THRESHOLD, target
from liquidity.formatting import short_numbers
from liquidity.market import CHANGES, MARKET_CAP, PRICE, VOLUME, MarketDataError, read_market
from liquidity.processes import stop_signals
from liquidity.ranking import both_ends
from liquidity.store import TrackingError, check_store, quieten_mlflow

EXPERIMENT = "crypto-liquidity-eda"
REQUIRED = (VOLUME, MARKET_CAP, PRICE)  # a look needs no 1h
VALUES = [PRICE, VOLUME, MARKET_CAP, TARGET]
EXTREMES = 10
PERIODS = 36  # the most lines that a table by time has
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table.numbers { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
table.numbers th, table.numbers td { padding: 2px 10px; text-align: right }
table.numbers tbody tr:nth-child(odd) { background: #f2f5f8 }
section { margin-top: 2.5rem; overflow-x: auto } img { max-width: 100% }
"""


def main(argv=None):
    """Look at the data; returns the exit code: 0, 1 (failed), 2 (bad input) or 130 (stopped)."""
    args = parse_arguments(argv)
    quieten_mlflow()
    try:
        with stop_signals():
            explore(args.data, experiment=args.experiment, console=Console())
    except (MarketDataError, TrackingError) as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("stopped.", 130)
    except (MlflowException, OSError, MemoryError) as error:
        return _fail(f"failed: {type(error).__name__}: {error}", 1)
    return 0


def _fail(message, code):
    print(f"liquidity.eda: {message}", file=sys.stderr)
    return code


def explore(data, *, experiment, console):
    """From files to one run with report.html, summary.txt, tables and figures."""
    frame, cleaning = read_market(data, required=REQUIRED)
    frame = frame.assign(**{TARGET: target(frame)}).dropna(axis=1, how="all")
    tables, pairs = market_tables(frame, cleaning)
    headline = market_headline(frame, cleaning)
    console.print(as_text(headline, tables), highlight=False, markup=False, soft_wrap=True)

    check_store()
    tracking.close_dead_runs("eda")
    with tracking.parent_run(experiment=experiment, params={"data": data}, tags={}) as run:
        mlflow.log_metrics(
            {
                "rows_read": cleaning.rows_read,
                "rows_used": cleaning.rows_used,
                "coins": frame["coin"].nunique(),
                "dates": frame["date"].nunique(),
                "median_liquidity": frame[TARGET].median(),
                "high_share": float((frame[TARGET] > THRESHOLD).mean()),
            }
        )
        mlflow.log_dict(cleaning.to_dict(), "cleaning.json")
        with tempfile.TemporaryDirectory() as folder:
            write_report(Path(folder), frame, tables, pairs, headline=headline)
            mlflow.log_artifacts(folder)
    console.print(
        f"Look:   mlflow ui --port 5001, run {run.info.run_name} of experiment "
        f"{mlflow.get_experiment(run.info.experiment_id).name}, artifact report.html",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def write_report(folder, frame, tables, pairs, *, headline):
    """Write report.html, summary.txt, tables/*.csv and figures/*.png into `folder`."""
    (folder / "tables").mkdir()
    (folder / "figures").mkdir()
    (folder / "summary.txt").write_text(as_text(headline, tables), encoding="utf-8")
    for title, table in tables.items():
        table.to_csv(folder / f"tables/{_file_name(title)}.csv")
    pictures = {}
    for title, figure in market_figures(frame, tables, pairs).items():
        path = folder / f"figures/{_file_name(title)}.png"
        figure.savefig(path, dpi=110)
        pictures[title] = path.read_bytes()
    page = as_page(headline, tables, pictures, frame)
    (folder / "report.html").write_text(page, encoding="utf-8")


def market_headline(frame, cleaning):
    """What was read, in a sentence, and a sentence per warning."""
    first, last = frame["date"].min(), frame["date"].max()
    lines = [
        f"{cleaning.rows_used:,} of {cleaning.rows_read:,} rows of {len(cleaning.files)} file(s): "
        f"{frame['coin'].nunique():,} coins on {frame['date'].nunique():,} date(s), "
        f"{first:%Y-%m-%d} to {last:%Y-%m-%d}; {(frame[TARGET] > THRESHOLD).mean():.1%} of the "
        f"rows are High (liquidity above {THRESHOLD}), the median is {frame[TARGET].median():.3g}."
    ]
    return lines + [f"Warning: {warning}" for warning in cleaning.warnings]


def market_tables(frame, cleaning):
    """`({title: table}, pairs)`: every number of the report, and the pairs behind persistence.

    `frame` is a checked frame with its column liquidity. The tables about persistence are there
    where some coin is on two successive dates.
    """
    by_date = levels_over(frame, frame["date"])
    pairs = successive_pairs(frame)
    tables = {
        "Rows": row_counts(frame, cleaning),
        "Values": value_quantiles(frame),
        "Liquidity by capitalisation": cap_deciles(frame),
        "Correlation of logarithms": log_correlation(frame),
        "High and Low by date": by_date,
        "Most and least liquid": most_and_least(frame),
    }
    if len(pairs):
        tables["Persistence"] = persistence_summary(pairs)
        tables["Persistence by date"] = persistence_by_date(pairs)
    return tables, pairs


def row_counts(frame, cleaning):
    """Rows read, used, dropped by reason, and used ones that lack a change of the price."""
    counts = {"read": cleaning.rows_read, "used": cleaning.rows_used}
    counts |= {f"dropped: {reason}": count for reason, count in cleaning.dropped.items()}
    known = {name: frame[name].notna().sum() if name in frame else 0 for name in CHANGES}
    counts |= {f"used without {name}": len(frame) - count for name, count in known.items()}
    table = pd.DataFrame({"rows": counts})
    return table.assign(**{"share of read": table["rows"] / cleaning.rows_read})


def value_quantiles(frame):
    """Per column: how many are known and zero, and quantiles from the smallest to the largest."""
    names = [*VALUES, *[name for name in CHANGES if name in frame]]
    shares = {"min": 0, "1 %": 0.01, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "99 %": 0.99,
              "max": 1}  # fmt: skip
    table = frame[names].quantile(list(shares.values())).T.set_axis(list(shares), axis=1)
    table.insert(0, "known", frame[names].notna().sum())
    table.insert(1, "zero", (frame[names] == 0).sum())
    return table


def cap_deciles(frame):
    """Liquidity per tenth of the rows by mkt_cap, 1 the smallest; fewer where rows are few."""
    rank = frame[MARKET_CAP].rank(method="first")
    decile = np.ceil(rank / len(frame) * min(10, len(frame))).astype(int).rename("decile")
    groups = frame.groupby(decile)
    shares = {"5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95}
    return pd.DataFrame(
        {
            "rows": groups.size(),
            "smallest cap": groups[MARKET_CAP].min(),
            "largest cap": groups[MARKET_CAP].max(),
            **{name: groups[TARGET].quantile(share) for name, share in shares.items()},
            "High share": (frame[TARGET] > THRESHOLD).groupby(decile).mean(),
        }
    )


def log_correlation(frame):
    """Pearson correlation of log10(value) and of log(1 + change); zeros have no logarithm."""
    logs = {name: np.log10(frame[name].where(frame[name] > 0)) for name in VALUES}
    logs |= {n: np.log1p(frame[n].where(frame[n] > -1)) for n in CHANGES if n in frame}
    return pd.DataFrame(logs).corr(min_periods=3)


def levels_over(frame, period):
    """Coins, High ones, their share and the median liquidity per value of `period`."""
    liquidity = frame[TARGET].groupby(period)
    high = (frame[TARGET] > THRESHOLD).groupby(period)
    return pd.DataFrame(
        {
            "rows": liquidity.size(), "High": high.sum(), "High share": high.mean(),
            "Low share": 1 - high.mean(), "median liquidity": liquidity.median(),
        }
    )  # fmt: skip


def most_and_least(frame):
    """The coins of the last date with the highest and the lowest liquidity, by their rank."""
    last = frame.loc[frame["date"] == frame["date"].max(), ["coin", "date", *VALUES]]
    return both_ends(last.assign(date=last["date"].dt.strftime("%Y-%m-%d")), EXTREMES)


def successive_pairs(frame):
    """Liquidity `before` and `after` of every coin that is on a date and the one before it.

    `date` is the later one. A coin that misses a date has no pair there.
    """
    rows = pd.DataFrame(
        {
            "coin": pd.factorize(frame["coin"])[0],
            "step": frame["date"].rank(method="dense").astype(int),
            "date": frame["date"],
            "after": frame[TARGET],
        }
    )
    before = rows.assign(step=rows["step"] + 1).rename(columns={"after": "before"})
    return rows.merge(before[["coin", "step", "before"]], on=["coin", "step"])


def persistence_summary(pairs):
    """How much of a coin's liquidity is known from the date before."""
    was_high, is_high = pairs["before"] > THRESHOLD, pairs["after"] > THRESHOLD
    logs = np.log10(pairs[["before", "after"]].where(lambda values: values > 0)).dropna()
    values = {
        "pairs of a coin and two successive dates": len(pairs),
        "correlation of log10(liquidity)": logs.corr(min_periods=3).loc["before", "after"],
        "median rank correlation over the dates": persistence_by_date(pairs)[
            "rank correlation"
        ].median(),
        "median factor between the dates": 10 ** (logs["after"] - logs["before"]).abs().median(),
        "High that stay High": is_high[was_high].mean(),
        "Low that stay Low": 1 - is_high[~was_high].mean(),
    }
    return pd.DataFrame({"value": values})


def persistence_by_date(pairs):
    """Per date: coins that were there the date before, and the rank correlation with it."""
    ranks = pairs.groupby("date")[["before", "after"]].rank()
    centred = ranks - ranks.groupby(pairs["date"]).transform("mean")
    moments = pd.DataFrame(
        {
            "both": centred["before"] * centred["after"],
            "before": centred["before"] ** 2,
            "after": centred["after"] ** 2,
        }
    )
    sums = moments.groupby(pairs["date"]).sum()
    scale = np.sqrt(sums["before"] * sums["after"])
    correlation = sums["both"] / scale.where(scale > 0)
    return pd.DataFrame({"coins": pairs.groupby("date").size(), "rank correlation": correlation})


def market_figures(frame, tables, pairs):
    """Figures by their titles; those of a table draw that table's numbers."""
    figures = {
        "Rows": plots.rows_by_reason(tables["Rows"]),
        "Values": plots.distributions(frame),
        "Volume against capitalisation": plots.volume_against_cap(frame),
        "Liquidity by capitalisation": plots.liquidity_by_cap(
            tables["Liquidity by capitalisation"]
        ),
        "Correlation of logarithms": plots.correlations(tables["Correlation of logarithms"]),
        "High and Low by date": plots.levels_by_date(tables["High and Low by date"]),
        "Most and least liquid": plots.ranking(
            tables["Most and least liquid"], "The most and the least liquid coins of the last date"
        ),
    }
    if len(pairs):
        figures["Persistence"] = plots.persistence(pairs, tables["Persistence by date"])
    return figures


def as_text(headline, tables):
    """The report for a terminal: every table, those by date shortened to periods."""
    parts = ["\n".join(headline)]
    for title, table in tables.items():
        note, table = _shortened(table)
        parts.append(f"{title}{note}\n{short_numbers(table).to_string()}")
    return "\n\n".join(parts) + "\n"


def as_page(headline, tables, pictures, frame):
    """The report as one HTML page that needs no other file and no network.

    `pictures` are PNG files by their titles; a table stands under the picture of its title.
    """
    from skrub import TableReport  # takes seconds to import; a wrong file should not wait for it

    sections = []
    for title in dict.fromkeys([*pictures, *tables]):
        parts = [f"<h2>{html.escape(title)}</h2>"]
        if title in pictures:
            data = base64.b64encode(pictures[title]).decode()
            parts.append(f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">')
        if title in tables:
            note, table = _shortened(tables[title])
            parts.append(f"<p>{note}</p>" if note else "")
            parts.append(short_numbers(table).to_html(border=0, classes="numbers"))
        sections.append(f"<section>{''.join(parts)}</section>")
    columns = TableReport(frame, title="Columns", verbose=0).html_snippet()
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in headline)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Market report</title><style>{STYLE}</style></head><body>"
        f"<h1>Market report</h1>{lines}{''.join(sections)}"
        f"<section><h2>Every column</h2>{columns}</section></body></html>"
    )


def _shortened(table):
    """`(note, table)`: one by date has at most PERIODS lines, of days, or else of medians over
    months, quarters or years."""
    table = table.rename_axis(index=None)
    if not isinstance(table.index, pd.DatetimeIndex):
        return "", table
    for frequency in ("D", "M", "Q", "Y"):
        periods = table.index.to_period(frequency)
        if periods.nunique() <= PERIODS:
            break
    if len(table) == periods.nunique():
        return "", table.set_axis(periods)
    noun = {"M": "month", "Q": "quarter", "Y": "year"}[frequency]
    return f" (medians of every {noun})", table.groupby(periods).median().rename_axis(index=None)


def _file_name(title):
    return title.lower().replace(" ", "_")


def parse_arguments(argv):
    """The command's settings; leaves with exit code 2 and one sentence where they make no sense."""
    parser = Parser(prog="liquidity.eda", description=__doc__)
    parser.add_argument("--data", default="data/sample.csv", help="a file, a folder or a glob")
    parser.add_argument("--experiment", default=EXPERIMENT, help="not used under `mlflow run`")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
