"""What the workers of one server show each other: a place for each, in memory.

A file that is mapped into memory would end a worker by SIGBUS as soon as its disk is full, and a
folder can be deleted. These places are anonymous files of the parent's, which have neither disk
nor name; workers open them by way of /proc.
"""

import fcntl
import os
import struct
import zlib
from contextlib import contextmanager, suppress

VARIABLE, MARKET = "LIQUIDITY_SHARED", "LIQUIDITY_MARKET"
HALF = 2**18  # bytes
HEADER = struct.Struct("<QII")  # number, length, checksum


@contextmanager
def shared_places(count):
    """Make places for `count` workers, which find them by an environment variable."""
    descriptors = []
    with suppress(AttributeError, OSError):  # another system than Linux: each worker by itself
        descriptors += [os.memfd_create("liquidity-worker") for _ in range(count)]
    os.environ[VARIABLE] = ":".join(f"/proc/{os.getpid()}/fd/{each}" for each in descriptors)
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        for descriptor in descriptors:
            os.close(descriptor)


@contextmanager
def shared_market():
    """Make the memory in which workers find the market, by an environment variable."""
    try:
        descriptor = os.memfd_create("liquidity-market")
    except (AttributeError, OSError):  # another system than Linux: each worker by itself
        yield
        return
    os.environ[MARKET] = f"/proc/{os.getpid()}/fd/{descriptor}"
    try:
        yield
    finally:
        del os.environ[MARKET]
        os.close(descriptor)


class Places:
    """The places that `shared_places` has made: this worker's own, and the others'.

    A worker that takes the place of one that has died finds what that one has left in it. Without
    places `own` writes nothing and `others` are none.
    """

    def __init__(self):
        self._own, self._others, self._number = None, [], 0
        for path in filter(None, os.environ.get(VARIABLE, "").split(":")):
            with suppress(OSError):
                self._take(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def _take(self, descriptor):
        if self._own is None:
            with suppress(BlockingIOError):  # of a worker that lives
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._own = descriptor
                return
        self._others.append(descriptor)

    def read_own(self):
        """The bytes that were last written here, by this worker or the one before it, or None."""
        if self._own is None:
            return None
        self._number, data = _read(self._own)
        return data

    def others(self):
        """The bytes that each of the other workers has last written."""
        found = (_read(descriptor)[1] for descriptor in self._others)
        return [data for data in found if data is not None]

    def write(self, data):
        """Show `data` from now on. Whoever reads meanwhile finds those before, and so it is after
        a kill -9 in the middle: they are in the other half.
        """
        if self._own is None or len(data) > HALF - HEADER.size:
            return
        number = self._number + 1
        header = HEADER.pack(number, len(data), zlib.crc32(data))
        with suppress(OSError):  # no memory; the next one may fit
            os.pwrite(self._own, header + data, number % 2 * HALF)
            self._number = number


def _read(descriptor):
    """Number and bytes of the newest half that is whole; 0 and None where there is none."""
    found = [(0, None)]
    for half in (0, 1):
        with suppress(OSError, struct.error):
            number, length, checksum = HEADER.unpack(os.pread(descriptor, HEADER.size, half * HALF))
            data = os.pread(descriptor, min(length, HALF), half * HALF + HEADER.size)
            if number and len(data) == length and zlib.crc32(data) == checksum:
                found.append((number, data))
    return max(found, key=lambda each: each[0])
