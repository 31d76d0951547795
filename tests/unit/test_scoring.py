"""Blocks and files in, the same rows with their scores out."""

import gzip
import os
import re
import resource
import signal
import subprocess
import sys
import time

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import GOOD, PROJECT, SAMPLE

from liquidity.contract import FEATURES
from liquidity.data import content
from liquidity.errors import MarketDataError
from liquidity.scoring.blocks import SCORES, csv_header, csv_lines, score_rows
from liquidity.scoring.files import score_file
from liquidity.scoring.job import check_headers, main

TEXT = {"24h_volume": "1e7", "mkt_cap": "1e8", "1h": "0.01", "price": "1.0"}


def block(*rows, **own):
    """A block of text cells; each of `rows` changes some of the good ones."""
    rows = [TEXT | row for row in rows]
    columns = {name: [row[name] for row in rows] for name in FEATURES}
    return pa.table(own | columns)


def test_rows_come_back_in_order_with_their_own_cells_and_the_models_scores(model, sample_table):
    inner = model.unwrap_python_model().scorer
    frame = sample_table[["coin", *FEATURES]].astype(str)
    scored = score_rows(inner, pa.Table.from_pandas(frame, preserve_index=False)).to_pandas()
    assert list(scored) == ["coin", *FEATURES, *SCORES]
    assert scored[list(frame)].equals(frame.reset_index(drop=True))
    expected = model.predict(sample_table[FEATURES])
    for name in expected:
        assert np.array_equal(scored[name], expected[name]), name
    assert scored["error"].isna().all()


def test_a_row_that_breaks_rules_has_an_error_that_names_them_and_no_scores(model):
    inner = model.unwrap_python_model().scorer
    table = block({}, {"mkt_cap": "0", "price": "-1"}, {"1h": ""}, {"price": "dear"}, {})
    scored = score_rows(inner, table).to_pylist()
    assert [row["error"] for row in scored] == [
        None,
        "column mkt_cap: expected a finite number > 0 and <= 1e+18, got '0'; "
        "column price: expected a finite number >= 0 and <= 1e+18, got '-1'",
        "column 1h: expected a finite number >= -1 and <= 1e+18, got ''",
        "column price: expected a finite number >= 0 and <= 1e+18, got 'dear'",
        None,
    ]
    for row in scored[1:4]:
        assert {row[name] for name in SCORES if name != "error"} == {None}
    assert scored[0]["liquidity"] == scored[4]["liquidity"] > 0


def test_a_block_without_one_good_row_has_the_same_columns(model):
    inner = model.unwrap_python_model().scorer
    scored = score_rows(inner, block({"price": "x"}))
    assert scored.schema == score_rows(inner, block({})).schema
    assert score_rows(inner, block({}).slice(0, 0)).schema == scored.schema


@pytest.mark.parametrize(
    "price", ["1.0", " 1 ", "$1.00", "+1", pa.scalar(1), pa.scalar(1.0, pa.float32())]
)
def test_a_number_counts_however_it_is_written(model, price):
    inner = model.unwrap_python_model().scorer
    (expected,) = model.predict(pd.DataFrame([GOOD]))["liquidity"]
    table = block({}).drop_columns("price").append_column("price", pa.array([price]))
    assert score_rows(inner, table)["liquidity"].to_pylist() == [expected]


@pytest.mark.parametrize("price", ["--", "nan", "inf", "1e400", True, None, float("nan")])
def test_what_is_no_finite_number_is_an_error_however_it_is_written(model, price):
    inner = model.unwrap_python_model().scorer
    table = block({}).drop_columns("price").append_column("price", pa.array([price]))
    (error,) = score_rows(inner, table)["error"].to_pylist()
    assert error.startswith("column price: expected a finite number >= 0")
    assert error.endswith(f"got {price!r}")


def test_padded_headers_and_the_alias_are_found_and_stay_as_they_stood(model):
    names = [" mkt_cap ", "volume", "1h", "price"]
    table = block({}).select(["mkt_cap", "24h_volume", "1h", "price"]).rename_columns(names)
    scored = score_rows(model.unwrap_python_model().scorer, table)
    assert scored.column_names == [*names, *SCORES]
    assert scored["error"].to_pylist() == [None]


