"""Seeded requests that are wrong in every way we know of, for every door of a real server."""

import io
import json
import math
import random
import re
import socket
import threading
import time
from collections import Counter
from copy import deepcopy
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from support import GOOD, ROW, post, workers_of

# Stand in the requests, and never in the log.
TEXT, NUMBER = "zqCANARYqz", 90417733.25
SECRETS = (TEXT.lower(), "90417733")
# One odd request in so many is bytes that are no HTTP, or breaks off.
RAW = 50
LOGGED = re.compile(
    r"[\d-]{10} [\d:]{8},\d{3} INFO serve(\.request: [!-~]{1,200} [!-~]{0,200} \d{3} [\d.]+"
    r" ms id=[A-Za-z0-9._-]{1,64} version=[\d,:d-]+|: serving crypto-liquidity version .*"
    r"|: models:/crypto-liquidity-\d+d@champion is not there yet: .*)"
    r"|Serving on http.*"
    # While it starts on a busy machine, where a model takes longer than it waits for one.
    r"|[\d-]{10} [\d:]{8},\d{3} WARNING serve: No model is loaded: .*"
)
TYPES = {
    "json": "application/json", "csv": "text/csv", "form": "application/x-www-form-urlencoded",
    "multipart": "multipart/form-data; boundary=xx", "parquet": "application/vnd.apache.parquet",
}  # fmt: skip
JSON_SEEDS = [
    ("/predict", GOOD),
    ("/predict", GOOD | {"threshold": 0.2}),
    ("/invocations", {"dataframe_records": [GOOD, GOOD]}),
    ("/invocations", {"instances": [GOOD], "params": {"threshold": 0.1}}),
    ("/invocations", {"inputs": {name: [value] * 3 for name, value in GOOD.items()}}),
    ("/invocations", {"dataframe_split": {"columns": list(GOOD), "data": [ROW, ROW]}}),
]
CSV_SEED = [["coin", *GOOD], ["a", *ROW], ["b,c", *ROW], ["d", *ROW]]
PATHS = ["/", "/model", "/ping", "/health", "/version", "/metrics", "/openapi.json",
         "/static/page.css"]  # fmt: skip
ODD_PATHS = ["*", "//", "/../..", "/static/../api.py", "/static/%2e%2e%2fapi.py", "/%00", "/%ff%fe",
             "/%", "/predict/", "/predict;a=b", "/PREDICT", "/static/" + "a/" * 500, "http://x/ping",
             "/" + "%41" * 2000, "/static/%0d%0aX: y", "/\u202e", "/a b"]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get",
           "PROPFIND", "A" * 300, "!#$%&'*+-.^_`|~"]  # fmt: skip
ODD_VALUES = [
    None, True, False, "", " ", TEXT, NUMBER, str(NUMBER), -NUMBER, f"{TEXT}\r\nX: y", "\x00",
    "\ud800", "\u202e", "é", "1e400", "NaN", "-inf", "0x10", "1_000", "\uff11", "1,000", "=1+1",
    "<script>", "'\"", 0, -0.0, -1, 1, 1e18, 1e19, 1e308, 5e-324, -1e308, math.nan, math.inf,
    -math.inf, 2**63, 2**64, -(2**64), 10**400, "9" * 5000, TEXT * 500, [], {}, [[]], [NUMBER],
    {TEXT: NUMBER}, [None] * 50, *GOOD, "params", "threshold", "dataframe_split", "__class__",
    "$ref",
]  # fmt: skip
HEADERS = [
    ("Accept", "text/html"), ("Accept", "text/html;q=nan,application/json;q=1e999,*/*;q=-1"),
    ("Accept", "application/json;q=0"), ("Accept", TEXT), ("Accept", ",;=;,"),
    ("X-Request-ID", "a" * 65), ("X-Request-ID", f"{TEXT} {TEXT}"), ("X-Request-ID", "é"),
    ("Authorization", f"Bearer {TEXT}"), ("Authorization", "Basic !!!"),
    ("Authorization", "Basic"), ("Authorization", "Digest a=b,c"),
    ("Authorization", f"Basic {TEXT}=="), ("Cookie", f"a={TEXT};;="), ("Range", "bytes=5-1"),
    ("Range", "bytes=0-0,-1"), ("Range", "bytes=99999999999-"), ("Range", TEXT),
    ("If-Modified-Since", TEXT), ("If-None-Match", '"'), ("If-Range", "Mon, 99 Foo 0000"),
    ("Content-Encoding", "gzip"), ("Content-Encoding", TEXT), ("Content-Type", "a/b"),
    ("Content-Type", ""), ("Content-Type", "multipart/form-data"),
    ("Content-Type", "multipart/form-data; boundary=\xe9"),
    ("Content-Type", f"application/json; charset={TEXT}"),
    ("Content-Type", "text/csv; charset=utf-16"), ("Content_Length", TEXT),
    ("Content_Type", TEXT), ("Expect", "100-continue"), ("Expect", TEXT),
    ("Host", f"{TEXT}:99999"), ("Host", ""), ("X-Forwarded-For", TEXT),
    ("X-Forwarded-Proto", "\x7f"), ("Origin", TEXT), ("Sec-Fetch-Site", "cross-site"),
    ("Upgrade", "websocket"), ("Upgrade", "h2c"), ("User-Agent", TEXT * 1000),
    ("X-" + TEXT, TEXT), ("X-A", "\xff\xfe"), ("Referer", f"http://{TEXT}"),
    ("Accept-Charset", "utf-16"), ("Accept-Encoding", "gzip"), ("Max-Forwards", "-1"),
    ("TE", "trailers"),
]  # fmt: skip


