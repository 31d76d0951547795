"""The alias is followed whatever becomes of cache, lock, registry and the version itself."""

import copy
import fcntl
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlflow
import numpy as np
import pytest
from support import CHAMPION, INFO, NAME, ROW

from liquidity.errors import ModelError
from liquidity.model import forest as layout
from serve import cache, champion
from serve.app import build_flask
from serve.cache import cache_folder
from serve.champion import Champion, Followed, NoModel, Served
from serve.rehearsal import rehearse


def version_of(champion):
    return champion.current().info["version"]


def errors_in(caplog):
    return [record.message for record in caplog.records if record.levelname == "ERROR"]


# The cache, which is optional


def delete(folder):
    shutil.rmtree(folder)


def make_a_file_of(folder):
    shutil.rmtree(folder)
    folder.touch()


def fill(folder):
    """No copy can be moved there any more, as on a full disk."""
    for path in folder.iterdir():
        if path.is_dir():
            (path / "artifacts/forest.npz").unlink()
            shutil.rmtree(path)
            path.touch()
    served = folder / "served.json"
    served.unlink()
    served.mkdir()


@pytest.mark.parametrize("harm", [delete, make_a_file_of, fill])
def test_the_alias_is_followed_whatever_becomes_of_the_cache(
    store, register, make_champion, tmp_path, harm
):
    register(3)
    follower = make_champion()
    follower.refresh()
    register(5)
    follower.refresh()
    (folder,) = (tmp_path / "cache").iterdir()
    harm(folder)
    store.set_registered_model_alias(NAME, "champion", "1")  # a rollback
    follower.refresh()
    assert version_of(follower) == "1"
    register(7)
    follower.refresh()
    assert version_of(follower) == "3"
    assert follower.events == ["1", "2", "1", "3"]
    assert not list(folder.parent.rglob(f"{cache.DOWNLOAD}*"))


def test_a_deleted_cache_is_made_again(register, make_champion, tmp_path, away):
    register(3)
    follower = make_champion()
    follower.refresh()
    shutil.rmtree(tmp_path / "cache")
    register(5)
    follower.refresh()
    later = make_champion()
    away[0]()
    later.start()
    later.stop()
    assert version_of(later) == "2"


def test_a_full_disk_is_passed_over_for_another(register, make_champion, monkeypatch, caplog):
    register(3)
    whole, tried = champion.fetch_model, []

    def fetch(uri, folder):
        tried.append(folder)
        if len(tried) == 1:
            # MLflow says so of what its threads raise.
            raise mlflow.MlflowException(f"failures occurred: OSError({os.strerror(28)!r})")
        whole(uri, folder)

    monkeypatch.setattr(champion, "fetch_model", fetch)
    follower = make_champion()
    follower.refresh()
    assert version_of(follower) == "1"
    assert len(tried) == 2
    assert not errors_in(caplog)
    assert not any(folder.exists() for folder in tried)


def test_what_a_kill_left_of_a_download_goes_and_what_others_fetch_stays(
    register, make_champion, tmp_path
):
    follower = make_champion()
    (folder,) = (tmp_path / "cache").iterdir()
    old, new = folder / f"{cache.DOWNLOAD}old", folder / f"{cache.DOWNLOAD}new"
    for path in (old, new):
        path.mkdir()
    os.utime(old, (1, 1))
    register(3)
    follower.refresh()
    assert not old.exists()
    assert new.exists()


def test_a_lock_that_is_never_let_go_is_done_without(
    register, make_champion, tmp_path, monkeypatch
):
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.2)
    follower = make_champion()
    (path,) = tmp_path.glob("cache/*/lock")
    register(3)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        follower.refresh()
        assert version_of(follower) == "1"
        register(5)
        started = time.monotonic()
        follower.refresh()
        assert version_of(follower) == "2"
        assert time.monotonic() - started < 10


