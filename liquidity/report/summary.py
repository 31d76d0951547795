"""What a training says on a terminal: what it read, and what came of it."""

from rich.table import Table

from liquidity.contract import CHAMPION, COVERAGE, RATIO, percent


def print_data(console, cleaning, training, test):
    """What was read, what was left out and why, and how the rest is split."""
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in cleaning.dropped.items())
    console.print(
        f"{cleaning.rows_used:,} of {cleaning.rows_read:,} rows of {len(cleaning.files)} file(s) "
        f"used; dropped: {dropped or 'none'}\n"
        f"{len(training):,} rows of {training['coin'].nunique():,} coins to train on, "
        f"{len(test):,} of {test['coin'].nunique():,} to test on",
        highlight=False,
        soft_wrap=True,
    )
    for warning in cleaning.warnings:
        console.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)


def print_summary(console, trials, metrics, decision, *, name, version):
    """The five best trials, the test figures beside the baselines, and what to do next."""
    top = Table(title=f"The best of {len(trials)} trials", title_justify="left")
    for column in (*trials[0].params, "r2", "+/-"):
        top.add_column(column, justify="right")
    for trial in sorted(trials, key=lambda trial: -trial.r2)[:5]:
        values = [str(trial.params[param]) for param in trials[0].params]
        top.add_row(*values, f"{trial.r2:.4f}", f"{trial.r2_std:.4f}")
    console.print(top)
    lines = [
        f"  test r2 {metrics['test_r2']:8.4f}  tuned forest",
        f"  test r2 {metrics['baseline_test_r2']:8.4f}  untuned forest",
        f"  test r2 {metrics['formula_test_r2']:8.4f}  {RATIO}",
        f"  test r2 {metrics['mean_test_r2']:8.4f}  mean of the training rows",
        f"  the {percent(COVERAGE)} interval holds {metrics['interval_coverage']:.0%} of the test "
        f"rows; High: precision {metrics['high_precision']:.2f}, "
        f"recall {metrics['high_recall']:.2f}",
        f"Registered {name} version {version} as {decision.role}: {decision.reason}.",
        "Look:   mlflow ui --port 5001",
        f"Serve:  make serve, or mlflow models serve -m models:/{name}@{CHAMPION} --env-manager uv",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