class Fuzzer:
    """An endless, seeded supply of requests as bytes."""

    def __init__(self, seed):
        self._random = random.Random(seed)
        parquet = io.BytesIO()
        table = pa.Table.from_pylist([GOOD] * 3)
        # Without Arrow's own schema, whose damage would hide all other.
        pq.write_table(table, parquet, store_schema=False)
        self._parquet = parquet.getvalue()

    def request(self):
        """The bytes of a request and whether HTTP says where it ends."""
        r = self._random
        method, path, kind, body = self._seed()
        if r.random() < 0.3:
            body = self._spoil(body)
        headers = [("Host", "x")]
        if kind:
            content_type = TYPES[kind] if r.random() < 0.9 else r.choice([*TYPES.values(), TEXT])
            headers.append(("Content-Type", content_type))
        for _ in range(r.choice([0, 0, 0, 1, 1, 2, 5])):
            extra = r.choice(HEADERS)
            headers = [h for h in headers if h[0] != extra[0]] + [extra]
        if r.random() < 0.1:
            method = r.choice(METHODS)
        if r.random() < 0.05:
            path = r.choice(ODD_PATHS)
        if r.random() < 0.2:
            names = r.choices([*GOOD, TEXT, "threshold", "", "a[]"], k=r.randrange(5))
            path += "?" + "&".join(f"{name}={quote(self._text())}" for name in names)
        if method in ("GET", "HEAD", "TRACE", "CONNECT") and r.random() < 0.9:
            body = b""
        head = f"{method} {path.replace(' ', '%20')} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers)
        return self._framed(head.encode("latin-1", "replace"), body)

    def _framed(self, head, body):
        r = self._random
        chance = r.randrange(RAW)
        if chance == 0:  # no HTTP, or not all of it
            whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
            odd = [r.randbytes(r.randrange(1, 400)), whole[: r.randrange(1, len(whole))],
                   self._flipped(whole), b"\r\n" * 50 + whole, b"\x16\x03\x01\x02" + whole,
                   b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", whole.replace(b"HTTP/1.1", b"HTTP/9.9"),
                   head + b"Content-Length: -1\r\n\r\n", head + b"Content-Length: 1, 2\r\n\r\n",
                   head + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + body,
                   head + b"X: " + b"y" * 500_000]  # fmt: skip
            return r.choice(odd), False
        if chance < 10:
            chunks = []
            while body:
                size = r.choice([1, 7, 100, 5000]) if len(body) < 2000 else len(body)
                chunks.append(b"%x;%s\r\n%s\r\n" % (len(body[:size]), b"a=b", body[:size]))
                body = body[size:]
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(
                chunks
            ) + b"0\r\n\r\n", True
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, True

    def _seed(self):
        """Method, path, kind of body, body: mostly well-formed, with values that mostly are not."""
        r = self._random
        kind = r.choices([*TYPES, None], weights=[45, 15, 8, 8, 4, 20])[0]
        if kind is None:
            return "GET", r.choice(PATHS), None, b""
        if kind == "json":
            path, value = r.choice(JSON_SEEDS)
            return "POST", path, kind, self._json(value)
        if kind == "csv":
            return "POST", r.choice(["/batch", "/invocations"]), kind, self._csv()
        if kind == "form":
            fields = GOOD | {r.choice(list(GOOD)): self._text()}
            pairs = [f"{quote(k)}={quote(str(v), errors='replace')}" for k, v in fields.items()]
            return "POST", "/predict", kind, r.choice("&&&;,").join(pairs).encode()
        if kind == "multipart":
            return "POST", *self._multipart()
        body = self._parquet if r.random() < 0.2 else self._flipped(self._parquet)
        return "POST", "/invocations", kind, body

    def _json(self, value):
        r = self._random
        value = json.loads(json.dumps(value))
        for _ in range(r.choice([0, 1, 1, 1, 2, 4])):
            place, keys = value, ()
            while isinstance(place, (dict, list)) and place:
                keys = list(place) if isinstance(place, dict) else range(len(place))
                key = r.choice(keys)
                if not isinstance(place[key], (dict, list)) or r.random() < 0.3:
                    break
                place = place[key]
            if not keys or not place:
                break
            what = r.randrange(4)
            if what == 0 and isinstance(place, dict):
                del place[key]
            elif what == 1 and isinstance(place, dict):
                place[r.choice([TEXT, *GOOD, "inputs", "params"])] = self._odd()
            else:
                place[key] = self._odd()
        text = json.dumps(value, ensure_ascii=r.random() < 0.5)
        if r.random() < 0.05:
            depth = r.choice([10, 500, 1100, 20_000])
            text = text.replace("1.0", "[" * depth + "]" * r.choice([depth, 0]))
        if r.random() < 0.05:
            text = text.replace("{", '{"price": 2, "price": 3, ', 1)
        return text.encode("utf-8", "surrogatepass")

    def _csv(self):
        r = self._random
        rows = [[str(cell) for cell in row] for row in CSV_SEED] * r.choice([1, 1, 1, 30])
        for _ in range(r.choice([0, 1, 1, 2, 5])):
            row = r.choice([rows[0], r.choice(rows)])
            what = r.randrange(5)
            if what == 0 and row:
                row.pop()
            elif what == 1:
                row.append(self._text())
            elif row:
                row[r.randrange(len(row))] = self._text()
        separator = r.choices([",", ";", "\t"], weights=[18, 1, 1])[0]
        cells = [
            [f'"{c}"' if separator in c or r.random() < 0.1 else c for c in row] for row in rows
        ]
        ending = r.choice(["\n", "\n", "\r\n", "\r"])
        return ending.join(map(separator.join, cells)).encode("utf-8", "surrogatepass")

    def _multipart(self):
        r = self._random
        name = r.choice(["file", "file", "file", "", TEXT, *GOOD])
        filename = r.choice(["a.csv", TEXT, "../../etc/passwd", '"', "é", "x" * 500])
        parts = [f'name="{name}"; filename="{filename}"', f'name="{name}"', TEXT, ""]
        disposition = r.choices(parts, weights=[8, 2, 1, 1])[0]
        head = f"--xx\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()
        body = head + self._csv() + b"\r\n"
        body = body * r.choice([1, 1, 1, 3]) + r.choice([b"--xx--\r\n", b"--xx--\r\n", b"--x", b""])
        return r.choice(["/batch", "/batch", "/predict"]), "multipart", body

    def _odd(self):
        return deepcopy(self._random.choice(ODD_VALUES))  # which a later change may go into

    def _text(self):
        r = self._random
        value = self._odd() if r.random() < 0.7 else r.uniform(-2, 1e9)
        return str(value)[:2000].encode("utf-8", "replace").decode()

    def _spoil(self, body):
        r = self._random
        how = r.randrange(6)
        if how == 0:
            return body[: r.randrange(len(body) + 1)]
        if how == 1:
            return r.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\x1f\x8b", b" "]) + body
        if how == 2:
            return body.decode("utf-8", "replace").encode(r.choice(["utf-16", "utf-32"]))
        if how == 3:
            return r.randbytes(r.randrange(200))
        if how == 4:
            return body + body
        return self._flipped(body)

    def _flipped(self, body):
        r = self._random
        body = bytearray(body)
        for _ in range(r.randrange(1, 9) if body else 0):
            body[r.randrange(len(body))] = r.randrange(256)
        return bytes(body)


