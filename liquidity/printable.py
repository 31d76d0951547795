"""Text for a terminal or a log: no control characters in it, and no passwords."""

import re

# What moves a cursor, colours, renames a window or turns the order of letters round, and the bytes
# of a file's name that are no UTF-8. Line breaks and tabs are ours.
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# In a URI: from the colon behind the user to the last @ before a blank, as people write passwords;
# a port and a path are none.
PASSWORD = re.compile(
    r"(://[^\s:/@]*:)(?!\d+/)\S+(?=@)|([?&](?:password|passwd|pwd|token)=)[^\s&'\"]+", re.I
)


def printable(text):
    """The text with control characters written as Python writes them, and *** for passwords."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], without_passwords(text))


def without_passwords(text):
    """The text with *** for the password of each URI in it."""
    return PASSWORD.sub(lambda found: f"{found[1] or found[2]}***", text)
