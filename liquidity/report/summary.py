"""What a training says on a terminal: what it read, and what came of it."""

from rich.table import Table

from liquidity.contract import CHAMPION, COIN
from liquidity.data.layout import note_lines


def print_read(console, cleaning):
    """What was read, and what was left out and why."""
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in cleaning.dropped.items())
    console.print(
        f"{cleaning.rows_used:,} of {cleaning.rows_read:,} rows of {len(cleaning.files)} file(s) "
        f"used; dropped: {dropped or 'none'}",
        highlight=False,
        soft_wrap=True,
    )
    for line in note_lines(cleaning.notes):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for warning in cleaning.warnings:
        console.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)


def print_destination(console, destination):
    """Which store the runs go to, and where their files."""
    files = (
        "where its server keeps them" if destination.files is None else f"to {destination.files}"
    )
    console.print(
        f"Runs go to {destination.store}, their files {files}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def print_split(console, training, test):
    """How the rows are split."""
    console.print(
        f"{len(training):,} rows of {training[COIN].nunique():,} coins to train on, "
        f"{len(test):,} of {test[COIN].nunique():,} to test on",
        highlight=False,
        soft_wrap=True,
    )


def print_summary(console, trials, worth, *, decision, name, version, look):
    """The five best trials, what the winner is worth, and what to do next; `look` are the lines of
    `looking`.
    """
    top = Table(title=f"The best of {len(trials)} trials", title_justify="left")
    for column in (*trials[0].params, "r2", "+/-"):
        top.add_column(column, justify="right")
    for trial in sorted(trials, key=lambda trial: -trial.r2)[:5]:
        values = [str(trial.params[param]) for param in trials[0].params]
        top.add_row(*values, f"{trial.r2:.4f}", f"{trial.r2_std:.4f}")
    console.print(top)
    lines = [
        worth.conclusion,
        *(f"  test r2 {r2:8.4f}  {whose}" for whose, r2 in worth.scores.items()),
        f"  {worth.sureness}",
        f"Registered {name} version {version} as {decision.role}: {decision.reason}.",
        *look,
        f"Serve:  make serve, or mlflow models serve -m models:/{name}@{CHAMPION} --env-manager uv",
    ]
    print_lines(console, lines)


def looking(page, paths):
    """Lines that say where to look at a run: `page` is MLflow's, `paths` those on it by what they
    show.
    """
    first = f"Look:   {page.command}, then" if page.command else "Look:"
    width = max(map(len, paths))
    return [first, *(f"  {shown:{width}}  {page.address}{path}" for shown, path in paths.items())]


def print_lines(console, lines):
    """Print lines as they are, however long: addresses are there to be copied."""
    if lines:
        console.print("\n".join(lines), highlight=False, soft_wrap=True)
