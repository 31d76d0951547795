"""The progress bar of long jobs, and what stands in for it where there is no terminal."""

from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINES = 9  # how many where there is no terminal


@contextmanager
def progress_bar(console, title, total):
    """Yields `advance(note)`: one step further, with a note beside the bar."""
    columns = (
        TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    done = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, note="")

        def advance(note):
            nonlocal done
            done += 1
            bar.update(task, advance=1, note=note)
            if not console.is_terminal and (done % max(1, total // LINES) == 0 or done == total):
                console.print(f"{title} {done}/{total} {note}", highlight=False)

        yield advance