class Sender:
    """Sends requests one after another on a connection; opens another where one was closed."""

    def __init__(self, url):
        host, port = url.removeprefix("http://").split(":")
        self._address = host, int(port)
        self._connection = None

    def send(self, data, *, whole):
        """Status and body, or None where the server closed without an answer."""
        if not whole:
            self.close()
        fresh = self._connection is None
        try:
            if fresh:
                self._connection = socket.create_connection(self._address, timeout=30)
            self._connection.settimeout(30 if whole else 0.01)
            self._connection.sendall(data)
            status, fields, body, rest = self._answer(head_only=data.startswith(b"HEAD "))
            assert not (whole and rest), f"more than one answer: {rest[:300]}"
            return status, fields, body
        except ConnectionError:
            self.close()
            return None if fresh else self.send(data, whole=whole)
        except TimeoutError:
            self.close()
            if whole:
                raise AssertionError(f"no answer within 30 s: {data[:2000]!r}") from None
            return None
        finally:
            if not whole:
                self.close()

    def close(self):
        if self._connection:
            self._connection.close()
            self._connection = None

    def _answer(self, *, head_only):
        data = b""
        while True:
            head, end, rest = data.partition(b"\r\n\r\n")
            if end and head.startswith(b"HTTP/1.1 100"):
                data = rest
            elif end:
                break
            else:
                data += self._received()
        fields = dict(re.findall(rb"\r\n([a-z-]+): ([^\r]*)", head.lower()))
        length = 0 if head_only else int(fields.get(b"content-length", 0))
        while len(rest) < length:
            rest += self._received()
        if fields.get(b"connection") == b"close":
            self.close()
        return int(head[9:12]), fields, rest[:length], rest[length:]

    def _received(self):
        data = self._connection.recv(65536)
        if not data:
            raise ConnectionResetError
        return data