def test_a_column_named_like_a_score_is_kept_under_another_name(inner):
    table = block({}, liquidity=["0.1"], error=["mine"], input_error=["also mine"])
    scored = score_rows(inner, table)
    own = ["input_liquidity", "input_input_error", "input_error"]
    assert scored.column_names == [*own, *FEATURES, *SCORES]
    assert scored["input_input_error"].to_pylist() == ["mine"]
    assert scored["input_liquidity"].to_pylist() == ["0.1"]
    assert scored["liquidity"].equals(score_rows(inner, block({}))["liquidity"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["24h_volume", "mkt_cap", "1h", "cost"],
            "column price: missing; the file has 24h_volume",
        ),
        (["24h_volume", "mkt_cap", "1h", "price", "volume"], "24h_volume: given more than once"),
    ],
)
def test_a_missing_or_repeated_column_is_said(model, names, message):
    table = pa.table([["1"]] * len(names), names=names)
    with pytest.raises(MarketDataError, match=message):
        score_rows(model.unwrap_python_model().scorer, table)


def test_the_threshold_can_be_given(model):
    inner = model.unwrap_python_model().scorer
    levels = [score_rows(inner, block({}), threshold=t)["level"].to_pylist() for t in (0.0, 1e9)]
    assert levels == [["High"], ["Low"]]


def test_csv_cells_are_quoted_where_they_must_be_and_only_there():
    cells = ["plain", "a,b", 'say "so"', "two\nlines", None, " padded "]
    numbers = [0.1, 1e22, 1e-7, 2.0, None, 3.0]
    table = pa.table({"te,xt": cells, "number": numbers, "flag": [True, False, None] * 2})
    text = (csv_header(table.column_names) + csv_lines(table)).decode()
    assert text == (
        '"te,xt",number,flag\nplain,0.1,true\n"a,b",1e+22,false\n"say ""so""",1e-7,\n'
        '"two\nlines",2,true\n,,false\n padded ,3,\n'
    )
    lines = text.partition("\n")[2]
    slices = [csv_lines(table.slice(*part)) for part in ((0, 1), (1, 1), (2, 1), (3, 3))]
    assert b"".join(slices).decode() == lines
    assert csv_lines(pa.concat_tables([table.slice(4), table])).decode().endswith(lines)
    assert csv_lines(table.slice(0, 0)) == b""
    assert csv_lines(pa.table({"empty": [None, ""]})) == b"\n\n"


COLUMNS = "coin,price,1h,24h_volume,mkt_cap"
AFTERWARDS = "Nothing half-written is left; the same command does what is missing."
LINE = "bitcoin,41140.0,0.022,34000000000.0,780000000000.0"


def run(*arguments, **options):
    """The command in a process of its own, as its user runs it."""
    command = [sys.executable, "-m", "liquidity.scoring", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, **options)


def score(input, output, *more):
    return main(["--input", str(input), "--output", str(output), *more])


def test_the_command_scores_a_file_over_the_champion(champion, write_csv, tmp_path):
    source = write_csv(LINE, LINE.replace("780000000000.0", "--"), header=COLUMNS)
    result = run("--input", source, "--output", tmp_path / "out.csv")
    assert (result.returncode, result.stderr) == (0, "")
    wanted = (
        f"2 rows written to {tmp_path}/out.csv; 1 without a score, whose column error says why."
    )
    assert wanted in result.stdout
    header, good, bad = (tmp_path / "out.csv").read_text().splitlines()
    assert header == f"{COLUMNS},liquidity,level,lower,upper,in_range,error"
    assert good.startswith(LINE)
    assert good.split(",")[6] == "Low"
    assert bad.endswith(
        ",,,,,\"column mkt_cap: expected a finite number > 0 and <= 1e+18, got '--'\""
    )


