"""Versions, aliases and the gate, in a real registry."""

import re
import shutil
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from support import NAME, log_same_day, use_copy

from liquidity import registry
from liquidity.contract import CLEANED_DATA
from liquidity.data.table import inputs_and_target
from liquidity.model.gate import Decision, _decide, _known, decide
from liquidity.model.moves import moves
from liquidity.search.pipeline import build_pipeline, with_forest_params

# Metrics of a candidate that is worth more than what needs no model.
BETTER = {"test_r2": 0.9, "mean_test_r2": 0.0}


@pytest.fixture(scope="module")
def table(sample_table):
    """The sample with half of its coins for testing."""
    number = sample_table["coin"].str[-3:].astype(int)
    return sample_table.assign(set=np.where(number % 2, "train", "test"))


def add_version(table, *, promote="auto", split="coin", metrics=BETTER, **params):
    """Train on the table's training rows, log what the gate needs, register."""
    training = table[table["set"] == "train"]
    params = {"n_estimators": 10} | params
    pipeline = with_forest_params(build_pipeline(random_state=0), **params)
    fitted = pipeline.fit(*inputs_and_target(training))
    with mlflow.start_run(tags={"resolved.split": split}):
        mlflow.log_text(table.to_csv(index=False), CLEANED_DATA)
        uri = log_same_day(fitted, training)
        options = {"horizon": 0, "name": NAME, "promote": promote, "split": split}
        decided = partial(decide, uri, table, metrics, **options)
        return registry.decide_and_register(uri, decided, name=NAME)


@pytest.fixture(scope="module")
def first_version(tmp_path_factory, empty_store, table):
    """A store with one version, the champion, to copy."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch, use_copy(empty_store, folder, patch):
        add_version(table)
    return folder / "mlflow.db"


@pytest.fixture
def first(store, first_version, tmp_path):
    """The number of the champion, now in the test's store; others share the files of its run."""
    shutil.copy(first_version, tmp_path / "mlflow.db")
    return alias(store, "champion")


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


def test_an_equal_candidate_replaces_the_champion(store, first, table):
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


def test_a_champion_that_comes_while_the_version_is_made_is_compared_with(
    store, table, monkeypatch
):
    """The last moment: it was decided, and the alias would move next."""
    _, first = add_version(table, promote="never")
    make_version = mlflow.register_model

    def slow(*args, **options):
        version = make_version(*args, **options)
        registry.make_champion(NAME, first)
        return version

    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "register_model", slow)
        decision, second = add_version(table, n_estimators=1)
    assert decision.reason.startswith(f"below champion version {first}")
    assert (alias(store, "champion"), alias(store, "challenger")) == (first, second)
    found = store.get_model_version(NAME, second)
    assert found.tags["gate.decision"] == "challenger"
    assert found.tags["gate.reason"] == decision.reason
    assert found.description == f"Registered as challenger: {decision.reason}."


def test_a_worse_candidate_becomes_challenger_with_both_figures(store, first, table):
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
    add_version(table.assign(set="train"), promote="always")
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


def test_too_few_rows_decide_nothing(store, first, table):
    few = table[(table["set"] == "train") | (table["coin"] == "Synthetic Coin 002")]
    decision, _ = add_version(few)
    assert not decision.promoted
    assert "promote=always" in decision.reason


@pytest.mark.parametrize("factor", [100, 1.2])
def test_targets_unlike_the_champions_are_refused(store, first, table, factor):
    """A file whose liquidity is a hundred times as large brings an exam that it passes."""
    decision, _ = add_version(table.assign(liquidity=factor * table["liquidity"]))
    assert not decision.promoted
    assert decision.reason.startswith("its targets are")
    assert decision.figures["target_ratio"] == pytest.approx(factor, rel=0.05)


def test_targets_of_other_coins_are_judged_by_the_champions_own_rows(store, first, table):
    """Where no row is shared, the champion's test rows still know their targets."""
    other = table.assign(coin="other " + table["coin"], liquidity=100 * table["liquidity"])
    other["price"] *= 1.5
    decision, _ = add_version(other)
    assert not decision.promoted
    assert "on the champion's test rows" in decision.reason


def test_a_file_of_calm_coins_does_not_become_champion(store, first, table):
    """It is good on its own rows, which are easy, and knows no High coin."""
    calm = table[table["liquidity"] < 0.1]
    decision, _ = add_version(calm)
    assert not decision.promoted
    assert "on the champion's test rows" in decision.reason


def test_a_candidate_cannot_choose_a_split_that_lets_it_learn_the_champions_test_coins(
    store, first, table
):
    """A day earlier or later the same coin is nearly the same row."""
    last = table["date"] == table["date"].max()
    decision, _ = add_version(table.assign(set=np.where(last, "test", "train")), split="random")
    assert not decision.promoted
    assert "only 0 rows are new to both" in decision.reason


