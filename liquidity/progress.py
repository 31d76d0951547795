"""The progress bar of long jobs, and what stands in for it where there is no terminal."""

import threading
import time
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINES = 9  # how many where there is no terminal


@contextmanager
def progress_bar(console, title, total, *, window=30):
    """Yields `advance(note)`: one step further, with a note beside the bar.

    The time left is told from the last `window` seconds: what stands still for longer now and then
    needs a longer one. Without a terminal it is part of the note, if at all.
    """
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),  # it may be a coin's name
        TimeRemainingColumn(),
    )
    done = 0
    with Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=window,
    ) as bar:
        task = bar.add_task("", total=total, note="")

        def advance(note):
            nonlocal done
            done += 1
            bar.update(task, advance=1, note=note)
            if not console.is_terminal and (done % max(1, total // LINES) == 0 or done == total):
                console.print(f"{title} {done}/{total} {note}", highlight=False)

        yield advance


@contextmanager
def elapsed_time(console, title):
    """Show that and for how long the block works, where nobody can tell how long it will."""
    if not console.is_terminal:
        console.print(title, highlight=False)
    columns = SpinnerColumn(), TextColumn(title), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        bar.add_task("", total=None)
        yield


@contextmanager
def notice(console, text, *, seconds=5):
    """Print `text` once if the block takes longer than `seconds`."""
    timer = threading.Timer(seconds, console.print, [text], {"style": "yellow"})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def rows_progress(console, title, total):
    """Yields `reach(position, rows)`: so much of `total` (bytes, say) is done, which is so many
    rows; shows the share, the rows, rows per second and the time left.
    """
    columns = (
        TextColumn(title),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    started, said = time.monotonic(), 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, note="")

        def reach(position, rows):
            nonlocal said
            note = f"{rows:,} rows, {rows / (time.monotonic() - started):,.0f} rows/s"
            bar.update(task, completed=position, note=note)
            if not console.is_terminal and position * LINES // max(1, total) > said:
                said = position * LINES // max(1, total)
                console.print(f"{title} {position / total:.0%} {note}", highlight=False)

        yield reach