def wrong(answer):
    """What is wrong with an answer, or None."""
    if answer is None:
        return None
    status, fields, body = answer
    if status >= 500 or b"Traceback" in body:
        return f"{status} {body[:300]}"
    if fields.get(b"content-type") == b"application/json" and body:
        value = json.loads(body)
        if status >= 400 and set(value) != {"error_code", "message"}:
            return f"{status} {body[:300]}"
    return None


def fuzz(server, requests, *, seed, threads=4):
    """Send so many requests; returns how often which status was answered, and what was wrong."""
    statuses, found = Counter(), []

    def run(number):
        fuzzer, sender, counter = Fuzzer(f"{seed}-{number}"), Sender(server.url), Counter()
        for _ in range(requests // threads):
            data, whole = fuzzer.request()
            try:
                answer = sender.send(data, whole=whole)
                problem = wrong(answer)
            except Exception as error:  # which a thread would swallow
                answer, problem = None, repr(error)
            counter[answer and answer[0]] += 1
            if problem:
                found.append((problem, data[:3000]))
                if len(found) > 20:
                    break
        sender.close()
        statuses.update(counter)

    workers = [threading.Thread(target=run, args=[number]) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return statuses, found


def check_after(server, pids, log):
    """What has to hold once the fuzzing is over."""
    assert workers_of(server) == pids
    assert post(f"{server.url}/predict", GOOD)[0] == 200
    time.sleep(0.3)
    lines = server.log.read_text().splitlines()
    assert not [line for line in lines if not LOGGED.fullmatch(line)][:20]
    assert not [line for line in lines if any(secret in line.lower() for secret in SECRETS)][:20]
    scored = 0
    for path in log.parent.glob("predictions.jsonl*"):
        if not path.name.endswith(".lock"):
            for line in path.read_bytes().splitlines():
                row = json.loads(line)
                assert set(row) >= {"request_id", "version", "liquidity", *GOOD}
                scored += 1
    return scored