def test_days_around_a_test_row_are_no_way_to_know_it(store, table):
    """A file without the champion's test days, split by date, would train on the days behind."""
    third, last = sorted(table["date"].unique())[2:]
    before = table[table["date"] < last]
    add_version(before.assign(set=np.where(before["date"] < third, "train", "test")), split="date")
    behind = table.assign(set=np.where(table["date"] == last, "train", "test"))
    decision, _ = add_version(behind, split="date")
    assert not decision.promoted
    assert "rows are new to both" in decision.reason
    assert decision.figures["rows"] == 1  # of a coin without the last day


def test_a_forecast_knows_the_days_that_its_training_targets_came_from(table):
    """Of the same coin; its last target lies a horizon behind its last row."""
    days = pd.date_range("2026-01-01", periods=30)
    rows = pd.concat([table.head(30).assign(coin=coin, date=days) for coin in ("A", "B")])
    rows["price"] = np.arange(1.0, 61)
    trained = rows[(rows["coin"] == "A") & (rows["date"] <= days[9])]
    new = rows[~_known(rows, trained, {"date"}, 7)]
    assert list(new.groupby("coin")["date"].min()) == [days[17], days[0]]


def test_the_same_row_under_another_name_and_rounded_is_the_same_row(store, first, table):
    """Another vendor's file, with ids as names: the champion's test rows, learned by heart."""
    rounded = table[["24h_volume", "mkt_cap", "price"]].map(lambda value: float(f"{value:.4g}"))
    heart = table.assign(coin=table["coin"].str.lower(), **rounded)
    heart["set"] = np.where(heart["set"] == "train", "test", "train")
    decision, _ = add_version(heart)
    assert not decision.promoted
    assert "only 0 rows are new to both" in decision.reason


def test_targets_that_are_changed_in_a_part_of_the_rows_are_refused(store, first, table):
    """Whose median agrees: High coins alone, say, in another unit."""
    some = table["liquidity"].rank(pct=True) > 0.8
    changed = table.assign(liquidity=table["liquidity"].where(~some, table["liquidity"] / 100))
    decision, _ = add_version(changed)
    assert not decision.promoted
    assert decision.reason.startswith("its targets are 1 times those")
    assert decision.figures["targets_far_off"] == pytest.approx(0.2, abs=0.02)


def test_a_candidate_that_leaves_the_easy_rows_of_the_champions_exam_decides_nothing(
    store, first, table
):
    """By learning the hard ones it would choose what it is examined on."""
    calm = table.groupby("coin")["liquidity"].transform("max") < 0.05
    hard = (table["set"] == "test") & ~calm
    decision, _ = add_version(table.assign(set=np.where(hard, "train", table["set"])))
    assert not decision.promoted
    assert "test rows that are new to it are unlike the others" in decision.reason


def test_another_seed_leaves_a_fair_part_of_the_champions_exam(store, table):
    add_version(table, n_estimators=2)
    number = table["coin"].str[-3:].astype(int)
    other = table.assign(set=np.where(number % 3, "train", "test"))
    decision, _ = add_version(other)
    assert "on 200 of the champion's test rows" in decision.reason


def test_an_absurd_row_to_learn_from_is_no_low_bar(store, table):
    """The mean of the training rows is one then that anything is better than."""
    decision, _ = add_version(table, metrics={"test_r2": -5.0, "mean_test_r2": -1e9})
    assert not decision.promoted
    assert "test r2 -5.0000 is not above 0" in decision.reason


def test_a_first_champion_has_to_be_better_than_the_mean(store, table):
    decision, _ = add_version(table, metrics={"test_r2": -0.27, "mean_test_r2": -0.01})
    assert not decision.promoted
    assert "test r2 -0.2700 is not above -0.0100, the mean of the same rows" in decision.reason
    decision, _ = add_version(table, promote="always", metrics={"test_r2": -1, "mean_test_r2": 0})
    assert decision.promoted


def test_a_first_champion_is_tested_on_thirty_rows(store, table):
    few = table[(table["set"] == "train") | (table["coin"] == "Synthetic Coin 002")]
    decision, _ = add_version(few)
    assert not decision.promoted
    assert "rows only, and a first champion needs 30" in decision.reason


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


def listed(capsys, *options):
    """What `list` prints, as lines without their last blanks."""
    capsys.readouterr()
    assert registry.main(["list", *options]) == 0
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_versions_are_listed_with_their_roles_and_figures_in_80_columns(
    store, first, table, capsys
):
    run_id = store.get_model_version(NAME, first).run_id
    for key, value in {"test_r2": 0.87654, "interval_coverage": 0.9, "rows_used": 1192}.items():
        store.log_metric(run_id, key, value)
    store.log_param(run_id, "data", "/a/folder/" + 60 * "x" + ".csv")
    add_version(table, promote="never")
    lines = listed(capsys)
    assert all(len(line) <= 80 for line in lines)
    assert lines[0] == NAME
    assert lines[2].split() == ["version", "role", "registered", "test", "r2", "coverage", "rows",
                                "data"]  # fmt: skip
    assert lines[4].split()[:2] == ["2", "challenger"]
    assert lines[5].split()[:2] == ["1", "champion"]
    assert lines[5].split()[3:6] == ["0.8765", "0.9000", "1,192"]
    assert lines[5].endswith("…")


