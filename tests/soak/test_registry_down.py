"""What holds over a registry that is a real `mlflow server`, and while it is down or hangs.

Slow, so `make soak` runs it.
"""

import json
import shutil
import time
import urllib.request

import mlflow
import pytest
from support import (
    GOOD,
    METRICS,
    NAME,
    SHORT,
    SMALL,
    STARTED_SECONDS,
    Job,
    Load,
    MlflowServer,
    post,
    wait_for_http,
)

pytestmark = pytest.mark.soak
AWAY_SECONDS = 6 if SHORT else 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory, empty_store):
    """A server with the champion that a job trained over HTTP; the job, and what it printed."""
    folder = tmp_path_factory.mktemp("registry")
    shutil.copy(empty_store, folder / "mlflow.db")
    with MlflowServer(folder) as server:
        job = Job(folder, *SMALL, uri=server.uri)
        yield server, job, job.run()


@pytest.fixture(scope="module")
def registry(trained):
    """A registry with two versions of one model, the first of them champion."""
    server, job, _ = trained
    first = job.client.get_model_version(NAME, "1")
    model_id = first.source.rpartition("/")[2]
    job.client.create_model_version(NAME, first.source, first.run_id, model_id=model_id)
    return server


@pytest.fixture
def serve(registry, start_serve):
    def serve(*options, **settings):
        return start_serve(
            *options, MLFLOW_TRACKING_URI=registry.uri, LIQUIDITY_REFRESH_SECONDS="1", **settings
        )

    return serve


OUTAGES = {
    "stopped": (MlflowServer.stop, MlflowServer.start),
    "hanging": (MlflowServer.hang, MlflowServer.wake),
}


@pytest.fixture(params=list(OUTAGES)[: 1 if SHORT else None])
def outage(request, registry):
    """Two calls: one takes the registry away and one brings it back."""
    go, come_back = OUTAGES[request.param]
    away = False

    def switch(to):
        nonlocal away
        if away != to:
            away = to
            (go if to else come_back)(registry)

    yield lambda: switch(True), lambda: switch(False)
    switch(False)


def served(server):
    with urllib.request.urlopen(f"{server.url}/model", timeout=5) as response:
        return json.loads(response.read())


def wait_for_version(server, version, *, seconds):
    """Seconds until twenty new connections, so both workers, have answered with `version`."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        answers = [post(f"{server.url}/predict", GOOD) for _ in range(20)]
        if {answer["model"]["version"] for _, answer in answers} == {version}:
            return time.monotonic() - started
        time.sleep(0.2)
    raise AssertionError(server.log.read_text()[-2000:])


def test_a_job_works_over_http(trained):
    _, job, output = trained
    (parent,) = job.finished()
    assert parent.data.metrics.keys() >= METRICS
    assert len(job.trials(parent)) == 4
    assert job.client.get_model_version_by_alias(NAME, "champion") is not None
    assert "View run" not in output, "a line per trial in the middle of the bar"


def test_a_minute_without_the_registry_costs_no_request(registry, serve, outage):
    go, come_back = outage
    server = serve(workers=2)
    client = mlflow.MlflowClient(registry.uri)
    client.set_registered_model_alias(NAME, "champion", "1")
    wait_for_version(server, "1", seconds=20)
    with Load(server.url) as load:
        go()
        deadline = time.monotonic() + AWAY_SECONDS
        while time.monotonic() < deadline:
            assert served(server)["version"] == "1"
            time.sleep(1)
        come_back()
        client.set_registered_model_alias(NAME, "champion", "2")
        took = wait_for_version(server, "2", seconds=40)
    assert not load.errors
    log = [line for line in server.log.read_text().splitlines() if "serve.request" not in line]
    assert "Traceback" not in "".join(log)
    said = [line for line in log if "cannot be refreshed" in line]
    assert 1 <= len(said) <= 6, said  # how it fails may change, and is said once by each worker
    print(
        f"{AWAY_SECONDS} s away, {sum(load.answers.values()):,} requests, 0 failed; "
        f"the moved alias followed {took:.1f} s after its return"
    )


def test_a_start_without_the_registry_serves_the_last_good_copy(registry, serve, outage):
    go, come_back = outage
    before = serve()
    version = served(before)["version"]
    before.terminate()
    before.wait(10)
    go()
    started = time.monotonic()
    server = serve(workers=2)
    took = time.monotonic() - started
    for _ in range(10):
        assert post(f"{server.url}/predict", GOOD)[0] == 200
        assert (served(server)["version"], served(server)["source"]) == (version, "cache")
    come_back()
    for _ in range(60):
        if {served(server)["source"] for _ in range(10)} == {"registry"}:
            break
        time.sleep(0.5)
    else:
        raise AssertionError(server.log.read_text()[-2000:])
    print(f"answers from the cache {took:.1f} s after its start")


def test_a_start_with_neither_registry_nor_copy_waits_for_the_registry(
    registry, serve, outage, tmp_path
):
    go, come_back = outage
    go()
    server = serve(wait=False, LIQUIDITY_CACHE_DIR=str(tmp_path / "empty"))
    started = time.monotonic()
    wait_for_http(f"{server.url}/static/page.css")
    opened = time.monotonic() - started
    status, answer = post(f"{server.url}/predict", GOOD)
    assert status == 503
    assert (
        "could not be fetched from the registry, and the server's log says why" in answer["message"]
    )
    come_back()
    started = time.monotonic()
    while post(f"{server.url}/predict", GOOD)[0] != 200:
        assert time.monotonic() - started < STARTED_SECONDS, server.log.read_text()[-2000:]
        time.sleep(0.2)
    print(f"503 {opened:.1f} s after its start, 200 {time.monotonic() - started:.1f} s after")
