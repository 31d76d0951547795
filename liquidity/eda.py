"""A look at a market: numbers, figures and one page that holds both (python -m liquidity.eda)."""

import sys
from pathlib import Path

from liquidity.processes import loading

with loading():
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

    from liquidity.command import Parser, run
    from liquidity.contract import MARKET_CAP, PRICE, TARGET, THRESHOLD, VOLUME
    from liquidity.data.market import read_market
    from liquidity.data.table import target
    from liquidity.progress import elapsed_time
    from liquidity.report.market_report import REPORT, as_text, write_report
    from liquidity.report.market_tables import market_headline, market_tables
    from liquidity.report.summary import looking, print_lines
    from liquidity.runs.addresses import artifact_path, mlflow_page
    from liquidity.runs.destination import local_files
    from liquidity.runs.recovery import close_dead_runs
    from liquidity.runs.store import check_store, quieten_mlflow
    from liquidity.runs.tracking import parent_run, source_name
    from liquidity.scratch import scratch_folder
    from liquidity.terminal import Terminal

PROG = "liquidity.eda"
EXPERIMENT = "crypto-liquidity-eda"
REQUIRED = (VOLUME, MARKET_CAP, PRICE)  # a look needs no 1h


def main(argv=None):
    """Look at the data; returns the exit code: 0, 1 (failed), 2 (bad input) or 130 (stopped)."""
    args = parse_arguments(argv)
    quieten_mlflow()
    return run(
        PROG,
        lambda: explore(args.data, experiment=args.experiment, console=Terminal()),
        failures=(MlflowException,),
    )


def explore(data, *, experiment, console):
    """From files to one run with report.html, summary.txt, tables and figures."""
    with elapsed_time(console, f"Reading {data}"):
        frame, cleaning = read_market(data, required=REQUIRED)
    frame = frame.assign(**{TARGET: target(frame)}).dropna(axis=1, how="all")
    tables, pairs = market_tables(frame, cleaning)
    headline = market_headline(frame, cleaning, tables)
    console.print(as_text(headline, tables), highlight=False, markup=False, soft_wrap=True)

    check_store()
    close_dead_runs("eda")
    name = source_name(data)
    with parent_run(experiment=experiment, params={"data": data}, name=name) as run:
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
        mlflow.set_tag(MLFLOW_RUN_NOTE, "\n\n".join(headline))
        mlflow.log_dict(cleaning.to_dict(), "cleaning.json")
        with elapsed_time(console, "Drawing the report"), scratch_folder() as folder:
            write_report(Path(folder), frame, tables, pairs, headline=headline)
            mlflow.log_artifacts(folder)
    there = local_files(run)
    report = [f"Report: {there / REPORT}"] if there else []
    look = looking(mlflow_page(), {"the report": artifact_path(run, REPORT)})
    print_lines(console, report + look)


def parse_arguments(argv):
    """The command's settings; leaves with exit code 2 and one sentence where they make no sense."""
    parser = Parser(prog=PROG, description=__doc__)
    parser.add_argument("--data", default="data/sample.csv", help="a file, a folder or a glob")
    parser.add_argument("--experiment", default=EXPERIMENT, help="not used under `mlflow run`")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
