"""Command lines whose errors are one sentence: the parser and its number types."""

import argparse


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence instead of twenty lines of usage."""

    def error(self, message):  # noqa: D102
        self.exit(2, f"{self.prog}: {message}.\n")


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


def _number(text):
    try:
        return float(text)
    except ValueError:
        return float("nan")
