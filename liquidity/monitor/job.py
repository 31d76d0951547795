"""Write down forecasts and score them when their day comes (python -m liquidity.monitor)."""

from argparse import ArgumentTypeError
from datetime import UTC, date, datetime
from pathlib import Path

import mlflow
import pyarrow as pa
from mlflow.exceptions import MlflowException

from liquidity.command import AUTO, Parser, add_day_shift_option, model_name, run
from liquidity.contract import CHAMPION, MODEL_NAME
from liquidity.errors import OK, STALE, JobError, LiquidityError
from liquidity.locks import locked_folder
from liquidity.monitor import drift, ledger, live
from liquidity.monitor.forecasts import load_forecaster, make_forecasts
from liquidity.monitor.ledger import FORECAST, as_date, as_day
from liquidity.monitor.market import read
from liquidity.monitor.outcomes import last_figures, pending, settle
from liquidity.monitor.reference import check_run, unknown_reference
from liquidity.monitor.report import Report, Standing
from liquidity.monitor.retrain import retrain
from liquidity.monitor.roles import find_roles
from liquidity.progress import elapsed_time, progress_bar
from liquidity.runs.destination import check_destination
from liquidity.runs.recovery import close_dead_runs
from liquidity.runs.store import check_store, quieten_mlflow
from liquidity.runs.tracking import parent_run
from liquidity.terminal import Terminal

PROG = "liquidity.monitor"
HORIZON_LOCKS = ".retrain"  # folder in the ledger that is held while a horizon is trained


def main(argv=None):
    """Run an action; returns the exit code: 0 (fine), 1 (failed), 2 (bad input), 3 (stale), 130."""
    args = parse_arguments(argv)
    quieten_mlflow()
    stale = False

    def job():
        nonlocal stale
        if args.action == "forecast":
            forecast(args, Terminal())
        else:
            stale = check(args, Terminal())

    code = run(
        PROG,
        job,
        failures=(MlflowException, pa.ArrowException),
        afterwards="Nothing is lost: the same command goes on from there.",
    )
    return STALE if code == OK and stale else code


def parse_arguments(argv):
    """The settings; leaves with exit code 2 and one sentence where they make no sense."""
    parser = Parser(prog=PROG, description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "action",
        choices=("forecast", "check"),
        help="write forecasts, or score those whose day came",
    )
    add("--data", required=True, help="a folder, a file or a glob of snapshots")
    add("--ledger", type=Path, default=Path("data/forecasts"), help="folder (data/forecasts)")
    add("--model-name", type=model_name, default=MODEL_NAME)
    add_day_shift_option(parser)
    add(
        "--today",
        type=_day,
        default=AUTO,
        metavar="DATE",
        help="the day that it is, to go through the past (auto: the clock's, UTC)",
    )
    add(
        "--retrain",
        choices=("no", "yes"),
        nargs="?",
        const="yes",
        default="no",
        help="with check: train stale champions again",
    )
    add("--experiment", default=live.EXPERIMENT, help="of live figures and reports")
    return parser.parse_args(argv)


def _day(text):
    if text == AUTO:
        return text
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(
            f"expected a day such as 2026-01-31, or {AUTO}, got {text!r}"
        ) from None


def forecast(args, console):
    """What every champion and challenger says on the last day of the data, into the ledger."""
    check_store()
    roles = find_roles(args.ledger, args.model_name)
    market, today = _market(args, console)
    newest, problems = market.newest(), []
    with ledger.locked(args.ledger):
        for role in roles:
            try:
                if role.version.file(FORECAST, market.last).exists():
                    said = "is there already and stays as it is"
                else:
                    with elapsed_time(console, f"{role.version} ({role.alias})"):
                        model, reference = load_forecaster(role)
                        rows = make_forecasts(
                            role.version, model, reference, market, clock=today, newest=newest
                        )
                    said = f"{rows:,} coins"
                    if reference["problem"]:
                        said += f"; without HAR: {reference['problem']}"
            except LiquidityError as error:  # one broken version keeps no other from forecasting
                problems.append(str(error))
                continue
            _say(console, f"{role.version} ({role.alias}) on {as_date(market.last)}: {said}.")
    if problems:
        raise JobError(" ".join(problems))


