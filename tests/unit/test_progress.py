"""What long jobs show of themselves, on a terminal and without one."""

import io

import pytest

from liquidity.progress import elapsed_time, progress_bar
from liquidity.terminal import Terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_a_title_may_hold_what_looks_like_a_format_or_markup(terminal):
    """It names a file of somebody's."""
    console = Terminal(file=io.StringIO(), force_terminal=terminal, width=200)
    title = "Reading {task}[/nothing][bold].csv"
    with elapsed_time(console, title):
        pass
    assert title in console.file.getvalue()


def test_without_a_terminal_the_first_step_is_told_and_the_last():
    console = Terminal(file=io.StringIO(), width=80)
    with progress_bar(console, "Trials", 100) as advance:
        for number in range(100):
            advance(f"{number}")
    said = console.file.getvalue().splitlines()
    assert said[0] == "Trials 1/100 0"
    assert said[-1] == "Trials 100/100 99"
    assert len(said) == 11
