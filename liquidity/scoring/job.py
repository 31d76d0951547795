"""The scoring job: which files, by which model, here or on a cluster."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException

from liquidity.command import Parser, add_day_shift_option, run, whole_number
from liquidity.contract import CHAMPION_URI, COIN, DATE, MARKET_CAP, TARGET, VOLUME
from liquidity.data import content
from liquidity.data.cells import parse_numbers
from liquidity.data.layout import lay_out, note_lines
from liquidity.data.readers import NAMED, SUFFIXES, is_snapshot
from liquidity.errors import MarketDataError, SettingsError
from liquidity.executors import LOCAL, add_scheduler_option
from liquidity.model.loading import fetched_model
from liquidity.output import behind_links, refuse_existing
from liquidity.progress import rows_progress
from liquidity.runs.store import check_store, quieten_mlflow
from liquidity.scoring.blocks import unscored
from liquidity.scoring.files import (
    WRITTEN,
    open_inputs,
    read_history,
    score_file,
)
from liquidity.scoring.history import History
from liquidity.scoring.remote import score_on_cluster
from liquidity.terminal import Terminal

PROG = "liquidity.scoring"


def main(argv=None):
    """Score files; returns the exit code: 0, 1 (failed), 2 (bad input) or 130 (stopped)."""
    args = parse_arguments(argv)
    quieten_mlflow()
    return run(
        PROG,
        lambda: score(args, Terminal()),
        failures=(MlflowException, pa.ArrowException),
        afterwards="Nothing half-written is left; the same command does what is missing.",
    )


def parse_arguments(argv):
    """The settings; leaves with exit code 2 and one sentence where they make no sense."""
    parser = Parser(prog=PROG, description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="a file or a folder of files")
    parser.add_argument(
        "--output", type=Path, required=True, help="a file, or an existing folder for their names"
    )
    parser.add_argument("--model-uri", default=CHAMPION_URI, help=f"({CHAMPION_URI})")
    parser.add_argument(
        "--top",
        type=whole_number(0),
        default=0,
        help="print and draw so many of the most and of the least liquid (0)",
    )
    add_day_shift_option(parser)
    add_scheduler_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    return parser.parse_args(argv)


def score(args, console):
    """The job from input to output files; all wiring is here."""
    jobs = plan(args.input, args.output, overwrite=args.overwrite)
    missing = [job for job in jobs if args.overwrite or not job[1].exists()]
    if len(missing) < len(jobs):
        console.print(
            f"{len(jobs) - len(missing)} of {len(jobs)} files are in {args.output} already and "
            "stay as they are; --overwrite scores them again.",
            highlight=False,
            soft_wrap=True,
        )
    coverage = None
    if missing:
        check_store()
        with fetched_model(args.model_uri) as (model, folder):
            check_headers(missing, model, [COIN] if args.top else [], console)
            history = History(day_shift=args.day_shift) if model.optional else None
            if args.day_shift and not history:
                raise SettingsError("--day-shift: this model does not ask for dates: leave it out.")
            if args.scheduler == LOCAL:
                way = partial(score_here, model, jobs, history=history, overwrite=args.overwrite)
            elif model.optional:
                raise SettingsError(
                    "--scheduler: a forecast reads files one after the other, for the days before "
                    "each row: leave it out."
                )
            else:
                way = partial(score_on_cluster, args.scheduler, folder, console=console)
            score_files(missing, way, console)
            say_shift(history, model.metadata.get("weekday_profile"), args.day_shift, console)
            coverage = model.metadata["interval"]["coverage"]
    if args.top:
        show_ranking([output for _, output in jobs], args.top, console, coverage=coverage)


def plan(input, output, *, overwrite):
    """The pairs (input file, output file); raises MarketDataError where they make no sense."""
    if input.is_dir():
        sources = sorted(each for each in input.iterdir() if is_snapshot(each))
        if not sources:
            raise MarketDataError(f"{input}: holds no file that ends in {NAMED}.")
        if not output.is_dir():
            raise MarketDataError(
                f"{output}: no such folder; the input is a folder, so the output has to be an "
                "existing one: make it first."
            )
    elif input.exists():
        sources = [input]
    else:
        raise MarketDataError(f"{input}: no such file or folder (looked from {Path.cwd()}).")
    jobs = [(s, output / scored_name(s.name) if output.is_dir() else output) for s in sources]
    taken = {}
    for source, target in jobs:
        if not target.name.endswith(WRITTEN):
            raise MarketDataError(
                f"{target}: unknown kind of file; expected a name that ends in "
                f"{', '.join(WRITTEN)}."
            )
        if target in taken:
            raise MarketDataError(
                f"{source}: its scores and those of {taken[target]} would both be {target}: "
                "rename one of them."
            )
        taken[target] = source
        folder = behind_links(target).parent
        if not folder.is_dir():
            raise MarketDataError(f"{folder}: no such folder: make it first.")
        if target.exists() and target.samefile(source):
            raise MarketDataError(f"{target}: is the input; write to another name.")
        if not input.is_dir():  # of a folder, what is missing is done
            refuse_existing(target, overwrite)
    return jobs


def scored_name(name):
    """The name of an input's output in another folder: its own, or that of a CSV file."""
    if name.endswith(WRITTEN):
        return name
    suffix = max((each for each in SUFFIXES if name.lower().endswith(each)), key=len, default="")
    return f"{name[: len(name) - len(suffix)]}.csv"


