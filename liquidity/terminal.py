"""The terminal of the jobs."""

from rich.console import Console
from rich.segment import Segment

from liquidity.printable import printable


class Terminal(Console):
    """A console that shows text as it is: names of coins, columns and files come from others, and
    may hold what looks like markup, or what a terminal would obey.
    """

    def __init__(self, **options):
        super().__init__(markup=False, **options)

    def say(self, text):
        """Print a sentence as it is, in one line however long it is."""
        self.print(text, highlight=False, markup=False, soft_wrap=True)

    def say_some(self, sentences, *, most=10):
        """Print the first `most` sentences, and how many more there are."""
        for sentence in sentences[:most]:
            self.say(sentence)
        if len(sentences) > most:
            self.say(f"and {len(sentences) - most:,} more.")

    def render(self, renderable, options=None):  # noqa: D102
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)
