"""Applications to compare with, on this project's own server.

    python -m benchmarks.apps slow|empty|bare|pickled PORT

`slow` is this project's own without its fast lane. `empty` is a Flask view that answers nothing at
once; `bare` does that for Granian itself, without Flask and WSGI. `pickled` is what one writes
first: a pickled scaler and a pickled forest (scaler.pkl, forest.pkl in the working folder), asked
in the view.
"""

import pickle
import sys
from pathlib import Path

from flask import Flask, jsonify, request
from granian import Granian
from granian.constants import HTTPModes, Interfaces

from liquidity.contract import FEATURES
from serve.gateway import Gateway
from serve.limits import MAX_BYTES
from serve.shared import shared_places


def slow():
    # Here, as the others are not to hold all of it in memory.
    from serve.app import create_app
    from serve.worker import SWITCH_SECONDS, gateway

    sys.setswitchinterval(SWITCH_SECONDS)
    return gateway(create_app(fastlane=False))


def empty():
    app = Flask("empty")
    app.add_url_rule("/invocations", "score", lambda: "", methods=["POST"])
    return behind_gateway(app)


def bare():
    async def answer(scope, protocol):
        await protocol()
        protocol.response_bytes(200, [], b"")

    return answer


def pickled():
    app = Flask("pickled")
    scaler = pickle.loads(Path("scaler.pkl").read_bytes())
    forest = pickle.loads(Path("forest.pkl").read_bytes())

    @app.post("/invocations")
    def score():
        coins = request.get_json()["dataframe_records"]
        X = scaler.transform([[coin[name] for name in FEATURES] for coin in coins])
        return jsonify(predictions=forest.predict(X).tolist())

    return behind_gateway(app)


def behind_gateway(app):
    app.add_url_rule("/health", "health", lambda: "")
    return Gateway(app.wsgi_app, max_bytes=MAX_BYTES)


def main():
    name, port = sys.argv[1:]
    with shared_places(1):
        Granian(
            f"benchmarks.apps:{name}",
            factory=True,
            interface=Interfaces.RSGI,
            port=int(port),
            http=HTTPModes.http1,
            websockets=False,
            log_enabled=False,
        ).serve()


if __name__ == "__main__":
    main()
