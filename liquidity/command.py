"""The command line of every job: options whose errors are one sentence, and one way to end."""

import argparse
import atexit
import gc
import re
import sys

from liquidity.contract import LONGEST_HORIZON
from liquidity.errors import (
    BAD_INPUT,
    FAILED,
    OK,
    STOPPED,
    LiquidityError,
    SettingsError,
    first_line,
)
from liquidity.printable import printable
from liquidity.processes import stop_signals

AUTO = "auto"  # an option whose default depends on others


def run(prog, job, *, failures=(), afterwards=""):
    """Call `job()` and return the command's exit code: 0, 1 (failed), 2 (bad input), 130 (stopped).

    Whatever went wrong is said on stderr in the name of `prog`. `failures` are the exceptions of
    libraries that a store, a format or a network may raise at any moment; `afterwards`, like the
    notes of an exception, is what a user may want to know of a job that was stopped or failed in
    the middle.
    """
    # To take apart what was imported, object by object, keeps a program a second from its end.
    atexit.register(gc.freeze)
    try:
        with stop_signals():
            job()
    except KeyboardInterrupt as error:
        failure, said, code = error, f"stopped. {str(error).strip()}", STOPPED
    except LiquidityError as error:
        failure, said, code = error, str(error), error.exit_code
    except (OSError, MemoryError, *failures) as error:
        failure, said, code = error, f"{type(error).__name__}: {first_line(error)}.", FAILED
    else:
        return OK
    if code == FAILED:
        said = f"failed: {said}"
    if code != BAD_INPUT:
        said = " ".join(part for part in (said.strip(), *_notes(failure), afterwards) if part)
    print(printable(f"{prog}: {said.strip()}"), file=sys.stderr)
    return code


def _notes(error):
    """The notes of an exception and of those that it came from."""
    notes = []
    while error:
        notes += getattr(error, "__notes__", ())
        error = error.__cause__
    return notes


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence instead of twenty lines of usage."""

    def error(self, message):  # noqa: D102
        self.exit(BAD_INPUT, printable(f"{self.prog}: {message}.\n"))


def whole_number(lowest):
    """The argument type of whole numbers from `lowest` up to 2^32."""

    def parse(text):
        # `-P cv=5.0` is how some programs write 5.
        value = float(text) if text.replace(".", "", 1).lstrip("-").isdigit() else float("nan")
        if not (value >= lowest and value < 2**32 and value == int(value)):
            raise argparse.ArgumentTypeError(f"expected a whole number >= {lowest}, got {text!r}")
        return int(value)

    return parse


def add_day_shift_option(parser):
    """The option of the jobs that read dates."""
    parser.add_argument(
        "--day-shift",
        type=int,
        choices=(-1, 0, 1),
        default=0,
        help="days to add to every date; -1 where the value of 00:00 UTC has its own date (0)",
    )


def share(text):
    """The argument type of shares between 0 and 1, both excluded."""
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text!r}")
    return value


def share_or_all(text):
    """The argument type of shares above 0 up to 1, which is all."""
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0, at most 1, got {text!r}")
    return value


def auto_or(parse):
    """The argument type of values that `parse` takes, and of AUTO, which stays as it is."""
    return lambda text: text if text == AUTO else parse(text)


def model_name(text):
    """The argument type of names in the registry."""
    if not text.strip() or set(text) & set("/:"):
        raise argparse.ArgumentTypeError(f"expected a name without / and :, got {text!r}")
    return text


def parse_horizons(text):
    """The horizons of a comma-separated list, in its order; raises SettingsError."""
    horizons = [part.strip() for part in text.split(",")]
    for part in horizons:
        if not re.fullmatch(r"[0-9]{1,2}(\.0*)?", part) or float(part) > LONGEST_HORIZON:
            raise SettingsError(
                f"horizon: expected whole numbers of days from 0 to {LONGEST_HORIZON}, separated "
                f"by commas, got {part!r} in {text!r}"
            )
    horizons = [int(float(part)) for part in horizons]
    if len(set(horizons)) < len(horizons):
        raise SettingsError(f"horizon: expected each number once, got {text!r}")
    return horizons


def _number(text):
    try:
        return float(text)
    except ValueError:
        return float("nan")
