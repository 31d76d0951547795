"""What Granian runs in each worker process: the application behind its gateway.

Its parent imports none of this: MLflow takes seconds.
"""

import logging
import os
import sys
from contextlib import ExitStack

from liquidity.printable import printable
from liquidity.processes import exit_with_parent, loading

with loading():
    from serve.app import close_app, create_app
    from serve.gateway import Gateway
    from serve.limits import MAX_BYTES
    from serve.log_stream import log_without_waiting
    from serve.unpacking import Unpacker

SWITCH_SECONDS = 0.0005


def worker():
    """The RSGI application of a worker of `python -m serve`."""
    unpacker = Unpacker()
    unpacker.fork()  # before any thread
    exit_with_parent(int(os.environ["LIQUIDITY_PARENT"]))
    # A request would wait five milliseconds for the interpreter where a thread writes logs or loads
    # a model, and one of many rows again after the forest has run.
    sys.setswitchinterval(SWITCH_SECONDS)
    end = ExitStack()
    log = end.enter_context(log_without_waiting())
    handler = logging.StreamHandler()
    handler.setFormatter(Plain("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("serve").setLevel(logging.INFO)
    try:
        with loading():  # of the store's and the model's code, too
            app = create_app(unpacker=unpacker)
    except BaseException:
        end.close()  # the process ends, and its reason has to be read
        raise
    log.on_drop = app.extensions["metrics"].lines_lost
    return gateway(app, on_stop=end.close)


class Plain(logging.Formatter):
    """What a terminal that shows the log would obey, and passwords of stores, are not in it."""

    def format(self, record):  # noqa: D102
        return printable(super().format(record))


def gateway(app, *, on_stop=lambda: None):
    """The application as Granian takes it; it is closed when the worker ends."""

    def stop():
        close_app(app)
        on_stop()

    lane = app.extensions["fastlane"]
    return Gateway(app.wsgi_app, max_bytes=MAX_BYTES, lane=lane, on_stop=stop)
