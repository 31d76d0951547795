"""A local server that plays CoinGecko's /coins/markets and /coins/{id}/market_chart."""

import json
import math
import socket
import threading
from collections import Counter
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from support import coin

DAY = 86_400_000
LIMIT = {"status": {"error_code": 429, "error_message": "You've exceeded the Rate Limit."}}


def series(number, day):
    """Price, volume and cap of a coin on a day (days since 1970), always the same."""
    cap = 1e10 / number * (1 + 0.1 * math.sin(day / 9 + number))
    return cap / 1e7, cap * (0.1 + 0.05 * math.sin(day + number)), cap


class Vendor(ThreadingHTTPServer):
    """Plays a market of `coins` coins, up for the time of a with block.

    `answered` counts the whole charts by id, `calls` has every path with its query. `fields` are
    those of a coin that are other than usual, `charts` are answered as they stand. A coin's
    `faults` are played in turn before its chart, the last one again and again: None, `(status,
    headers, body)`, or a function of the request. `limit` is `(calls, refusals, headers)`: after
    so many calls so many are answered with 429. `listed[number]` is how many days ago a coin was,
    `hourly` that the interval is not heeded.
    """

    daemon_threads = True

    def __init__(self, coins=3, *, now=None, series=series):
        super().__init__(("127.0.0.1", 0), _VendorRequest)
        self.url = f"http://127.0.0.1:{self.server_port}/api/v3"
        self.ids = [f"coin-{number}" for number in range(1, coins + 1)]
        self.now, self.series = now, series
        self.fields, self.faults, self.charts, self.listed = {}, {}, {}, {}
        self.limit, self.hourly = None, False
        self.answered, self.calls, self._heard = Counter(), [], 0

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def moment(self):
        """Now, in milliseconds."""
        return round((self.now or datetime.now(UTC)).timestamp() * 1000)

    def asked(self):
        """The queries of the charts in their order, as (id, days)."""
        return [
            (unquote(path.split("/")[-2]), int(query["days"]))
            for path, query in self.calls
            if path.endswith("/market_chart")
        ]

    def page(self, query):
        size, page = int(query["per_page"]), int(query["page"])
        now = self.moment()
        coins = []
        for number, id in list(enumerate(self.ids, 1))[(page - 1) * size : page * size]:
            price, volume, cap = self.series(number, now // DAY)
            known = {"current_price": price, "total_volume": volume, "market_cap": cap}
            last = datetime.fromtimestamp(now / 1000, UTC).isoformat()
            coins.append(coin(number, id=id, last_updated=last, **known) | self.fields.get(id, {}))
        return coins

    def chart(self, id, query):
        """A coin's points: at each midnight the day before, and a live last one."""
        if id in self.charts:
            return self.charts[id]
        number, days, now = self.ids.index(id) + 1, int(query["days"]), self.moment()
        step = DAY // 24 if self.hourly else DAY
        times = range((now - days * DAY) // step * step + step, now + 1, step)
        late = 240_000 if self.hourly else 0
        listed = now // DAY - self.listed.get(number, 10_000)
        points = [
            (moment + late, *self.series(number, moment // DAY - 1)) for moment in times
            if moment // DAY - 1 >= listed
        ]  # fmt: skip
        points.append((now, *(1.01 * value for value in self.series(number, now // DAY))))
        names = ("prices", "total_volumes", "market_caps")
        return {name: [[p[0], p[n]] for p in points] for n, name in enumerate(names, 1)}

    def is_over_the_limit(self):
        """By counting, so that it does not depend on how busy the machine is."""
        if self.limit is None:
            return False
        calls, refusals, _ = self.limit
        self._heard += 1
        return (self._heard - 1) % (calls + refusals) >= calls


class Request(BaseHTTPRequestHandler):
    """A request, and how it is answered."""

    def answer(self, status, headers, body):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Keep the test's output free of requests."""


class _VendorRequest(Request):
    def do_GET(self):
        address = urlsplit(self.path)
        path = address.path.removeprefix("/api/v3")
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        self.server.calls.append((path, query))
        if self.server.is_over_the_limit():
            return self.answer(429, self.server.limit[2], LIMIT)
        if path == "/coins/markets":
            return self.answer(200, {}, self.server.page(query))
        id = unquote(path.split("/")[2])
        if faults := self.server.faults.get(id):
            fault = faults.pop(0) if len(faults) > 1 else faults[0]
            if fault is not None:
                return fault(self) if callable(fault) else self.answer(*fault)
        self.answer(200, {}, self.server.chart(id, query))
        self.server.answered[id] += 1
        return None


def cut_off(request):
    """Half of a body whose length is told."""
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b'{"prices": [[1')


def break_off(request):
    """Half of a body whose length is not told."""
    request.send_response(200)
    request.end_headers()
    request.wfile.write(b'{"prices": [[1')


def hang_up(request):
    request.connection.shutdown(socket.SHUT_RDWR)
