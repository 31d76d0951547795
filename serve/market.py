"""The market as the snapshot folder has it: read by a process of its own, shown to all workers.

Reading a year of a market takes seconds in which a worker would answer nobody, so a worker starts
a reader. What that has read is handed over as one block of shared memory: an anonymous file of the
server's, as in serve.shared. Of several workers the one that holds its lock has the reader; when it
dies, another takes over.
"""

import fcntl
import io
import logging
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import orjson
import pyarrow as pa

from liquidity.contract import (
    COIN,
    DATE,
    HIGH_24H,
    LOW_24H,
    MARKET_CAP,
    PRICE,
    SYMBOL,
    VOLUME,
)
from serve.past import Outcomes, Past, pack_outcomes
from serve.shared import MARKET

LOG = logging.getLogger("serve")
NUMBERS = (PRICE, VOLUME, MARKET_CAP, HIGH_24H, LOW_24H)  # of a day that are handed over
HEADER = struct.Struct("<QQQI")  # number, offset, length, checksum
START = 64  # of what is handed over
LOOK_SECONDS = 1.0
AGAIN_SECONDS = 10  # until a reader that has ended is started again
NICE = 15
SAY_SECONDS = 5  # from one word on a long reading to the next


class NoMarket(RuntimeError):
    """There is no market to show; `status` is 404 where none is asked for, else 503."""

    def __init__(self, message, status):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Days:
    """All rows of a state, sorted by coin and date, as arrays of shape (rows,), and where the rows
    of each coin begin, of shape (coins + 1,).
    """

    number: int
    coins: list[str]
    starts: np.ndarray
    symbols: list[str | None]
    day: np.ndarray  # days since 1970
    price: np.ndarray
    volume: np.ndarray
    cap: np.ndarray
    high: np.ndarray  # of the price in 24 hours; NaN where a file has none
    low: np.ndarray
    read: str  # when, as an ISO time
    problems: tuple[str, ...] = field(default=())
    reading: str = ""  # how far the first reading is, while there are no rows yet
    past: Past | None = None

    @cached_property
    def newest(self):
        """The position of each coin's newest row, of shape (coins,)."""
        return self.starts[1:] - 1


