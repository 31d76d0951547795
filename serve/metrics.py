"""What Prometheus reads: requests, latencies, scored rows and the served version."""

import os
from time import time

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one worker; `exposition` adds up those of all workers.

    Workers share their numbers through the folder PROMETHEUS_MULTIPROC_DIR, which has to be set
    before this module is imported; without it there is one worker.
    """

    def __init__(self):
        registry = self._registry = CollectorRegistry()
        prefix = {"namespace": "liquidity", "registry": registry}
        self._requests = Counter(
            "requests_total", "Requests by door and status", ["door", "status"], **prefix
        )
        self._seconds = Histogram(
            "request_seconds", "Time to answer by door", ["door"], buckets=SECONDS, **prefix
        )
        self._rows = Counter("rows_scored_total", "Rows scored", **prefix)
        self._high = Counter("rows_high_total", "Rows scored High", **prefix)
        self._outside = Counter(
            "rows_out_of_range_total", "Rows outside the model's training range", **prefix
        )
        self._failures = Counter(
            "model_refresh_failures_total",
            "Times that the registry or its version could not be used",
            **prefix,
        )
        # The version is a value: a label could not be removed after a swap.
        newest = prefix | {"multiprocess_mode": "mostrecent"}
        self._version = Gauge("model_version", "Served version", **newest)
        self._loaded = Gauge("model_loaded_timestamp_seconds", "When it was loaded", **newest)
        self._load_seconds = Gauge("model_load_seconds", "How long that took", **newest)
        self._children = {}

    def answered(self, door, status, seconds):
        """Count a request."""
        children = self._children.get((door, status))
        if children is None:
            # Looking labels up costs more than counting.
            children = self._requests.labels(door, status), self._seconds.labels(door)
            self._children[door, status] = children
        requests, latency = children
        requests.inc()
        latency.observe(seconds)

    def scored(self, rows, high, outside):
        """Count scored rows, the High ones and those outside the training range among them."""
        self._rows.inc(rows)
        if high:
            self._high.inc(high)
        if outside:
            self._outside.inc(outside)

    def swapped(self, served):
        """Note which version is served from now on."""
        self._version.set(int(served.info["version"]))
        self._loaded.set(time())
        self._load_seconds.set(served.info["load_seconds"])

    def refresh_failed(self):
        """Count a failed refresh."""
        self._failures.inc()

    def exposition(self):
        """The metrics of all workers in Prometheus' text format, as bytes."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)