@pytest.mark.parametrize("written", [".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("read", [".csv", ".csv.gz", ".parquet"])
def test_every_kind_of_file_is_read_and_written(inner, sample_table, tmp_path, read, written):
    source, target = tmp_path / f"in{read}", tmp_path / f"out{written}"
    frame = sample_table[["date", "coin", *FEATURES]].reset_index(drop=True)
    write = frame.to_parquet if read == ".parquet" else frame.to_csv
    write(source, index=False)
    score_file(inner, source, target)
    scored = pd.read_parquet(target) if written == ".parquet" else pd.read_csv(target)
    assert list(scored) == [*frame, *SCORES]
    assert np.array_equal(scored[FEATURES].astype(float), frame[FEATURES])
    assert np.array_equal(
        scored["liquidity"], inner.answer(frame[FEATURES].to_numpy())["liquidity"]
    )
    assert (scored["coin"] == frame["coin"]).all()


@pytest.mark.parametrize("written", [".csv", ".csv.gz", ".parquet"])
def test_the_same_rows_are_the_same_bytes_at_any_time(
    inner, write_csv, tmp_path, monkeypatch, written
):
    source = write_csv(LINE, header=COLUMNS)
    for day in (1, 2):
        monkeypatch.setattr(gzip.time, "time", lambda day=day: 86_400.0 * day)
        score_file(inner, source, tmp_path / f"{day}{written}")
    assert (tmp_path / f"1{written}").read_bytes() == (tmp_path / f"2{written}").read_bytes()


def test_parquet_keeps_the_types_of_its_own_columns(inner, sample_table, tmp_path):
    frame = sample_table[["date", "coin", *FEATURES]].assign(tags=[["a"]] * len(sample_table))
    frame.to_parquet(tmp_path / "in.parquet", index=False)
    score_file(inner, tmp_path / "in.parquet", tmp_path / "out.parquet")
    before, after = (pq.read_schema(tmp_path / f"{name}.parquet") for name in ("in", "out"))
    assert [after.field(name).type for name in before.names] == before.types
    with pytest.raises(
        MarketDataError, match=r"column tags is list.* write to a name that ends in"
    ):
        score_file(inner, tmp_path / "in.parquet", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_blocks_keep_the_order_of_the_rows_and_every_cell(inner, tmp_path, monkeypatch):
    """Quoted line ends and quotes at the borders of blocks included."""
    monkeypatch.setattr(content, "BLOCK_BYTES", 1000)
    cells = [f'"coin ""{n}""\nof, {n}"' if n % 3 else f"coin {n}" for n in range(500)]
    lines = [f"{cell},{n + 1}.50,0.01,1e7,1e8" for n, cell in enumerate(cells)]
    source = tmp_path / "in.csv"
    source.write_bytes("\n".join([COLUMNS, *lines, ""]).encode())
    score_file(inner, source, tmp_path / "out.csv")
    text = (tmp_path / "out.csv").read_bytes().decode()
    for line in lines:
        assert f"{line}," in text
    scored, read = (pd.read_csv(p, dtype=str) for p in (tmp_path / "out.csv", source))
    assert scored[list(read)].equals(read)


def test_a_folder_is_scored_file_by_file(champion, write_csv, tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for name in ("b.csv", "a.csv"):
        write_csv(LINE, name=f"in/{name}", header=COLUMNS)
    (tmp_path / "in/notes.txt").write_text("no table")
    assert score(tmp_path / "in", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.csv", "b.csv"]
    assert f"2 rows written to 2 files in {tmp_path}/out." in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # not asked for nothing
    assert score(tmp_path / "in", tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("2 of 2 files are in ")


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "in.parquet"])
def test_the_position_grows_to_the_end_of_the_file(inner, tmp_path, monkeypatch, name):
    monkeypatch.setattr(content, "BLOCK_BYTES", 100_000)
    monkeypatch.setattr(content, "BLOCK_ROWS", 1000)
    source = tmp_path / name
    frame = pd.DataFrame([GOOD] * 10_000)
    (frame.to_parquet if name == "in.parquet" else frame.to_csv)(source)
    seen = []
    score_file(inner, source, tmp_path / "out.csv", on_block=lambda at, scored: seen.append(at))
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1] == source.stat().st_size
    if name != "in.csv.gz":  # what is read ahead is the whole of so small a file
        assert seen[0] < source.stat().st_size / 2


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "in.parquet"])
def test_a_file_that_arrow_may_still_read_ahead_in_is_not_closed(
    inner, tmp_path, monkeypatch, name
):
    """Its descriptor would be the next file's, which then lacks what the thread took out of it:
    one in a hundred files of 20 MB, whose headers were looked at one after the other, did.
    """
    closed = []

    class Watched(pa.OSFile):
        def close(self):
            closed.append(self)
            super().close()

        def __exit__(self, *error):  # of a look at the start, which reads nothing ahead
            super().close()

    monkeypatch.setattr(content, "BLOCK_BYTES", 100_000)
    monkeypatch.setattr(content, "BLOCK_ROWS", 1000)
    source, target = tmp_path / name, tmp_path / "out.csv"
    frame = pd.DataFrame([GOOD] * 50_000)
    (frame.to_parquet if name == "in.parquet" else frame.to_csv)(source)
    monkeypatch.setattr(pa, "OSFile", Watched)
    check_headers([(source, target)], inner, [], None)

    def stop(position, scored):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_file(inner, source, target, on_block=stop)
    assert not closed


def test_an_existing_output_stays_unless_it_may_be_replaced(champion, write_csv, tmp_path, capsys):
    source, target = write_csv(LINE, header=COLUMNS), tmp_path / "out.csv"
    target.write_text("precious")
    assert score(source, target) == 2
    assert "exists; use --overwrite" in capsys.readouterr().err
    assert target.read_text() == "precious"
    assert score(source, source, "--overwrite") == 2
    assert "is the input" in capsys.readouterr().err
    assert score(source, target, "--overwrite") == 0
    assert target.read_text().startswith(COLUMNS)


def ragged(folder):
    (folder / "in.csv").write_text("\n".join([COLUMNS, *[LINE] * 900_000, f"{LINE},more", ""]))


def text_in_a_number(folder):
    lines = [LINE] * 90_000
    lines[70_000] = LINE.replace("41140.0", "cheap")
    (folder / "in.csv").write_text("\n".join([COLUMNS, *lines, ""]))


def truncated_gzip(folder):
    whole = gzip.compress("\n".join([COLUMNS, *[f"{n}{LINE}" for n in range(50_000)]]).encode())
    (folder / "in.csv.gz").write_bytes(whole[:-1000])


def truncated_parquet(folder):
    pd.DataFrame({name: [1.0] * 1000 for name in FEATURES}).to_parquet(folder / "in.parquet")
    whole = (folder / "in.parquet").read_bytes()
    (folder / "in.parquet").write_bytes(whole[:-100])


def written(*lines, name="in.csv"):
    return lambda folder: (folder / name).write_text("\n".join([*lines, ""]))


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (
            written("coin,price", "x,1"),
            "in.csv",
            r"in\.csv, columns 24h_volume, mkt_cap, 1h: missing; the file has coin",
        ),
        (
            written(COLUMNS, name="in.xls"),
            "in.xls",
            r"in\.xls: has a header but no rows",
        ),
        (ragged, "in.csv", r"in\.csv: cannot be read as CSV: .*Row #900002: Expected 5 .*got 6"),
        (text_in_a_number, "in.csv", r"row 70002, column price: expected a number, got 'cheap'"),
        (truncated_gzip, "in.csv.gz", r"cannot be read as CSV: Truncated compressed stream"),
        (truncated_parquet, "in.parquet", r"in\.parquet: cannot be read as Parquet: "),
        (written(COLUMNS), "in.csv", "has a header but no rows"),
        (written(name="in.csv.gz"), "in.csv.gz", "cannot be read as CSV"),
        (lambda folder: (folder / "in.csv").write_bytes(b""), "in.csv", "cannot be read as CSV"),
        (lambda folder: None, "in.csv", "no such file or folder"),
        (lambda folder: (folder / "in").mkdir(), "in", "holds no file that ends in"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    champion, tmp_path, capsys, make, name, message
):
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    before = sorted(folder.iterdir())
    assert score(folder / name, folder / "out.csv") == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert len(error.splitlines()) == 1
    assert sorted(folder.iterdir()) == before


def test_an_output_folder_that_does_not_exist_is_said(champion, write_csv, tmp_path, capsys):
    source = write_csv(LINE, header=COLUMNS)
    assert score(source, tmp_path / "nowhere/out.csv") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    (tmp_path / "in").mkdir()
    source.rename(tmp_path / "in/a.csv")
    assert score(tmp_path / "in", tmp_path / "nowhere") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/nobody@champion", "models:/nobody@champion cannot be loaded.*Train one first"),
        ("models:/crypto-liquidity@best", "@best cannot be loaded.*Train one first"),
        ("models:/crypto-liquidity/7", "/7 cannot be loaded"),
        ("nonsense", "nonsense cannot be loaded"),
        (
            "models:/stranger/1",
            "stranger/1 cannot be used: its columns are not those of a liquidity",
        ),
    ],
)
def test_a_model_that_cannot_be_used_is_one_sentence(
    champion, write_csv, tmp_path, capsys, uri, message
):
    class Stranger(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input: list[str], params=None):
            return model_input

    mlflow.pyfunc.log_model(
        name="m", python_model=Stranger(), pip_requirements=[], registered_model_name="stranger"
    )
    mlflow.end_run()
    capsys.readouterr()
    assert score(write_csv(LINE, header=COLUMNS), tmp_path / "out.csv", "--model-uri", uri) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_stop_or_a_kill_leaves_no_half_file(champion, tmp_path, capsys, stop, code):
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("\n".join([COLUMNS, *[LINE] * 2_000_000, ""]))
    partial = tmp_path / ".out.csv.partial"
    command = [sys.executable, "-m", "liquidity.scoring", "--input", source, "--output", target]
    with subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(PROJECT)}, stderr=subprocess.PIPE, text=True
    ) as job:
        while not (partial.exists() and partial.stat().st_size > 0):
            assert job.poll() is None, job.stderr.read()
            time.sleep(0.01)
        job.send_signal(stop)
        assert job.wait(timeout=60) == code
        said = job.stderr.read()
    assert said == (f"liquidity.scoring: stopped. {AFTERWARDS}\n" if code == 130 else "")
    assert not target.exists()
    assert partial.exists() == (stop == signal.SIGKILL)
    source.write_text(f"{COLUMNS}\n{LINE}\n")
    assert score(source, target) == 0
    assert len(target.read_text().splitlines()) == 2
    assert not partial.exists()