def check(args, console):
    """Score what has come, log and report it; returns whether anything is stale at the end."""
    check_store()
    check_destination(args.experiment)
    roles = find_roles(args.ledger, args.model_name)
    versions = ledger.versions(args.ledger, args.model_name)
    market, today = _market(args, console)
    with ledger.locked(args.ledger):
        aliases = {role.version: role for role in roles}
        notes, references = [], {}
        for version in versions:
            references[version] = _reference(version, aliases.get(version), notes)
        scored, lapsed = _settle(versions, market, console)
        experiment_id = live.experiment_id(args.experiment)
        with elapsed_time(console, "Logging live figures"):
            for version in versions:
                live.log_outcomes(version, references[version], experiment_id=experiment_id)
    standings = [
        _standing(version, aliases.get(version), references[version], market, today)
        for version in versions
        if version in aliases or pending(version)
    ]
    missing = [r.version for r in roles if r.alias == CHAMPION and r.version not in versions]
    notes += [f"{version} has made no forecast yet: run `{PROG} forecast`." for version in missing]
    findings = drift.judge_market(market, today)
    report = Report(market.last, findings, standings, scored, lapsed, notes)
    for standing in standings:
        _tag(standing, findings, notes)
    _say(console, report.text())
    run_id = _log_report(args, report)
    if args.retrain == "yes":
        return _retrain(args, report, console, run_id)
    return bool(report.stale or report.findings)


def _market(args, console):
    today = as_day(datetime.now(UTC).date() if args.today == AUTO else args.today)
    with elapsed_time(console, f"Reading {args.data}"):
        return read(args.data, day_shift=args.day_shift, today=today), today


def _reference(version, role, notes):
    """What a version is compared with; of a version that is gone, what can be said without it."""
    found = ledger.read_reference(version)
    if found is None and role is not None:
        return load_forecaster(role)[1]
    if found is None:
        notes.append(f"{version}: its {ledger.REFERENCE} is gone, so usual values are taken.")
        return unknown_reference("its reference is gone")
    if role is not None:
        check_run(version, found, role.registered.run_id)
    return found


def _settle(versions, market, console):
    """Write the outcomes of all versions; returns how many rows were scored and how many lapsed."""
    due = {version: [d for d in pending(version) if d <= market.last] for version in versions}
    total = sum(map(len, due.values()))
    scored = lapsed = 0
    if total:
        with progress_bar(console, "Days", total) as advance:
            for version, each in due.items():
                for day, some, none in settle(version, each, market):
                    scored, lapsed = scored + some, lapsed + none
                    advance(f"{version} {as_date(day)}")
    return scored, lapsed


def _standing(version, role, reference, market, today):
    """How a version stands; findings are on champions only, and others are told beside them."""
    days = last_figures(version, reference["threshold"], most=drift.MONTH)
    alias = role.alias if role else "former"
    standing = Standing(version, alias, days, reference, len(pending(version)))
    if alias != CHAMPION:
        return standing
    registered = role.registered.creation_timestamp // live.DAY_MS
    standing.findings = drift.judge_champion(
        version, days, reference, market, registered=registered, today=today
    )
    if reference["features"]:
        standing.features = drift.feature_drift(reference["features"], market.newest()[1])
    return standing


def _tag(standing, findings, notes):
    """The version's live tags; a version that the registry does not have any more stays a note."""
    tags = live.live_tags(standing.days)
    if standing.role == CHAMPION:
        all_ = [f"The data: {f.said}" for f in findings] + [f.said for f in standing.findings]
        tags |= {"live_verdict": "stale" if all_ else "fine", "live_reason": "; ".join(all_)}
    try:
        live.tag_version(standing.version, tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        notes.append(f"{standing.version} is not in the registry any more; its figures are kept.")


def _log_report(args, report):
    """A run with the report; returns its id."""
    close_dead_runs("monitor")
    tags = {"monitor.day": str(as_date(report.last)), "monitor.verdict": report.headline()[0]}
    params = {"data": args.data, "ledger": args.ledger, "model_name": args.model_name}
    with parent_run(experiment=args.experiment, params=params, tags=tags) as run:
        mlflow.log_metrics(
            {"scored": report.scored, "lapsed": report.lapsed, "stale": len(report.stale)}
        )
        mlflow.log_text(report.page(), "report.html")
        mlflow.log_text(report.text(), "report.txt")
    return run.info.run_id


def _retrain(args, report, console, run_id):
    """Train stale champions again where that can help; returns whether anything is stale still."""
    still, failures = bool(report.findings), []
    for standing in report.stale:
        version = standing.version
        faults = [*report.findings, *(f for f in standing.findings if not f.retrain)]
        if faults:
            said = "not trained again: first correct the data, " + faults[0].said
            replaced = False
        else:
            replaced, said = _train(args, version, report.last, failures)
        _say(console, f"{version}: {said}.")
        live.note_in_run(run_id, {f"retrained.{version.horizon}d": said})
        still = still or not replaced
    if failures:
        raise JobError(" ".join(failures))
    return still


def _train(args, version, last, failures):
    """`(replaced, said)` of one training; another process that is at it is left to it."""
    folder = args.ledger / version.name / HORIZON_LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked_folder(folder):
            return retrain(
                version,
                data=args.data,
                day_shift=args.day_shift,
                last=last,
                model_name=args.model_name,
            )
    except TimeoutError:
        return False, "another process is training it"
    except JobError as error:
        failures.append(str(error))
        return False, "the training failed"


def _say(console, text):
    console.print(text, highlight=False, markup=False, soft_wrap=True)
