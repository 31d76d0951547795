"""The command line of every job: options whose errors are one sentence, and one way to end."""

import argparse
import sys

from liquidity.errors import BAD_INPUT, FAILED, OK, STOPPED, LiquidityError, first_line
from liquidity.printable import printable
from liquidity.processes import stop_signals

AUTO = "auto"  # an option whose default depends on others


def run(prog, job, *, failures=(), afterwards=""):
    """Call `job()` and return the command's exit code: 0, 1 (failed), 2 (bad input), 130 (stopped).

    Whatever went wrong is said on stderr in the name of `prog`. `failures` are the exceptions of
    libraries that a store, a format or a network may raise at any moment; `afterwards` is what a
    user may want to know of a job that was stopped or failed in the middle.
    """
    try:
        with stop_signals():
            job()
    except KeyboardInterrupt as error:
        said, code = f"stopped. {str(error).strip()}", STOPPED
    except LiquidityError as error:
        said, code = str(error), error.exit_code
    except (OSError, MemoryError, *failures) as error:
        said, code = f"{type(error).__name__}: {first_line(error)}.", FAILED
    else:
        return OK
    if code == FAILED:
        said = f"failed: {said}"
    if code != BAD_INPUT and afterwards:
        said = f"{said.strip()} {afterwards}"
    print(printable(f"{prog}: {said.strip()}"), file=sys.stderr)
    return code


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


def _number(text):
    try:
        return float(text)
    except ValueError:
        return float("nan")
