"""The monitor against kill -9, reordered snapshots, itself, and a year of forecasts."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import NAME, PROJECT, SHORT, all_runs, use_copy

import train
from data.make_sample import make_panel
from liquidity.contract import ACTUAL, LIVE_METRICS
from liquidity.monitor import ledger, live
from liquidity.monitor.forecasts import new_table
from liquidity.monitor.job import main as run_monitor
from liquidity.monitor.ledger import FORECAST, OUTCOME, Version, as_date, as_day
from liquidity.monitor.reference import unknown_reference

pytestmark = pytest.mark.soak

HORIZONS = (1, 7, 30)
COLUMNS = ["date", "coin", "price", "24h_volume", "mkt_cap"]
FIRST = date(2024, 3, 1)  # replayed
DAYS, KILLS = (12, 2) if SHORT else (130, 20)
SHARE = 18 if SHORT else 6  # one coin in so many of the real panel
# Every fifth day's snapshot arrives three days late, behind those that came after it.
LATE, EVERY = 3, 5

# One process that lives through day after day, as cron's would one after the other: the snapshots
# due arrive, forecasts are made, what has come is scored. After a kill it goes on from the files.
DRIVER = """
import sys
from datetime import date, timedelta
from pathlib import Path
import pandas as pd
from liquidity.monitor import job
from liquidity.monitor.ledger import as_date
first, days, late, every = date.fromisoformat(sys.argv[1]), *map(int, sys.argv[2:])
def due(number):
    return number + late if number % every == every - 1 else number
state = Path("day")
for number in range(int(state.read_text()) if state.exists() else 0, days):
    state.with_name("day.new").write_text(str(number))
    state.with_name("day.new").replace(state)
    for other in range(number + 1):
        day = first + timedelta(other)
        if due(other) == number and Path(f"coming/{day}.parquet").exists():
            Path(f"coming/{day}.parquet").rename(f"snapshots/market_{day}.parquet")
    if number % 10 == 9:  # many small files take long to read, twice a day
        files = sorted(Path("snapshots").glob("*.parquet"))
        Path("past.new").unlink(missing_ok=True)
        pd.concat(map(pd.read_parquet, files)).to_parquet("past.new")
        Path("past.new").replace("snapshots/past.parquet")
        for path in files:
            if path.name != "past.parquet":
                path.unlink()
    options = ["--data", "snapshots", "--ledger", "ledger"]
    options += ["--today", str(first + timedelta(number + 1))]
    for action in ("forecast", "check"):
        code = job.main([action, *options])
        if code not in (0, 3):
            sys.exit(code)
"""


def environment(folder):
    return os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": str(PROJECT),
    }


def live_points(client):
    """The points of every live metric of each run, by `(name/version, metric)`."""
    experiment = client.get_experiment_by_name(live.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert "RUNNING" not in {run.info.status for run in runs}
    runs = [run for run in runs if live.VERSION in run.data.tags]
    assert len({run.data.tags[live.VERSION] for run in runs}) == len(runs)
    return {
        (run.info.run_name, name): client.get_metric_history(run.info.run_id, name)
        for run in runs
        for name in LIVE_METRICS
    }


@pytest.fixture(scope="module")
def real(tmp_path_factory, real_data, empty_store):
    """A store with champions of a part of the real panel's coins before FIRST, and that panel."""
    path = real_data / "panel/coingecko_daily_2019-01-01_2024-07-14.parquet"
    frame = pd.read_parquet(path)
    frame = frame[(pd.factorize(frame["coin"])[0] % SHARE == 0) & (frame["date"] >= "2022-01-01")]
    folder = tmp_path_factory.mktemp("real")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    before = frame["date"] < pd.Timestamp(FIRST)
    frame[before].to_parquet(folder / "past.parquet")
    with pytest.MonkeyPatch.context() as patch, use_copy(empty_store, folder, patch):
        options = ["--data", str(folder / "past.parquet"), "--horizon", "1,7,30", "--cv", "3"]
        options += ["--n-estimators", "20", "--min-samples-leaf", "50", "--max-features", "0.4"]
        assert train.main([*options, "--max-samples", "0.1", "--promote", "always"]) == 0
    return folder, frame


