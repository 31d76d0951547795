"""Versions, aliases and the gate, in a real registry."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
from support import NAME

from liquidity import registry
from liquidity.contract import CLEANED_DATA
from liquidity.data.table import inputs_and_target
from liquidity.model.gate import Decision, _decide, decide
from liquidity.model.packaging import log_model
from liquidity.search.pipeline import build_pipeline, with_forest_params


@pytest.fixture(scope="module")
def table(sample_table):
    """The sample with half of its coins for testing."""
    number = sample_table["coin"].str[-3:].astype(int)
    return sample_table.assign(set=np.where(number % 2, "train", "test"))


def add_version(table, *, promote="auto", split="coin", **params):
    """Train on the table's training rows, log what the gate needs, register."""
    training = table[table["set"] == "train"]
    params = {"n_estimators": 10} | params
    pipeline = with_forest_params(build_pipeline(random_state=0), **params)
    fitted = pipeline.fit(*inputs_and_target(training))
    with mlflow.start_run():
        mlflow.log_text(table.to_csv(index=False), CLEANED_DATA)
        uri = log_model(fitted, training, quantile=0.5, digest="d")
        decision = decide(uri, table, name=NAME, promote=promote, split=split)
        return decision, registry.register(uri, decision, name=NAME)


def alias(store, name):
    return store.get_model_version_by_alias(NAME, name).version


def test_the_first_version_becomes_champion_and_says_why(store, table):
    decision, version = add_version(table)
    assert decision.promoted
    assert alias(store, "champion") == version
    found = store.get_model_version(NAME, version)
    assert found.tags["gate.decision"] == "champion"
    assert found.tags["gate.reason"] == "there was no champion"
    assert found.description == "Registered as champion: there was no champion."
    assert found.run_id


def test_an_equal_candidate_replaces_the_champion(store, table):
    add_version(table)
    decision, version = add_version(table)
    assert decision.promoted
    assert decision.figures["rows"] == (table["set"] == "test").sum()
    assert decision.figures["candidate_r2"] == decision.figures["champion_r2"]
    assert alias(store, "champion") == version


def test_a_champion_that_comes_during_the_comparison_is_compared_with(store, table, monkeypatch):
    """Two trainings at once: the second one's gate must not miss what the first one registers."""
    _, first = add_version(table, promote="never")
    moves = iter([first])
    decide = _decide

    def slow(*args, **options):
        decision = decide(*args, **options)
        for version in moves:
            registry.make_champion(NAME, version)
        return decision

    monkeypatch.setattr("liquidity.model.gate._decide", slow)
    decision, _ = add_version(table, n_estimators=1)
    assert decision.reason.startswith(f"below champion version {first}")
    assert alias(store, "champion") == first


def test_a_worse_candidate_becomes_challenger_with_both_figures(store, table):
    _, first = add_version(table)
    decision, second = add_version(table, max_depth=2)
    assert not decision.promoted
    assert "below champion version 1 in" in decision.reason
    assert (alias(store, "champion"), alias(store, "challenger")) == (first, second)
    tags = store.get_model_version(NAME, second).tags
    assert float(tags["gate.candidate_log_r2"]) < float(tags["gate.champion_log_r2"])


def test_a_better_candidate_wins(store, table):
    add_version(table, max_depth=2)
    decision, version = add_version(table)
    assert decision.promoted
    assert alias(store, "champion") == version


def test_rows_whose_coin_the_champion_knows_do_not_count(store, table):
    """The same coin a day later is nearly the same row."""
    add_version(table.assign(set="train"))
    decision, _ = add_version(table)
    assert not decision.promoted
    assert "only 0 rows are new" in decision.reason
    first_day = table["date"].min()
    decision, _ = add_version(table[table["date"] == first_day], promote="always")
    decision, _ = add_version(table, split="coin")
    assert decision.figures["rows"] == (table["set"] == "test").sum()


def test_with_a_random_split_rows_count_by_coin_and_date(store, table):
    first_day = table["date"] == table["date"].min()
    add_version(table.assign(set=np.where(first_day, "train", "test")), split="random")
    decision, _ = add_version(table, split="random")
    assert decision.figures["rows"] == ((table["set"] == "test") & ~first_day).sum()


def test_too_few_rows_decide_nothing(store, table):
    add_version(table)
    few = table[(table["set"] == "train") | (table["coin"] == "Synthetic Coin 002")]
    decision, _ = add_version(few)
    assert not decision.promoted
    assert "promote=always" in decision.reason


def test_always_and_never_do_what_they_say(store, table):
    decision, version = add_version(table, promote="never")
    assert not decision.promoted
    assert alias(store, "challenger") == version
    add_version(table)
    decision, worse = add_version(table, promote="always", max_depth=1)
    assert decision.promoted
    assert alias(store, "champion") == worse
    assert "promote=always, in place of version 2" in decision.reason


def test_a_champion_that_cannot_be_compared_stays(store, table):
    _, first = add_version(table)
    run_id = store.get_model_version(NAME, first).run_id
    artifacts = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="")
    Path(artifacts, CLEANED_DATA).unlink()
    decision, _ = add_version(table)
    assert not decision.promoted
    assert "cannot be compared" in decision.reason
    assert alias(store, "champion") == first


def test_a_model_of_another_kind_under_the_name_stays_and_ends_no_training(store, table):
    class Stranger(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input: list[str], params=None):
            return model_input

    with mlflow.start_run():
        mlflow.log_text(table.to_csv(index=False), CLEANED_DATA)
        stranger = mlflow.pyfunc.log_model(name="m", python_model=Stranger(), pip_requirements=[])
        registry.register(stranger.model_uri, Decision(True, "by accident", {}), name=NAME)
    decision, _ = add_version(table)
    assert not decision.promoted
    assert "cannot be compared" in decision.reason


def test_rolling_back_by_hand_leaves_a_trace(store, table, capsys):
    _, first = add_version(table)
    _, second = add_version(table)
    assert registry.main(["champion", str(first)]) == 0
    assert alias(store, "champion") == first
    assert store.get_model_version(NAME, first).tags["champion.by_hand_in_place_of"] == str(second)
    assert "version 1 is champion (before: 2)" in capsys.readouterr().out


def test_rolling_back_to_nothing_is_one_sentence(store, table, capsys):
    _, version = add_version(table)
    capsys.readouterr()
    assert registry.main(["champion", "7"]) == 2
    assert registry.main(["champion", "x", "--model-name", "nobody"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert alias(store, "champion") == version
