"""What runs, versions and models say of themselves on MLflow's pages, in Markdown."""

from liquidity.contract import CHALLENGER, CHAMPION, COIN, DATE, TARGET


def run_note(worth, trials, decision, *, version, links):
    """The note of a run: verdict, where to look, worth, baselines, best trial and reason.

    `version` is the version as a link, `links` addresses by what they show.
    """
    best = max(trials, key=lambda trial: trial.r2)
    params = ", ".join(f"{name} {value}" for name, value in best.params.items())
    ours, *others = worth.scores
    looks = " | ".join(f"[{shown}]({address})" for shown, address in links.items())
    return "\n".join(
        [
            # All on the first line: the page folds what comes later.
            f"**{version} is {decision.role}** | {looks}",
            "",
            worth.conclusion,
            "",
            "| on the test rows | r2 |",
            "|---|---:|",
            f"| **{ours}** | **{worth.scores[ours]:.4f}** |",
            *(f"| {name} | {worth.scores[name]:.4f} |" for name in others),
            "",
            sentence(worth.sureness),
            "",
            f"The best of {len(trials)} trials by the mean r2 of {len(best.fold_scores)} folds, "
            f"{best.r2:.4f} +/- {best.r2_std:.4f}: {params}.",
            "",
            f"Why {decision.role}: {decision.reason}.",
        ]
    )


def version_note(worth, task, *, source):
    """What a version is known by: its figures, and the rows that it was trained and tested on."""
    training, test = task.training, task.test
    return sentence(
        f"{worth.figures}; trained on {len(training):,} rows of {training[COIN].nunique():,} coins "
        f"of {source}, {training[DATE].min():%Y-%m-%d} to {training[DATE].max():%Y-%m-%d}, tested "
        f"on {len(test):,}"
    )


def model_note(task, name):
    """What the models of a name answer, and which of them."""
    when = f"{task.ahead}, from the days before" if task.horizon else "of the same row"
    return (
        f"How liquid a coin is: {TARGET}, High or Low and an interval, {when}. Inputs: "
        f"{', '.join(task.features)}. Servers answer from `models:/{name}@{CHAMPION}`; "
        f"`@{CHALLENGER}` is the newest version that did not take its place."
    )


def sentence(clause):
    """The clause with a capital letter and a full stop."""
    return f"{clause[:1].upper()}{clause[1:]}."