def wait_for_day(folder, number, job):
    """Return once the driver is at the day of that number."""
    state = folder / "day"
    while not (state.exists() and int(state.read_text()) >= number):
        assert job.poll() is None, (folder / "log").read_text()[-3000:]
        time.sleep(0.05)


def test_every_forecast_is_scored_once_whatever_kills_it(real, tmp_path, monkeypatch):
    store, frame = real
    days = [FIRST + timedelta(number) for number in range(DAYS)]
    (tmp_path / "coming").mkdir()
    (tmp_path / "snapshots").mkdir()
    near = frame["date"] >= pd.Timestamp(FIRST - timedelta(120))
    past = near & (frame["date"] < pd.Timestamp(FIRST))
    frame.loc[past, COLUMNS].to_parquet(tmp_path / "snapshots/past.parquet")
    for day in days:
        rows = frame.loc[frame["date"] == pd.Timestamp(day), COLUMNS]
        rows.to_parquet(tmp_path / f"coming/{day}.parquet")
    with use_copy(store / "mlflow.db", tmp_path, monkeypatch) as client:
        command = [sys.executable, "-c", DRIVER, str(FIRST), str(DAYS), str(LATE), str(EVERY)]
        chance, kills, started = random.Random(1), 0, time.monotonic()
        while True:
            with (tmp_path / "log").open("a") as log:
                job = subprocess.Popen(
                    command, cwd=tmp_path, env=environment(tmp_path), stdout=log, stderr=log
                )
            if kills < KILLS:
                # Some days on, at any moment of a forecast or a check.
                wait_for_day(tmp_path, DAYS * (kills + 1) // (KILLS + 1), job)
                time.sleep(chance.uniform(0, 4))
                job.send_signal(signal.SIGKILL)
                assert job.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()[-3000:]
                kills += 1
                continue
            assert job.wait() == 0, (tmp_path / "log").read_text()[-3000:]
            break
        seconds = time.monotonic() - started
        market = pd.read_parquet(tmp_path / "snapshots")
        liquidity = market["24h_volume"] / market["mkt_cap"].where(market["mkt_cap"] > 0)
        actual = liquidity.groupby([market["date"], market["coin"]]).last()
        points, scored = live_points(client), 0
        for horizon in HORIZONS:
            version = Version(tmp_path / "ledger", f"{NAME}-{horizon}d", "1", horizon)
            made, settled = version.days(FORECAST), version.days(OUTCOME)
            assert len(made) >= DAYS - DAYS // EVERY - 1
            there = {as_day(day.date()) for day in market["date"].unique()}
            assert settled == [day + horizon for day in made if day + horizon in there]
            steps = {}
            for day in settled:
                table = ledger.read(version, OUTCOME, day)
                forecasts = ledger.read(version, FORECAST, day - horizon)
                pd.testing.assert_frame_equal(table[forecasts.columns], forecasts)
                assert table["coin"].is_unique
                keys = pd.MultiIndex.from_product([[pd.Timestamp(as_date(day))], table["coin"]])
                expected = actual.reindex(keys).to_numpy()
                np.testing.assert_allclose(table[ACTUAL], expected, rtol=1e-9, atol=1e-12)
                steps[day] = int(table[ACTUAL].notna().sum())
                scored += steps[day]
            for name in LIVE_METRICS:
                history = points.get((f"{version.name} v1, live", name), [])
                assert sorted(point.step for point in history) == settled, name
            rows = points.get((f"{version.name} v1, live", "live_rows"), [])
            assert {point.step: int(point.value) for point in rows} == steps
        left = [path.name for path in (tmp_path / "ledger").rglob(".*.partial")]
        print(f"\n{kills} kills over {DAYS} days in {seconds:.0f} s: {scored:,} forecasts scored, "
              f"each once; unfinished files left: {len(left)}")  # fmt: skip
        assert len(left) <= kills


@pytest.fixture(scope="module")
def market():
    """Invented coins on 150 days, and the day after which four of five trade by fits and starts."""
    frame = pd.concat(make_panel(days=150, coins=120).values(), ignore_index=True)
    frame = frame.assign(date=pd.to_datetime(frame["date"]))
    change = frame["date"].min() + pd.Timedelta(days=90)
    restless = (frame["date"] > change) & (pd.factorize(frame["coin"])[0] % 5 > 0)
    fits = np.exp(np.random.default_rng(0).choice([-1, 1], len(frame)))
    frame["24h_volume"] *= np.where(restless, fits, 1)
    return frame, change


@pytest.fixture(scope="module")
def stale_monitor(tmp_path_factory, empty_store, market):
    """The folder of a champion of the days before a market changed, with its forecast of the last
    day but one and the snapshot of the day that it was for; the day on which a check finds that.
    """
    frame, change = market
    folder = tmp_path_factory.mktemp("stale")
    calm = frame[frame["date"] <= change]
    calm[COLUMNS].to_parquet(folder / "calm.parquet")
    options = ["--horizon", "1", "--n-estimators", "20", "--min-samples-leaf", "20", "--cv", "3"]
    options += ["--max-features", "0.4", "--max-samples", "0.5", "--promote", "always"]
    (folder / "snapshots").mkdir()
    last = frame["date"].max()
    before = frame["date"] < last - pd.Timedelta(days=1)
    frame.loc[before, COLUMNS].to_parquet(folder / "snapshots/past.parquet")
    day = (last - pd.Timedelta(days=1)).date()
    with pytest.MonkeyPatch.context() as patch, use_copy(empty_store, folder, patch):
        assert train.main(["--data", str(folder / "calm.parquet"), *options]) == 0
        assert run_monitor(command("forecast", today=day)[3:]) == 0
    rows = frame.loc[frame["date"] == pd.Timestamp(day), COLUMNS]
    rows.to_parquet(folder / "snapshots/new.parquet")
    return folder, day + timedelta(1)


@pytest.fixture
def stale(stale_monitor, tmp_path, monkeypatch):
    """A copy of it: a client of its store, the command of the check that trains, and how it is
    run.
    """
    folder, today = stale_monitor
    for name in ("snapshots", "ledger"):
        shutil.copytree(folder / name, tmp_path / name)
    with use_copy(folder / "mlflow.db", tmp_path, monkeypatch) as client:
        run = {"cwd": tmp_path, "env": environment(tmp_path)}
        yield client, command("check", "--retrain", today=today), run


def command(action, *options, today):
    return [sys.executable, "-m", "liquidity.monitor", action, "--data", "snapshots", "--ledger",
            "ledger", "--today", str(today), *options]  # fmt: skip


def test_two_checks_at_once_train_a_stale_champion_once(stale):
    client, check, run = stale
    pipe = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    jobs = [subprocess.Popen(check, **pipe, **run) for _ in range(2)]
    said = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert all("its intervals held" in text for text in said)
    versions = client.search_model_versions(f"name = '{NAME}-1d'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
    assert str(client.get_model_version_by_alias(f"{NAME}-1d", "champion").version) == "2"
    assert {len(history) for history in live_points(client).values()} == {1}


def wait_for_training(client, job):
    """Return once a training has begun that a check has started."""
    while not [
        run for run in all_runs(client)
        if run.info.status == "RUNNING" and live.VERSION not in run.data.tags
    ]:  # fmt: skip
        assert job.poll() is None, "nothing was trained"
        time.sleep(0.05)


@pytest.mark.parametrize("seconds", [1] if SHORT else [0, 1, 2, 3, 4])
def test_a_training_that_is_killed_is_done_once_by_the_next_check(stale, seconds):
    client, check, run = stale
    job = subprocess.Popen(check, **run)
    wait_for_training(client, job)
    time.sleep(seconds)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert subprocess.run(check, **run).returncode == 0
    versions = client.search_model_versions(f"name = '{NAME}-1d'")
    assert len([v for v in versions if v.description]) == 2
    assert str(client.get_model_version_by_alias(f"{NAME}-1d", "champion").version) != "1"
    assert "RUNNING" not in {each.info.status for each in all_runs(client)}


def highest_memory(pid):
    """MB that a process has held at most since it began; wait4's ru_maxrss would count what the
    process held from which it was started, and that is this one with all tests before.
    """
    with suppress(OSError):  # it has ended just now
        if found := re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()):
            return int(found[1]) / 1024
    return 0


def test_a_years_ledger_is_checked_in_a_minute(tmp_path, monkeypatch, forecasts):
    """1,000 coins, three horizons, a snapshot a day; nothing has been scored before."""
    days, coins, last = (60 if SHORT else 365), 1000, date(2026, 6, 30)
    chance = np.random.default_rng(0)
    with use_copy(forecasts / "mlflow.db", tmp_path, monkeypatch) as client:
        client.create_registered_model(f"{NAME}-30d")
        first = client.get_model_version(f"{NAME}-7d", "1")
        client.create_model_version(f"{NAME}-30d", first.source, first.run_id)
        client.set_registered_model_alias(f"{NAME}-30d", "champion", "1")
        names = np.array([f"Coin {number}" for number in range(coins)])
        (tmp_path / "snapshots").mkdir()
        for back in range(days):
            day = last - timedelta(back)
            volume, cap = 10 ** chance.normal([[6.5]] * 1 + [[8]], 0.5, (2, coins))
            rows = {"date": str(day), "coin": names, "price": 1.0, "24h_volume": volume}
            pd.DataFrame(rows | {"mkt_cap": cap}).to_csv(
                tmp_path / f"snapshots/{day}.csv", index=False
            )
        for horizon in HORIZONS:
            version = Version(tmp_path / "ledger", f"{NAME}-{horizon}d", "1", horizon)
            registered = client.get_model_version(version.name, "1")
            reference = unknown_reference("of the test") | {"run_id": registered.run_id}
            ledger.write_reference(version, reference)
            for back in range(days):
                liquidity = 10 ** chance.normal(-1.5, 0.7, coins)
                ends = {"lower": liquidity / 30, "upper": liquidity * 30, "p_high": 0.1}
                columns = {"liquidity": liquidity, **ends, "persistence": liquidity * 1.5}
                made = as_day(last) - horizon - back
                table = new_table(version, made, names, columns | {"har": liquidity * 1.2})
                ledger.write(version.file(FORECAST, made), table, clock=made + 1)
        started = time.monotonic()
        job = subprocess.Popen(
            command("check", today=last + timedelta(1)), cwd=tmp_path, env=environment(tmp_path)
        )
        megabytes = 0
        while not (ended := os.wait4(job.pid, os.WNOHANG))[0]:
            megabytes = max(megabytes, highest_memory(job.pid))
            time.sleep(0.05)
        _, status, used = ended
        job.returncode = os.waitstatus_to_exitcode(status)
        waited = time.monotonic() - started
        # Of its own: who waits has others beside it here, and the bar is for a machine without.
        seconds = used.ru_utime + used.ru_stime
        print(
            f"\n{3 * days * coins:,} forecasts in {seconds:.1f} s of a processor, {waited:.1f} s "
            f"in all, and {megabytes:,.0f} MB"
        )
        assert job.returncode in (0, 3)
        points = live_points(client)
        assert {len(history) for history in points.values()} == {days}
        assert seconds < 60
        assert megabytes < 1500