def check_headers(jobs, model, needed, console):
    """Raise MarketDataError for the first input that lacks a column of the model or of `needed`;
    say what was understood of the headers and cells of the others.
    """
    notes = {source: open_inputs(source, model, needed)[2] for source, _ in jobs}
    for line in note_lines(notes):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def score_files(jobs, way, console):
    """Score each (input file, output file) of `jobs` by `way(jobs, count)`, with progress.

    `way` calls `count` with bytes of input, rows and rows without a score that came to be done.
    """
    done = rows = errors = 0
    total = sum(source.stat().st_size for source, _ in jobs)
    with rows_progress(console, "Scoring", total) as reach:

        def count(new_bytes, new_rows, new_errors):
            nonlocal done, rows, errors
            done, rows, errors = done + new_bytes, rows + new_rows, errors + new_errors
            reach(done, rows)

        way(jobs, count)
    where = jobs[0][1] if len(jobs) == 1 else f"{len(jobs)} files in {jobs[0][1].parent}"
    rest = f"; {errors:,} without a score, whose column error says why" if errors else ""
    console.print(f"{rows:,} rows written to {where}{rest}.", highlight=False, soft_wrap=True)


def say_shift(history, profile, day_shift, console):
    """Say so where the files seem to label days otherwise than the model's training data did."""
    shift = history.changes.likely_shift(profile) if history and profile else 0
    if shift:
        console.print(
            "By the course of volume through the week, these files call a day what the model knows "
            f"as the day {'after' if shift > 0 else 'before'} it, which costs accuracy: score them "
            f"with --day-shift {shift + day_shift} (and --overwrite) if that is so.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )


def score_here(model, jobs, missing, count, *, history, overwrite):
    """Score the files `missing` of `jobs` one after the other, each on all cores; an output appears
    when it is complete. Raises MarketDataError for what is wrong in an input.

    A forecast takes the days before a row from `history`, and reads those that are there already
    too.
    """
    for source, target in jobs if history else missing:
        if (source, target) not in missing:
            read_history(model, source, history)
            continue
        before = 0

        def on_block(position, scored):
            nonlocal before
            count(position - before, len(scored), unscored(scored))
            before = position

        score_file(model, source, target, history=history, overwrite=overwrite, on_block=on_block)
        count(source.stat().st_size - before, 0, 0)


def show_ranking(outputs, top, console, *, coverage):
    """Print the most and the least liquid coins of scored files, and draw them beside the first.

    `coverage` is that of the model's interval, None where no model was asked.
    """
    # Not at the top: they take a second to import, and few ask for them.
    from liquidity.report.market_plots import ranking
    from liquidity.report.ranking import as_table, rank_scores
    from liquidity.report.style import write_png

    ranked = rank_scores(pd.concat(map(_read_scored, outputs), ignore_index=True), top=top)
    console.print(as_table(ranked, top=top, coverage=coverage))
    picture = outputs[0].with_name(f"{outputs[0].name.partition('.')[0]}_top.png")
    write_png(ranking(ranked, f"The {top} most and least liquid coins"), picture)
    console.print(f"Drawn in {picture}.", highlight=False, soft_wrap=True)


def _read_scored(path):
    """The columns of a scored file that a ranking shows."""
    opened = partial(content.open_file, path)
    source, layout, _ = lay_out(opened, path, [COIN, DATE, VOLUME, MARKET_CAP, TARGET], [COIN])
    parts = []
    for block in source.blocks:
        part = {name: block.column(name).to_pandas() for name in ("level", "in_range")}
        part[COIN] = layout.cells(block, COIN).cast("string").to_pandas()
        for name in (TARGET, "lower", "upper"):
            part[name] = parse_numbers(block.column(name))[0]
        for name in (VOLUME, MARKET_CAP):
            part[name] = layout.numbers(block, name)[0] if layout.has(name) else np.nan
        if layout.has(DATE):
            part[DATE] = layout.days(block)[0]
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)
