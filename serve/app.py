"""The application: its settings, its parts and how they are wired."""

import logging
from functools import partial
from io import BytesIO

import orjson
from flask import Flask, Request
from flask.json.provider import DefaultJSONProvider
from flask.sessions import NullSession, SessionInterface

from serve import limits
from serve.admission import admit
from serve.api import api
from serve.champion import Champion, NoModel
from serve.errors import register_errors
from serve.fastlane import FastLane
from serve.forecasts import Forecasts
from serve.market import Market
from serve.market_pages import draw_first, market
from serve.metrics import Metrics
from serve.outlook import Outlooks
from serve.pages import error_page, pages
from serve.prediction_log import PredictionLog
from serve.programs import ASKS_FOR_KEY, programs
from serve.rehearsal import rehearse
from serve.request_log import Recorder, RequestLog
from serve.settings import read_settings
from serve.unpacking import Unpacker

LOG = logging.getLogger("serve")
NOTHING = NullSession()


def create_app(config=None, champion=None, *, fastlane=True, unpacker=None):
    """The application; `config` overrides LIQUIDITY_* of the environment (see serve.settings).

    `champion` is a serve.champion.Champion or what behaves like one; by default it watches
    MODEL_URI. Its extension `fastlane` is a FastLane for the gateway; without `fastlane` there is
    none, and every request goes through Flask. `unpacker` is an Unpacker that may have been
    started. Raises SettingsError for settings that make no sense and OSError for a prediction log
    that cannot be written, but nothing for a registry that is away.
    """
    settings = read_settings(config)
    metrics = Metrics()
    log = PredictionLog(settings.prediction_log) if settings.prediction_log else None
    champion = champion or start_champion(settings, metrics)
    forecasts = start_forecasts(settings, metrics)
    recorder = Recorder(metrics)

    snapshots = Market(
        settings.snapshots, ledger=settings.ledger, on_problem=metrics.snapshots_failed
    )
    app = build_flask(champion, forecasts, snapshots)
    app.extensions["outlooks"].on_new = partial(draw_first, app)
    app.extensions.update(
        metrics=metrics,
        prediction_log=log,
        recorder=recorder,
        unpacker=unpacker or Unpacker(),
    )
    app.config[ASKS_FOR_KEY] = bool(settings.api_key)
    app.before_request(partial(admit, key=settings.api_key))
    register_errors(app, page=error_page)

    lane = FastLane(
        champion=champion,
        forecasts=forecasts,
        outlooks=app.extensions["outlooks"],
        log=log,
        key=settings.api_key,
        recorder=recorder,
    )
    app.extensions["fastlane"] = lane if fastlane else None
    doors = {rule.rule for rule in app.url_map.iter_rules()}
    app.wsgi_app = RequestLog(app.wsgi_app, doors=doors, recorder=recorder)
    return app


def build_flask(champion, forecasts, snapshots=None):
    """The Flask application with all its views, and nothing around them."""
    snapshots = snapshots or Market("")
    app = Flask(__name__)
    app.session_interface = NoSessions()
    app.json = Orjson(app)
    app.request_class = InMemory
    app.url_map.merge_slashes = False  # a wrong path is 404, not a redirect
    app.config.from_mapping(
        MAX_CONTENT_LENGTH=limits.MAX_BYTES,
        MAX_FORM_PARTS=limits.FORM_FIELDS,
        MAX_FORM_MEMORY_SIZE=limits.FORM_BYTES,
        PROPAGATE_EXCEPTIONS=True,  # where no handler translates them
    )
    app.extensions.update(
        champion=champion,
        forecasts=forecasts,
        market=snapshots,
        outlooks=Outlooks(snapshots, forecasts),
        prediction_log=None,
    )
    app.register_blueprint(api)
    app.register_blueprint(pages)
    app.register_blueprint(market)
    app.register_blueprint(programs)
    return app


def start_champion(settings, metrics):
    """The champion of MODEL_URI, loaded if it can be within seconds, and watched."""
    champion = follow(
        settings.model_uri, settings, metrics, on_swap=metrics.swapped, on_follow=metrics.followed
    )
    champion.start()
    try:
        champion.current()
    except NoModel as error:
        LOG.warning("%s", error)
    return champion


def start_forecasts(settings, metrics):
    """The forecast champions, which are loaded in their own time and watched."""
    champions = [
        follow(
            uri,
            settings,
            metrics,
            on_swap=metrics.forecast_swapped,
            on_follow=metrics.forecast_followed,
            optional=True,
        )
        for uri in settings.forecasts
    ]
    for champion in champions:
        champion.start(wait=False)
    return Forecasts(champions)


def follow(model_uri, settings, metrics, **options):
    """A Champion, which has yet to start."""
    return Champion(
        model_uri,
        refresh_seconds=settings.refresh_seconds,
        cache_dir=settings.cache_dir,
        check=partial(rehearse, build=build_flask),
        on_failure=metrics.refresh_failed,
        **options,
    )


def close_app(app):
    """End the application's threads; what was not yet logged is."""
    app.extensions["champion"].stop()
    app.extensions["forecasts"].stop()
    app.extensions["market"].stop()
    app.extensions["recorder"].close()
    app.extensions["unpacker"].close()
    if log := app.extensions["prediction_log"]:
        log.close()


class InMemory(Request):
    """A file of a form stays in memory, where the whole body is already: TMPDIR may be full."""

    def _get_file_stream(self, *args, **kwargs):
        return BytesIO()


class NoSessions(SessionInterface):
    """Nothing is remembered between requests, and no time spent on finding that out."""

    def open_session(self, app, request):  # noqa: D102
        return NOTHING

    def is_null_session(self, session):  # noqa: D102
        return True


class Orjson(DefaultJSONProvider):
    """JSON answers of views, written as the fast lane writes them."""

    def response(self, *args, **kwargs):  # noqa: D102
        answer = orjson.dumps(self._prepare_response_obj(args, kwargs))
        return self._app.response_class(answer, mimetype=self.mimetype)
