"""What Prometheus reads: requests, latencies, scored rows and the served version."""

import threading
from bisect import bisect_left
from collections import defaultdict
from datetime import datetime
from itertools import accumulate
from time import time

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from liquidity.contract import STALE
from serve.live import FIGURES
from serve.shared import Places

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "liquidity_"
# Text and labels by name.
COUNTERS = {
    "requests": ("Requests by door and status", ["door", "status"]),
    "rows_scored": ("Rows scored", []),
    "rows_high": ("Rows scored High", []),
    "rows_out_of_range": ("Rows outside the model's training range", []),
    "model_refresh_failures": ("Times that the registry or its version could not be used", []),
    "snapshots_failures": (
        "Times that a snapshot file, one of the ledger or a folder could not be read",
        [],
    ),
    "log_lines_lost": ("Lines of the log that nobody took, or its disk had no room for", []),
}
LATENCY = "request_seconds"
FOLLOWED = "When the registry last answered and what it names was served"
GAUGES = {
    # The version is a value: a label could not be removed after a swap.
    "model_version": ("Served version", []),
    "model_loaded_timestamp_seconds": ("When it was loaded", []),
    "model_load_seconds": ("How long that took", []),
    "model_followed_timestamp_seconds": (FOLLOWED, []),
    "forecast_version": ("Served version", ["horizon"]),
    "forecast_followed_timestamp_seconds": (FOLLOWED, ["horizon"]),
    **{f"forecast_live_{name}": (each.said, ["horizon"]) for name, each in FIGURES.items()},
    "forecast_live_until_timestamp_seconds": ("The last day that is in them", ["horizon"]),
    "forecast_live_stale": ("1 where the last check found it stale, else 0", ["horizon"]),
}
# Of these the worker counts that is worst off, of the others the one that spoke last.
WORST = ("model_followed_timestamp_seconds", "forecast_followed_timestamp_seconds")


class Metrics:
    """The numbers of one worker; `exposition` adds up those of all workers.

    They are kept in memory, and shown to the other workers by `publish`. Nothing here waits or
    raises for a disk.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._places = Places()
        # By name and labels; of a gauge with the time that it was set at.
        self._counts, self._gauges = defaultdict(float), {}
        self._changed = False
        if before := self._places.read_own():  # of a worker that has ended; counts never go back
            self._counts.update(_decode(before)[0])

    def answered(self, door, status, seconds):
        """Count a request."""
        bucket = str(bisect_left(SECONDS, seconds))
        with self._lock:
            self._counts["requests", door, str(status)] += 1
            self._counts[LATENCY, door, bucket] += 1
            self._counts[LATENCY, door, "sum"] += seconds
            self._changed = True

    def scored(self, rows, high, outside):
        """Count scored rows, the High ones and those outside the training range among them."""
        self._count(rows_scored=rows, rows_high=high, rows_out_of_range=outside)

    def swapped(self, served):
        """Note which version is served from now on."""
        self._set("model_version", int(served.info["version"]))
        self._set("model_loaded_timestamp_seconds", time())
        self._set("model_load_seconds", served.info["load_seconds"])

    def followed(self, followed):
        """Note that what the registry names is what is served."""
        self._set("model_followed_timestamp_seconds", time())

    def forecast_swapped(self, served):
        """Note which version of a horizon is served from now on."""
        self._set("forecast_version", int(served.info["version"]), served.model.horizon)

    def forecast_followed(self, followed):
        """Note the same of a horizon, and how its last forecasts turned out."""
        horizon, live = followed.served.model.horizon, followed.live or {}
        self._set("forecast_followed_timestamp_seconds", time(), horizon)
        values = {name: live.get(name) for name in FIGURES}
        if until := live.get("until"):
            until = datetime.fromisoformat(f"{until} 00:00Z").timestamp()
        values["until_timestamp_seconds"] = until
        values["stale"] = float(live["verdict"] == STALE) if "verdict" in live else None
        for name, value in values.items():
            self._set(f"forecast_live_{name}", value, horizon)

    def refresh_failed(self):
        """Count a failed refresh."""
        self._count(model_refresh_failures=1)

    def snapshots_failed(self):
        """Count a snapshot file, or one of the ledger, that cannot be read."""
        self._count(snapshots_failures=1)

    def lines_lost(self, lines):
        """Count lines that never reached the log."""
        self._count(log_lines_lost=lines)

    def publish(self):
        """Show the other workers what has changed."""
        with self._lock:
            if not self._changed:
                return
            self._changed = False
            data = self._encode()
        self._places.write(data)

    def exposition(self):
        """The metrics of all workers in Prometheus' text format, as bytes."""
        with self._lock:
            own = self._encode()
        registry = CollectorRegistry()
        registry.register(_Collected([own, *self._places.others()]))
        return generate_latest(registry)

    def _count(self, **numbers):
        with self._lock:
            for name, number in numbers.items():
                self._counts[(name,)] += number
            self._changed = True

    def _set(self, name, value, *labels):
        """None is for what is not known any more; it is told to the other workers too."""
        with self._lock:
            self._gauges[name, *map(str, labels)] = value, time()
            self._changed = True

    def _encode(self):
        return orjson.dumps([[*self._counts.items()], [*self._gauges.items()]])


def _decode(data):
    counts, gauges = orjson.loads(data)
    return (
        {tuple(key): number for key, number in counts},
        {tuple(key): tuple(value) for key, value in gauges},
    )


class _Collected:
    """The numbers of several workers, as prometheus_client collects them."""

    def __init__(self, workers):
        self._counts, self._gauges = defaultdict(float), {}
        for data in workers:
            counts, gauges = _decode(data)
            for key, number in counts.items():
                self._counts[key] += number
            for key, value in gauges.items():
                self._gauges[key] = self._chosen(key, value)

    def _chosen(self, key, value):
        before = self._gauges.get(key, value)
        return min(before, value) if key[0] in WORST else max(before, value, key=lambda v: v[1])

    def collect(self):
        for name, (text, labels) in COUNTERS.items():
            family = CounterMetricFamily(PREFIX + name, text, labels=labels)
            found = self._labelled(self._counts, name) or ({} if labels else {(): 0.0})
            for values, number in sorted(found.items()):
                family.add_metric(values, number)
            yield family
        yield self._latencies()
        for name, (text, labels) in GAUGES.items():
            family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
            for values, (number, _) in sorted(self._labelled(self._gauges, name).items()):
                if number is not None:
                    family.add_metric(values, number)
            yield family

    def _latencies(self):
        family = HistogramMetricFamily(PREFIX + LATENCY, "Time to answer by door", labels=["door"])
        found = self._labelled(self._counts, LATENCY)
        edges = [*map(str, map(float, SECONDS)), "+Inf"]
        for door in sorted({door for door, _ in found}):
            numbers = accumulate(found.get((door, str(i)), 0.0) for i in range(len(edges)))
            buckets = list(zip(edges, numbers, strict=True))
            family.add_metric([door], buckets, found.get((door, "sum"), 0.0))
        return family

    @staticmethod
    def _labelled(numbers, name):
        return {key[1:]: number for key, number in numbers.items() if key[0] == name}
