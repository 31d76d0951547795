"""The production server: `python -m serve [--host H] [--port P] [--workers N]`."""

import logging
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels

from liquidity.command import Parser, whole_number
from liquidity.processes import exit_with_parent
from serve import (
    DEFAULTS,
    MAX_BYTES,
    api_key,
    close_app,
    create_app,
    parse_model_uri,
    refresh_seconds,
)
from serve.gateway import Gateway

# A worker that is told to end has this long for what it is answering.
STOP_SECONDS = 4
SWITCH_SECONDS = 0.0005


def main(argv=None):
    """Serve until SIGTERM or Ctrl-C; returns the exit code."""
    args = parse_arguments(argv)
    try:
        check(args)
    except ValueError as error:
        print(f"python -m serve: {error}", file=sys.stderr)
        return 2
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="liquidity-metrics-")
    os.environ["LIQUIDITY_PARENT"] = str(os.getpid())
    print(f"Serving on http://{args.host}:{args.port} (Ctrl-C ends it)", flush=True)
    server = Granian(
        "serve.__main__:worker",
        factory=True,
        interface=Interfaces.RSGI,
        address=args.host,
        port=args.port,
        workers=args.workers,
        http=HTTPModes.http1,
        websockets=False,
        log_level=LogLevels.warning,
        respawn_failed_workers=True,
        workers_kill_timeout=STOP_SECONDS,
    )
    try:
        server.serve()
    finally:
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
    return 0


def parse_arguments(argv):
    """The server's options; leaves with exit code 2 and one sentence where they make no sense."""
    parser = Parser(prog="python -m serve", description="Serve the champion over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", help="(127.0.0.1)")
    parser.add_argument("--port", type=whole_number(1), default=8000, help="(8000)")
    parser.add_argument("--workers", type=whole_number(1), default=1, help="processes (1)")
    return parser.parse_args(argv)


def check(args):
    """Raise ValueError now for what would end every worker as soon as it starts."""
    setting = {name: os.environ.get(f"LIQUIDITY_{name}", DEFAULTS[name]) for name in DEFAULTS}
    refresh_seconds(setting["REFRESH_SECONDS"])
    api_key(setting["API_KEY"])
    parse_model_uri(setting["MODEL_URI"])
    if setting["PREDICTION_LOG"]:
        try:
            path = Path(setting["PREDICTION_LOG"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
        except OSError as error:
            raise ValueError(f"LIQUIDITY_PREDICTION_LOG cannot be written: {error}") from error
    try:
        # A second server on the same port would share its requests with the first.
        socket.create_server((args.host, args.port)).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{args.host} port {args.port} cannot be used: {reason}; choose "
            "another with --host and --port"
        ) from error


def worker():
    """What Granian runs in each worker process: the application behind its gateway."""
    exit_with_parent(int(os.environ["LIQUIDITY_PARENT"]))
    # A request lets go of the interpreter while the forest runs; a thread that writes logs or
    # loads a model would then keep it for five milliseconds.
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("serve").setLevel(logging.INFO)
    app = create_app()
    return Gateway(app.wsgi_app, max_bytes=MAX_BYTES, on_stop=lambda: close_app(app))


if __name__ == "__main__":
    sys.exit(main())
