"""The progress bar of long jobs, and what stands in for it where there is no terminal."""

import threading
import time
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINES = 9  # how many where there is no terminal


class _WaitsIncluded(ProgressColumn):
    """The time left if the rest goes as fast as what is done: it grows while nothing goes on."""

    def render(self, task):
        return Text(_left(task) or "-:--:--", style="progress.remaining")


def _left(task):
    """The time left of a rich task as a text, or None before the first step."""
    if not (task.completed and task.elapsed):
        return None
    return duration(task.elapsed / task.completed * (task.total - task.completed)) + " left"


def duration(seconds):
    """A time to wait, as people say it."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def progress_bar(console, title, total, *, waits=False):
    """Yields `advance(note)`: one step further, with a note beside the bar.

    With `waits`, work that stands still now and then: the time left counts that too, and is told
    without a terminal as well.
    """
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),  # it may be a coin's name
        _WaitsIncluded() if waits else TimeRemainingColumn(),
    )
    done = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, note="")

        def advance(note):
            nonlocal done
            done += 1
            bar.update(task, advance=1, note=note)
            # The first one too: until it comes nobody knows how long the others will take.
            told = done in (1, total) or done % max(1, total // LINES) == 0
            if not console.is_terminal and told:
                left = f", {_left(bar.tasks[0])}" if waits and done < total else ""
                console.print(f"{title} {done}/{total} {note}{left}", highlight=False)

        yield advance


@contextmanager
def elapsed_time(console, title):
    """Show that and for how long the block works, where nobody can tell how long it will."""
    if not console.is_terminal:
        console.print(title, highlight=False, soft_wrap=True)
    # Not the title itself as a column: it would be taken for a format with markup.
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        bar.add_task(title, total=None)
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
