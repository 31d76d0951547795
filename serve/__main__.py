"""The production server: `python -m serve [--host H] [--port P] [--workers N]`."""

import os
import signal
import socket
import sys
from contextlib import suppress

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels

from liquidity.command import Parser, run, whole_number
from liquidity.errors import SettingsError
from serve.log_stream import log_without_waiting
from serve.settings import check_prediction_log, read_settings
from serve.shared import shared_market, shared_places

PROG = "serve"
# A worker that is told to end has this long for what it is answering.
STOP_SECONDS = 4


def main(argv=None):
    """Serve until SIGTERM or Ctrl-C; returns the exit code: 0, 1, 2 (bad input) or 130 (Ctrl-C)."""
    args = parse_arguments(argv)
    return run(PROG, lambda: serve(args))


def parse_arguments(argv):
    """The server's options; leaves with exit code 2 and one sentence where they make no sense."""
    parser = Parser(prog=PROG, description="Serve the champion over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", help="(127.0.0.1)")
    parser.add_argument("--port", type=whole_number(1), default=8000, help="(8000)")
    parser.add_argument("--workers", type=whole_number(1), default=1, help="processes (1)")
    return parser.parse_args(argv)


def serve(args):
    """Check, then serve until SIGTERM; raises KeyboardInterrupt after Ctrl-C."""
    check_settings()
    check_address(args.host, args.port)
    os.environ["LIQUIDITY_PARENT"] = str(os.getpid())
    host = f"[{args.host}]" if ":" in args.host else args.host
    with suppress(OSError):  # not print: what it could not write would fail at the end once more
        os.write(1, f"Serving on http://{host}:{args.port} (Ctrl-C ends it)\n".encode())
    with shared_places(args.workers), shared_market():
        run_workers(args)


def check_settings():
    """Raise SettingsError now for what would end every worker as soon as it starts."""
    settings = read_settings()
    if settings.prediction_log:
        check_prediction_log(settings.prediction_log)


def check_address(host, port):
    """Raise SettingsError where nobody can listen, or somebody does: a second server on the same
    port would share its requests with the first.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"{host} port {port} cannot be used: {reason}; choose another with --host and --port."
        ) from error


def run_workers(args):
    """Run Granian until a signal ends it; Ctrl-C is raised when all workers have ended."""
    server = Granian(
        "serve.worker:worker",
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
    end, received = server.signal_handler_interrupt, []

    def on_signal(number, frame):
        received.append(number)
        end()

    server.signal_handler_interrupt = on_signal
    with log_without_waiting():  # else it could wait, and replace no worker meanwhile
        server.serve()
    if received[:1] == [signal.SIGINT]:
        raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
