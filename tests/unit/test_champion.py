"""The served model against a real registry: loaded, swapped, cached, and refused."""

import hashlib
import json
import logging
import sqlite3
from dataclasses import replace

import mlflow
import numpy as np
import pytest
from support import CHAMPION, NAME, PROJECT, ROW

from liquidity.model import loading
from liquidity.model.loading import SAME_DAY
from serve.champion import Champion, NoModel
from serve.settings import parse_model_uri


@pytest.fixture
def champion(make_champion):
    return make_champion()


def test_the_alias_is_served_with_what_is_known_of_it(register, champion):
    register(3)
    champion.refresh()
    served = champion.current()
    assert served.reference == {"name": NAME, "version": "1"}
    assert served.info["source"] == "registry"
    assert served.info["metrics"]["test_r2"] == 0.3
    assert served.model.answer_row(ROW)["liquidity"] > 0


def test_a_moved_alias_is_followed_and_a_rollback_is_one(store, register, champion):
    register(3)
    champion.refresh()
    first = champion.current()
    register(5)
    champion.refresh()
    assert champion.current().info["version"] == "2"
    assert champion.current().model.answer_row(ROW) != first.model.answer_row(ROW)
    store.set_registered_model_alias(NAME, "champion", "1")
    champion.refresh()
    assert champion.current().model.answer_row(ROW) == first.model.answer_row(ROW)
    champion.refresh()
    assert champion.events == ["1", "2", "1"]


def test_a_model_registered_twice_is_two_versions(store, register, champion):
    register(3)
    champion.refresh()
    source = store.get_model_version(NAME, "1").source
    store.create_model_version(NAME, source)
    store.set_registered_model_alias(NAME, "champion", "2")
    champion.refresh()
    assert champion.current().info["version"] == "2"


def test_a_fixed_version_stays(register, make_champion):
    register(3)
    champion = make_champion(f"models:/{NAME}/1")
    champion.refresh()
    register(5)
    champion.refresh()
    assert champion.current().info["version"] == "1"
    assert champion.current().info["alias"] is None


def test_only_what_serving_needs_is_fetched_and_old_versions_go(register, champion, tmp_path):
    for trees in (1, 2, 3, 4, 5):
        register(trees)
        champion.refresh()
    folders = [path for path in tmp_path.glob("cache/*/*") if path.is_dir()]
    assert {path.name.partition("-")[0] for path in folders} == {"3", "4", "5"}
    files = {path.name for path in folders[0].rglob("*") if path.is_file()}
    assert files == {"MLmodel", "model.py", "forest.npz", "metadata.json"}


def test_without_a_champion_it_says_what_to_do_and_keeps_trying(register, champion, caplog):
    champion.refresh()
    champion.refresh()
    with pytest.raises(NoModel, match=r"No model is loaded: models:/crypto.*Train one"):
        champion.current()
    assert [record.message for record in caplog.records if record.name == "serve"] == [
        "models:/crypto-liquidity@champion cannot be refreshed: Registered model alias champion "
        "not found"
    ]
    register(3)
    champion.refresh()
    assert champion.current().info["version"] == "1"


def test_a_registry_that_is_away_is_said_once_and_the_model_stays(register, champion, away, caplog):
    go, come_back = away
    caplog.set_level(logging.INFO)
    register(3)
    champion.refresh()
    go()
    champion.refresh()
    champion.refresh()
    assert champion.current().info["version"] == "1"
    assert champion.events == ["1", "failure", "failure"]
    assert sum("cannot be refreshed" in record.message for record in caplog.records) == 1
    come_back()
    champion.refresh()
    assert "the registry answers again" in caplog.text


def test_a_start_without_the_registry_serves_the_cache(register, make_champion, away):
    go, come_back = away
    register(3)
    first = make_champion()
    first.refresh()
    second = make_champion()
    go()
    second.start()
    second.stop()
    served = second.current()
    assert served.info["source"] == "cache"
    assert served.model.answer_row(ROW) == first.current().model.answer_row(ROW)
    come_back()
    second.refresh()
    assert second.current().info["source"] == "registry"


def test_another_registry_does_not_see_the_cache(register, make_champion, tmp_path, monkeypatch):
    register(3)
    make_champion().refresh()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    champion = make_champion()
    champion.refresh()
    with pytest.raises(NoModel):
        champion.current()


def test_a_cached_copy_gone_bad_is_fetched_again(register, make_champion, tmp_path):
    register(3)
    make_champion().refresh()
    (forest,) = tmp_path.glob("cache/*/*/artifacts/forest.npz")
    forest.write_bytes(b"half")
    champion = make_champion()
    champion.refresh()
    assert champion.current().model.answer_row(ROW)["liquidity"] > 0


def test_a_copy_that_another_version_of_the_project_knows_is_left_alone(
    register, make_champion, tmp_path, monkeypatch
):
    """Both may share a cache; the other one may have no registry at its next start."""
    register(3)
    make_champion().refresh()
    files = {
        path: path.read_bytes() for path in tmp_path.glob("cache/*/1-*/**/*") if path.is_file()
    }
    assert len(files) == 4
    with monkeypatch.context() as other:
        other.setattr(loading, "KINDS", {"same-day": replace(SAME_DAY, code={"another": 4})})
        champion = make_champion()
        champion.refresh()
        champion.refresh()
        with pytest.raises(NoModel):
            champion.current()
        assert {path: path.read_bytes() for path in files} == files
    assert not list(tmp_path.glob("cache/*/.download-*"))
    champion = make_champion()
    champion.refresh()
    assert champion.current().model.answer_row(ROW)["liquidity"] > 0