class Market:
    """The folder `folder` as of a second ago, and of the folder `ledger` how earlier forecasts
    turned out; an empty name means that there is none.

    `on_problem()` is called for each new problem of the folder.
    """

    def __init__(self, folder, *, ledger="", on_problem=lambda: None):
        self.folder, self._ledger = folder, ledger
        self._on_problem = on_problem
        self.on_look = lambda: None  # called each second in the watching thread
        self._days = None
        self._said = ()
        self._number = 0
        self._reader, self._started = None, -AGAIN_SECONDS
        self._leads = False
        self._stop = threading.Event()
        self._thread = None
        if folder:
            self._memory = _memory()
            self._thread = threading.Thread(target=self._watch, name="market", daemon=True)
            self._thread.start()

    def current(self):
        """The Days; raises NoMarket where there are none."""
        if not self.folder:
            raise NoMarket(
                "This server has no folder of snapshots: set LIQUIDITY_SNAPSHOTS to one, such as "
                "what `python -m liquidity.coingecko` fills.",
                404,
            )
        days = self._days
        if days is None or days.reading:
            far = f", {days.reading}" if days else ""
            raise NoMarket(f"The snapshots are being read{far}; try again in a moment.", 503)
        if not days.coins:
            raise NoMarket(
                "The snapshots hold no coin that can be shown; the server's log says why.",
                503,
            )
        return days

    def stop(self):
        """End the reader and the watching thread."""
        self._stop.set()
        if self._thread:
            self._thread.join(2)
            if not self._thread.is_alive():
                os.close(self._memory)
        if self._reader:
            self._reader.kill()
            self._reader.wait()

    def _watch(self):
        failure = None
        while True:
            try:
                self._lead()
                self._take_over()
                self.on_look()
            except Exception as error:  # the thread would end, and the market stay as it is
                if repr(error) != failure:
                    LOG.error("the market cannot be followed", exc_info=error)
                failure = repr(error)
            if self._stop.wait(LOOK_SECONDS):
                return

    def _lead(self):
        """Have a reader where this worker holds the lock."""
        if not self._leads:
            with suppress(BlockingIOError):
                fcntl.flock(self._memory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._leads = True
        if not self._leads or (self._reader and self._reader.poll() is None):
            return
        if self._reader:
            LOG.error("the reader of the snapshots ended (%s)", self._reader.returncode)
            self._on_problem()
            self._reader = None
        if time.monotonic() - self._started < AGAIN_SECONDS:
            return
        self._started = time.monotonic()
        program = f"import sys; sys.path = {sys.path!r}; from serve.market import read_for_ever; "
        program += (
            f"read_for_ever({self._memory}, {self.folder!r}, {self._ledger!r}, {os.getpid()})"
        )
        self._reader = subprocess.Popen(
            [sys.executable, "-c", program],
            pass_fds=[self._memory],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # In a group of its own: Ctrl-C is for the server, which ends it.
            process_group=0,
        )

    def _take_over(self):
        number, data = _read(self._memory, known=self._number)
        if data is None:
            return
        self._days = unpack(number, data)
        self._number = number
        if self._days.reading and self._leads:
            LOG.info("snapshots: being read, %s", self._days.reading)
        problems = [f"snapshots: {each}" for each in self._days.problems]
        problems += [f"ledger: {each}" for each in self._days.past.problems]
        for problem in problems:
            if problem not in self._said and self._leads:
                LOG.error("%s", problem)
                self._on_problem()
        self._said = problems


def _memory():
    if path := os.environ.get(MARKET):
        with suppress(OSError):
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    return os.memfd_create("liquidity-market", os.MFD_CLOEXEC)


def _read(memory, *, known=0):
    """Number and bytes of the last state; None for bytes where there is none, half of one, or the
    one of the number `known`.
    """
    number, offset, length, checksum = _header(memory)
    if number == known:
        return number, None
    data = os.pread(memory, length, offset)
    return number, data if zlib.crc32(data) == checksum else None


def _header(memory):
    try:
        return HEADER.unpack(os.pread(memory, HEADER.size, 0))
    except struct.error:  # nothing has been written yet
        return 0, START, 0, 0


def _write(memory, data):
    """Show `data` from now on; whoever reads meanwhile finds those before."""
    number, offset, length, _ = _header(memory)
    # Beside the state before: in front of it where there is room, else behind it.
    place = START if START + len(data) <= offset else offset + length
    os.pwrite(memory, data, place)
    os.pwrite(memory, HEADER.pack(number + 1, place, len(data), zlib.crc32(data)), 0)
    os.ftruncate(memory, max(place + len(data), offset + length))


def pack(frame, *, problems, read, reading="", outcomes=None, lost=()):
    """Rows as liquidity.data.recent and serve.past have them, and Days' other fields, as bytes;
    `lost` are the ledger's problems.
    """
    symbol = frame[SYMBOL] if SYMBOL in frame else [None] * len(frame)

    def numbers(name):
        return frame[name].to_numpy(float) if name in frame else np.full(len(frame), np.nan)

    table = pa.table(
        {
            COIN: pa.array(frame[COIN], pa.string()).dictionary_encode(),
            SYMBOL: pa.array(symbol, pa.string()),
            DATE: frame[DATE].to_numpy("datetime64[D]").astype(np.int64),
            **{name: numbers(name) for name in NUMBERS},
        }
    )
    table = table.replace_schema_metadata(
        {
            "problems": orjson.dumps([*problems]),
            "read": read.encode(),
            "reading": reading.encode(),
        }
    )
    sink = io.BytesIO()
    for each in (table, pack_outcomes(outcomes, lost)):
        with pa.ipc.new_stream(sink, each.schema) as writer:
            writer.write_table(each)
    return sink.getvalue()


def unpack(number, data):
    """The Days of what `pack` has packed."""
    stream = pa.BufferReader(data)
    table, outcomes = (pa.ipc.open_stream(stream).read_all() for _ in range(2))
    coin = table.column(COIN).combine_chunks()
    codes = coin.indices.to_numpy()
    starts = np.append(np.flatnonzero(np.diff(codes, prepend=-1)), len(codes))
    coins = [coin.dictionary[code].as_py() for code in codes[starts[:-1]]]
    day, price, volume, cap, high, low = (
        table.column(name).to_numpy() for name in (DATE, *NUMBERS)
    )
    symbols = table.column(SYMBOL).take(starts[1:] - 1).to_pylist() if len(coins) else []
    about = table.schema.metadata
    return Days(
        number, coins, starts, symbols, day, price, volume, cap, high, low,
        read=about[b"read"].decode(), problems=tuple(orjson.loads(about[b"problems"])),
        reading=about[b"reading"].decode(), past=Past(outcomes),
    )  # fmt: skip


def read_for_ever(memory, folder, ledger, parent):
    """The reader's process: look at the folders every second, and write what they hold."""
    from datetime import UTC, datetime

    from liquidity.data.recent import Recent
    from liquidity.processes import exit_with_parent, return_freed_memory

    exit_with_parent(parent)
    os.nice(NICE)
    recent, outcomes, first = Recent(folder), Outcomes(ledger), True
    empty, said = not _header(memory)[0], time.monotonic()

    def say(done, total):
        nonlocal said
        if empty and time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            far = f"{done:,} of {total:,} files"
            _write(memory, pack(Recent(folder).rows(), problems=[], read="", reading=far))

    while True:
        changed = recent.update(say)
        if outcomes.update() or changed or first:
            first = empty = False
            now = datetime.now(UTC).isoformat(timespec="seconds")
            found = {"outcomes": outcomes.rows(), "lost": outcomes.problems}
            _write(memory, pack(recent.rows(), problems=recent.problems, read=now, **found))
            del found
            pa.default_memory_pool().release_unused()
            return_freed_memory()
        time.sleep(LOOK_SECONDS)