def test_horizons_live_figures_and_versions_without_a_run_are_listed(store, first, capsys):
    store.delete_run(store.get_model_version(NAME, first).run_id)
    source = store.get_model_version(NAME, first).source
    for name in (f"{NAME}-7d", f"{NAME}-wild"):
        store.create_registered_model(name)
        store.create_model_version(name, source)
    tags = {"live_r2": "0.81234", "live_rows": "4200", "live_step": "soon", "live_reason": ""}
    for key, value in (tags | {"live_verdict": "fine"}).items():
        store.set_model_version_tag(f"{NAME}-7d", "1", key, value)
    store.set_registered_model_alias(f"{NAME}-7d", "a-rather-long-name-for-an-alias", "1")
    lines = listed(capsys)
    assert f"{NAME}-7d" in lines
    assert f"{NAME}-wild" not in lines
    assert lines[-1] == "  version 1 live: verdict fine, r2 0.812, rows 4,200, step soon"
    assert all(len(line) <= 80 for line in lines)
    assert lines == listed(capsys, "--model-name", NAME)
    assert listed(capsys, "--model-name", f"{NAME}-wild")[0] == f"{NAME}-wild"


def test_where_nothing_is_registered_the_list_says_so(store, capsys):
    assert registry.main(["list"]) == 2
    assert "No version is registered as crypto-liquidity (there is nothing)" in (
        capsys.readouterr().err
    )
    store.create_registered_model("it's")
    assert registry.main(["--model-name", "it's", "list"]) == 2
    assert "(there is it's): train one" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["lst"], ["champion"], ["list", "3"]])
def test_a_command_that_is_none_is_one_sentence(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        registry.main(arguments)
    err = capsys.readouterr().err
    assert (ended.value.code, len(err.splitlines())) == (2, 1)
    assert err.startswith("liquidity.registry: ")


def test_a_description_that_a_person_wrote_stays(store, table):
    store.create_registered_model(NAME, description="ours")
    decision = Decision(True, "of the test", {})
    with mlflow.start_run():
        uri = log_same_day(build_pipeline(random_state=0).fit(*inputs_and_target(table)), table)
    registry.decide_and_register(uri, lambda: decision, name=NAME, about="A.", about_all="theirs")
    assert store.get_registered_model(NAME).description == "ours"
    said = store.get_model_version(NAME, "1").description
    assert said == "A. Registered as champion: of the test."


def test_rolling_back_by_hand_leaves_a_trace(store, first, table, capsys):
    _, second = add_version(table)
    assert registry.main(["champion", str(first)]) == 0
    assert alias(store, "champion") == first
    assert store.get_model_version(NAME, first).tags["champion.by_hand_in_place_of"] == str(second)
    assert "version 1 is champion (before: 2)" in capsys.readouterr().out


def test_rolling_back_to_nothing_is_one_sentence(store, first, capsys):
    capsys.readouterr()
    assert registry.main(["champion", "7"]) == 2
    assert registry.main(["champion", "x", "--model-name", "nobody"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert alias(store, "champion") == first


def test_every_move_of_an_alias_is_kept_and_printed(store, first, table, capsys):
    _, second = add_version(table)
    add_version(table, max_depth=1)
    assert registry.main(["champion", str(first)]) == 0
    capsys.readouterr()
    assert registry.main(["history"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == NAME
    assert [
        re.match(r"  \S+ \S+ (.*?)(?: \(|$)", line)[1] for line in lines
    ] == ["champion: none -> 1, by gate", "champion: 1 -> 2, by gate",
            "challenger: none -> 3, by gate", "champion: 2 -> 1, by hand"]  # fmt: skip
    assert "there was no champion" in lines[0]
    assert "not below champion version 1" in lines[1]
    assert "candidate_r2" in lines[1]
    # A version that is deleted has served all the same.
    store.delete_model_version(NAME, second)
    assert [move["to"] for move in moves(NAME)] == ["1", "2", "3", "1"]


def test_a_move_that_a_kill_cut_short_is_told_from_one_that_happened(
    store, first, table, monkeypatch, capsys
):
    add_version(table, promote="never")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            registry.make_champion(NAME, "2")
    assert alias(store, "champion") == first
    assert [move["happened"] for move in moves(NAME)] == [True, True, False]
    # By other means, which nothing records, and a move from there.
    store.set_registered_model_alias(NAME, "champion", "2")
    capsys.readouterr()
    assert registry.main(["history"]) == 0
    registry.make_champion(NAME, first)
    assert [move["happened"] for move in moves(NAME)] == [True, True, True, True]


def test_an_alias_that_something_else_has_moved_is_told(store, first, table, capsys):
    add_version(table, promote="never")
    store.set_registered_model_alias(NAME, "champion", "2")
    assert registry.main(["history"]) == 0
    assert "now champion: 2, moved by other means" in capsys.readouterr().out


def test_a_history_of_nothing_is_one_sentence(store, capsys):
    assert registry.main(["history"]) == 2
    assert "No move of an alias is recorded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [(["champion"], "required: version"), (["history", "1"], "unrecognized arguments: 1")],
)
def test_a_command_with_a_word_too_many_or_too_few_is_one_sentence(words, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        registry.main(words)
    assert said in capsys.readouterr().err