def test_the_cache_is_another_one_for_all_that_chooses_the_registry(store, tmp_path, monkeypatch):
    folders = [cache_folder(tmp_path, CHAMPION)]
    for name, value in (
        ("MLFLOW_WORKSPACE", "team-a"), ("MLFLOW_WORKSPACE", "team-b"),
        ("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9"), ("MLFLOW_REGISTRY_URI", "sqlite:///a.db"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
        folders.append(cache_folder(tmp_path, CHAMPION))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folders.append(cache_folder(tmp_path, CHAMPION))
    assert len(set(folders)) == 6


SERVED = {
    "not JSON": lambda info: "{",
    "a list": lambda info: [],
    "no version": lambda info: {k: v for k, v in info.items() if k != "version"},
    "a version that is text": lambda info: info | {"version": "newest"},
    "another folder": lambda info: info | {"folder": "../../elsewhere"},
    "the folder of another version": lambda info: info | {"version": "2"},
    "another model": lambda info: info | {"name": "another"},
    "another alias": lambda info: info | {"alias": "challenger"},
    "metrics that are a list": lambda info: info | {"metrics": []},
    "a metric that is no number": lambda info: info | {"metrics": {"r2": float("nan")}},
    "no time of load": lambda info: info | {"load_seconds": None},
}


@pytest.mark.parametrize("damage", SERVED.values(), ids=SERVED.keys())
def test_a_damaged_note_of_what_was_served_is_not_served(
    register, make_champion, away, tmp_path, caplog, damage
):
    register(3)
    make_champion().refresh()
    (path,) = tmp_path.glob("cache/*/served.json")
    damaged = damage(json.loads(path.read_text()))
    path.write_text(damaged if isinstance(damaged, str) else json.dumps(damaged))
    follower = make_champion()
    away[0]()
    follower.refresh()
    follower.refresh()
    with pytest.raises(NoModel):
        follower.current()
    assert caplog.text.count("served.json of the cache") == 1
    assert len(errors_in(caplog)) == 1  # that the registry is away


# The registry


def test_a_registry_that_knows_no_such_model_is_not_one_that_is_away(
    store, register, make_champion
):
    """What it has forgotten is not served from the cache, and what is served stays."""
    register(3)
    first = make_champion()
    first.refresh()
    store.delete_registered_model_alias(NAME, "champion")
    first.refresh()
    assert version_of(first) == "1"
    second = make_champion()
    second.refresh()
    with pytest.raises(NoModel):
        second.current()


def test_a_proxy_that_finds_nothing_is_a_registry_that_is_away(
    register, make_champion, monkeypatch
):
    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    register(3)
    make_champion().refresh()
    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        second = make_champion()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{proxy.server_port}")
        second.refresh()
        proxy.shutdown()
    assert second.current().info["source"] == "cache"


# Versions that do not end


def put_a_loop_into(folder):
    """With the digest that belongs to it."""
    path = folder / "artifacts/forest.npz"
    with np.load(path) as arrays:
        arrays = dict(arrays)
    arrays["nodes"][1] = np.uint64(0)  # its first child is the root
    path.write_bytes(layout.write(arrays))
    metadata = json.loads((folder / "artifacts/metadata.json").read_text())
    metadata["forest_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "artifacts/metadata.json").write_text(json.dumps(metadata))


def test_a_version_that_loops_is_refused_before_it_runs(register, make_champion, caplog):
    register(3)
    follower = make_champion(round_seconds=20)
    follower.refresh()
    register(5, damage=put_a_loop_into)
    started = time.monotonic()
    follower.refresh()
    assert time.monotonic() - started < 10
    (message,) = errors_in(caplog)
    assert "version 2 is refused: the trees of its forest are broken (a way leads back)" in message
    register(7)
    follower.refresh()
    assert version_of(follower) == "3"


@pytest.fixture
def hanging(monkeypatch):
    """`fetch_model` of the versions in this set does not end before the test does."""
    versions, end, whole = set(), threading.Event(), champion.fetch_model

    def fetch(uri, folder):
        if uri.rpartition("/")[2] in versions:
            end.wait()
        whole(uri, folder)

    monkeypatch.setattr(champion, "fetch_model", fetch)
    yield versions
    end.set()


def test_a_round_that_hangs_is_left_to_itself(store, register, make_champion, hanging, caplog):
    register(3)
    follower, other = make_champion(round_seconds=2), make_champion(round_seconds=2)
    follower.refresh()
    hanging.add(str(register(5)))
    started = time.monotonic()
    follower.refresh()
    assert time.monotonic() - started < 6
    assert version_of(follower) == "1"
    assert errors_in(caplog) == [
        f"{CHAMPION} cannot be refreshed: fetching and loading version 2 took more than 2 s"
    ]
    follower.refresh()  # the version is left alone, and the lock is free
    other.refresh()
    assert len(errors_in(caplog)) == 2
    register(7)
    for each in (follower, other):
        each.refresh()
        assert version_of(each) == "3"


def test_what_a_round_brings_too_late_is_not_served(register, make_champion, monkeypatch):
    register(3)
    follower = make_champion(round_seconds=1)
    follower.refresh()
    late, whole = threading.Event(), champion.load_checked

    def load(folder):
        late.wait()
        return whole(folder)

    register(5)
    with monkeypatch.context() as slow:
        slow.setattr(champion, "load_checked", load)
        follower.refresh()
    (thread,) = follower._hanging
    late.set()
    thread.join()
    assert version_of(follower) == "1"
    assert follower.events == ["1", "failure"]


def test_rounds_that_hang_are_bounded(register, make_champion, monkeypatch, caplog):
    end = threading.Event()
    follower = make_champion(round_seconds=0.1)
    with monkeypatch.context() as slow:
        slow.setattr(champion, "HANGING", 2)
        slow.setattr(Champion, "_registered", lambda self: end.wait())
        for _ in range(5):
            follower.refresh()
        assert len(follower._hanging) == 2
        assert "2 rounds hang" in errors_in(caplog)[-1]
        end.set()
        for thread in follower._hanging:
            thread.join()
    follower._round_seconds = 60
    register(3)
    follower.refresh()
    assert version_of(follower) == "1"


def test_the_watching_thread_survives_a_round_that_cannot_begin(
    register, make_champion, monkeypatch, caplog
):
    register(3)
    follower = make_champion()
    follower._refresh_seconds = 0.05
    whole, tried = champion.threading.Thread.start, []

    def start(thread):
        if thread.name == "round" and len(tried) < 3:
            tried.append(thread)
            raise RuntimeError("can't start new thread")
        whole(thread)

    monkeypatch.setattr(champion.threading.Thread, "start", start)
    follower.start()
    deadline = time.monotonic() + 20
    while follower.served is None and time.monotonic() < deadline:
        time.sleep(0.05)
    follower.stop()
    assert version_of(follower) == "1"
    assert errors_in(caplog) == [f"{CHAMPION} cannot be refreshed: can't start new thread"]


def test_the_last_round_that_found_it_right_is_known(store, register, make_champion, away):
    followed = []
    register(3)
    follower = make_champion(on_follow=followed.append)
    follower.refresh()
    served = follower.current()
    assert follower.followed(served) is followed[0]
    assert followed[0].at
    store.set_model_version_tag(NAME, "1", "live_skill", "0.1")
    follower.refresh()
    assert follower.followed(served).live == {"skill": 0.1}
    away[0]()
    follower.refresh()
    assert [each.served.info["version"] for each in followed] == ["1", "1"]
    assert follower.followed(served) is followed[1]
    assert follower.followed(copy.copy(served)).at
    another = Served(object(), INFO)
    assert follower.followed(another) == Followed(another)


# The rehearsal


def test_a_version_that_fails_its_rehearsal_is_refused(register, make_champion, caplog):
    caplog.set_level(logging.INFO)

    def check(served):
        if served.info["version"] == "2":
            raise ModelError("it does not answer")

    register(3)
    follower = make_champion(check=check)
    follower.refresh()
    register(5)
    follower.refresh()
    follower.refresh()
    assert version_of(follower) == "1"
    assert errors_in(caplog) == [
        f"{CHAMPION} cannot be refreshed: version 2 is refused: it does not answer"
    ]


def without(model, *keys):
    """The model with metadata that lack a key, as a later version of a check might let pass."""
    damaged = copy.copy(model)
    metadata = damaged.metadata = copy.deepcopy(model.metadata)
    for key in keys[:-1]:
        metadata = metadata[key]
    del metadata[keys[-1]]
    return damaged


@pytest.mark.parametrize("keys", [["training_ranges", "price"], ["interval", "coverage"]])
def test_a_rehearsal_finds_what_would_fail_later(inner, keys):
    rehearse(Served(inner, INFO), build=build_flask)
    with pytest.raises(ModelError, match="it does not answer as a served model has to"):
        rehearse(Served(without(inner, *keys), INFO), build=build_flask)


def test_a_rehearsal_refuses_scores_that_are_no_numbers(inner):
    broken = copy.copy(inner)
    broken.answer_row = lambda row, threshold=None: inner.answer_row(row) | {"lower": float("nan")}
    with pytest.raises(ModelError, match="it scores one of its examples"):
        rehearse(Served(broken, INFO), build=build_flask)


def test_a_rehearsal_counts_and_logs_nothing(inner, caplog, capsys):
    caplog.set_level(logging.INFO)
    partial(rehearse, build=build_flask)(Served(inner, INFO))
    assert not caplog.records
    assert capsys.readouterr() == ("", "")
    assert inner.answer_row(ROW)["liquidity"] > 0