def test_two_at_once_do_not_write_one_file(inner, write_csv, tmp_path):
    source, target = write_csv(LINE, header=COLUMNS), tmp_path / "out.csv"

    def another(position, scored):
        with pytest.raises(MarketDataError, match="another process is writing it"):
            score_file(inner, source, target)

    score_file(inner, source, target, on_block=another)
    assert len(target.read_text().splitlines()) == 2


def test_a_disk_that_is_full_is_one_sentence_and_no_file(champion, write_csv, tmp_path, capsys):
    source = write_csv(*[LINE] * 60_000, header=COLUMNS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, limits[1]))
    try:
        assert score(source, tmp_path / "out.csv") == 1
        assert score(source, tmp_path / "out.parquet") == 0  # fits
        assert score(source, tmp_path / "out.parquet", "--overwrite") == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().err == (
        f"liquidity.scoring: failed: OSError: [Errno 27] File too large. {AFTERWARDS}\n"
    )
    assert not list(tmp_path.glob("*out.csv*"))


def test_top_prints_and_draws_both_ends(champion, tmp_path, capsys):
    frame = pd.read_csv(SAMPLE).rename(columns={"24h_volume": " volume "})
    frame.to_csv(tmp_path / "in.csv", index=False)
    output = tmp_path / "out.csv"
    assert score(tmp_path / "in.csv", output, "--top", "3") == 0
    printed = capsys.readouterr().out
    assert "The 3 most and the 3 least liquid coins" in printed
    assert printed.count("Synthetic") == 6
    assert (tmp_path / "out_top.png").read_bytes().startswith(b"\x89PNG")


def test_top_needs_to_know_the_coins(champion, write_csv, tmp_path, capsys):
    path = write_csv(LINE, header=COLUMNS.replace("coin", "title"))
    assert score(path, tmp_path / "out.csv", "--top", "3") == 2
    assert "column coin: missing" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_a_scored_file_keeps_cells_that_look_like_formulas(inner, tmp_path):
    """A program reads it next; what a person uploads on the page comes back without them."""
    row = ",".join(map(str, GOOD.values()))
    text = f"coin,{','.join(GOOD)}\n=1+1,{row}\n@x,{row}\n-0.5,{row}\n"
    (tmp_path / "in.csv").write_text(text)
    score_file(inner, tmp_path / "in.csv", tmp_path / "out.csv")
    assert list(pd.read_csv(tmp_path / "out.csv", dtype=str)["coin"]) == ["=1+1", "@x", "-0.5"]