def test_a_cache_folder_that_cannot_be_written_is_done_without(register, store, tmp_path, caplog):
    register(3)
    (tmp_path / "file").write_text("")
    champion = Champion(CHAMPION, refresh_seconds=60, cache_dir=tmp_path / "file")
    champion.refresh()
    assert champion.current().info["version"] == "1"
    assert "cannot be written" in caplog.text


def remove(path, name):
    (path / name).unlink()


def edit(path, name, before, after):
    text = (path / name).read_text()
    assert before in text
    (path / name).write_text(text.replace(before, after))


def corrupt_forest(path):
    body = bytearray((path / "artifacts/forest.npz").read_bytes())
    body[len(body) // 2 :] = np.random.default_rng(0).bytes(len(body) - len(body) // 2)
    (path / "artifacts/forest.npz").write_bytes(body)


def flip_a_leaf(path):
    """Loads, scores, and is wrong."""
    body = bytearray((path / "artifacts/forest.npz").read_bytes())
    body[-200] ^= 0x10
    (path / "artifacts/forest.npz").write_bytes(body)


def other_metadata(path):
    metadata = json.loads((path / "artifacts/metadata.json").read_text())
    metadata["forest_sha256"] = hashlib.sha256(b"another").hexdigest()
    (path / "artifacts/metadata.json").write_text(json.dumps(metadata))


DAMAGE = {
    "missing forest": lambda path: remove(path, "artifacts/forest.npz"),
    "missing metadata": lambda path: remove(path, "artifacts/metadata.json"),
    "missing code": lambda path: remove(path, "model.py"),
    "corrupt forest": corrupt_forest,
    "flipped leaf": flip_a_leaf,
    "metadata of another model": other_metadata,
    "metadata that is not JSON": lambda path: (path / "artifacts/metadata.json").write_text("{"),
    "another format": lambda path: edit(
        path, "artifacts/metadata.json", '"format": ', '"format": 9'
    ),
    "another signature": lambda path: edit(path, "MLmodel", '"name": "1h"', '"name": "2h"'),
    "changed code": lambda path: edit(path, "model.py", "import json", "import json, os"),
    "another loader": lambda path: edit(
        path, "MLmodel", "mlflow.pyfunc.loaders.code_model", "mlflow.sklearn"
    ),
    "a pickled model": lambda path: edit(
        path, "MLmodel", "    code: null", "    code: null\n    python_model: python_model.pkl"
    ),
    "code beside it": lambda path: edit(path, "MLmodel", "    code: null", "    code: code"),
    "an artifact elsewhere": lambda path: edit(
        path, "MLmodel", "path: artifacts/forest.npz", "path: ../../../forest.npz"
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_broken_version_is_never_served_and_said_once(
    store, register, champion, caplog, tmp_path, damage
):
    register(3)
    champion.refresh()
    before = champion.current()
    register(5, damage=damage)
    for _ in range(3):
        champion.refresh()
    assert champion.current() is before
    assert "failure" in champion.events
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1, caplog.text
    assert not errors[0].exc_info
    store.set_registered_model_alias(NAME, "champion", "1")
    champion.refresh()
    assert champion.current() is before
    assert not list(tmp_path.glob("cache/*/2-*"))


def test_a_model_of_another_kind_is_never_run(store, champion, tmp_path, caplog):
    """A pickled Python model would run whatever it likes."""

    class Other(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input: list[str], params=None):
            return model_input

        def load_context(self, context):
            (tmp_path / "it ran").touch()

    with mlflow.start_run(experiment_id="0"):
        uri = mlflow.pyfunc.log_model(
            name="model", python_model=Other(), pip_requirements=[]
        ).model_uri
    (tmp_path / "it ran").unlink(missing_ok=True)
    store.set_registered_model_alias(NAME, "champion", mlflow.register_model(uri, NAME).version)
    champion.refresh()
    with pytest.raises(NoModel):
        champion.current()
    assert not (tmp_path / "it ran").exists()


def test_a_locked_store_does_not_stop_the_served_model(register, champion, tmp_path):
    register(3)
    champion.refresh()
    lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")  # a writer
    champion.refresh()
    lock.close()
    assert champion.events == ["1"]


@pytest.mark.parametrize(
    ("uri", "parts"),
    [("models:/a@b", ("a", "b", None)), ("models:/a-b.c/12", ("a-b.c", None, "12"))],
)
def test_model_uris_name_an_alias_or_a_version(uri, parts):
    assert parse_model_uri(uri) == parts


@pytest.mark.parametrize("uri", ["", "a@b", "models:/a", "models:/a/latest", "runs:/x/model", "/a"])
def test_another_uri_is_refused(uri):
    with pytest.raises(ValueError, match=r"expected models:/<name>@<alias>"):
        parse_model_uri(uri)


def test_the_shipped_model_code_is_known():
    code = (PROJECT / "liquidity/model/model.py").read_bytes()
    assert hashlib.sha256(code).hexdigest() == list(SAME_DAY.code)[-1], (
        "append the digest of the changed model.py; older ones stay, so that their versions serve"
    )
