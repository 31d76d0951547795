"""The same market, in every form that people have it in, is the same at every door."""

import datetime
import io
import json
import random

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from files import FORMS, MARKET, OWN, lines, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from liquidity import eda
from liquidity.data import content
from liquidity.data.cells import number, parse_numbers
from liquidity.data.market import REQUIRED, read_market
from liquidity.errors import MarketDataError
from liquidity.scoring import job
from liquidity.scoring.files import score_file

NUMBERS = ["24h_volume", "mkt_cap", "1h", "price"]
EXPECTED = pd.DataFrame(MARKET, columns=OWN).astype({"date": "datetime64[us]"})


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture(scope="module")
def expected_scores(inner):
    X = EXPECTED[NUMBERS].to_numpy(float)
    return inner.answer(X)["liquidity"]


@pytest.mark.parametrize("name", FORMS)
def test_training_and_eda_read_it(tmp_path, name):
    path = write(tmp_path, name)
    for source, required in ((path, REQUIRED), (tmp_path, eda.REQUIRED)):
        frame, cleaning = read_market(source, required=required)
        pd.testing.assert_frame_equal(frame[OWN], EXPECTED, check_exact=False, rtol=1e-15)
        assert (cleaning.dropped, cleaning.warnings) == ({}, ())


@pytest.mark.parametrize("name", FORMS)
def test_scoring_reads_it(inner, expected_scores, tmp_path, name):
    score_file(inner, write(tmp_path, name), tmp_path / "scored.csv")
    scored = pd.read_csv(tmp_path / "scored.csv")
    assert scored["error"].isna().all()
    np.testing.assert_allclose(scored["liquidity"], expected_scores, rtol=1e-12)


@pytest.mark.parametrize("name", FORMS)
def test_the_server_reads_it(client, expected_scores, tmp_path, name):
    body = write(tmp_path, name).read_bytes()
    for sent in (
        {"data": body, "content_type": "text/csv"},
        {"data": {"file": (io.BytesIO(body), name)}},
    ):
        response = client.post("/batch", **sent)
        assert response.status_code == 200, response.get_data(as_text=True)
        scored = pd.read_csv(io.BytesIO(response.data))
        np.testing.assert_allclose(scored["liquidity"], expected_scores, rtol=1e-12)


def test_what_was_understood_is_said_and_kept(tmp_path):
    _, cleaning = read_market(write(tmp_path, "printed.csv"))
    ((note,),) = cleaning.to_dict()["notes"].values()
    assert "'Volume(24h)' is 24h_volume" in note
    assert "'1h %' is 1h, in percent" in note


def test_the_scoring_command_says_it_and_names_outputs(champion, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for name in ("CAPITALS.CSV", "archive.csv.zip", "book.xlsx", "packed.csv.gz"):
        write(tmp_path / "in", name)
    write(tmp_path / "in", "commas.csv").rename(tmp_path / "in/.hidden.csv")
    assert job.main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 0
    assert "'Volume(24h)' is 24h_volume" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "CAPITALS.csv", "archive.csv", "book.csv", "packed.csv.gz"
    ]  # fmt: skip


def test_two_inputs_with_one_output_are_an_error(champion, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for name in ("own.json", "own.jsonl"):
        write(tmp_path / "in", name)
    assert job.main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 2
    assert "would both be" in capsys.readouterr().err


def test_a_coins_own_export_takes_the_coin_of_its_files_name(tmp_path):
    (tmp_path / "avalanche-2-usd-max.csv").write_text(
        "snapped_at,price,market_cap,total_volume\n2026-01-02 00:00:00 UTC,1.5,20000000,1000000\n"
    )
    frame, _ = read_market(tmp_path, required=("24h_volume", "mkt_cap", "price"))
    assert frame[["coin", "price", "mkt_cap"]].values.tolist() == [["avalanche-2", 1.5, 2e7]]


def test_a_listings_own_time_is_its_rows_date(tmp_path):
    coin = {"name": "Alpha", "price": 1, "percent_change_1h": 1, "volume_24h": 5, "market_cap": 9}
    listing = {"status": {"timestamp": "2026-01-02T18:00:00Z"}, "data": {"1": coin}}
    (tmp_path / "latest.json").write_text(json.dumps(listing))
    assert read_market(tmp_path)[0]["date"].tolist() == [pd.Timestamp("2026-01-02")]


@pytest.mark.parametrize("header", ["Price,price", "24h_volume,Volume (24h)", "1h,% 1h"])
def test_two_headers_of_one_meaning_are_an_error(tmp_path, header):
    own = ",".join(name for name in OWN if not header.startswith(f"{name},"))
    (tmp_path / "a.csv").write_text(f"{header},{own}\n")
    with pytest.raises(MarketDataError, match=r"more than once, as '.*' and '.*': keep"):
        read_market(tmp_path)


@pytest.mark.parametrize(
    ("header", "name"),
    [("Prise", "price"), ("Price (EUR)", "price"), ("mrkt cap", "mkt_cap"), ("dte", "date")],
)
def test_a_near_miss_is_a_question(tmp_path, header, name):
    rest = [each for each in OWN if each != name]
    (tmp_path / "a.csv").write_text(",".join([header, *rest]) + "\n")
    with pytest.raises(MarketDataError) as caught:
        read_market(tmp_path)
    assert f"did you mean {header!r}? Name it {name}" in str(caught.value)


def test_a_change_in_dollars_is_no_fraction(tmp_path):
    (tmp_path / "a.csv").write_text(lines(header=[*OWN[:3], "1h change (USD)", *OWN[4:]]))
    with pytest.raises(MarketDataError, match="column 1h: missing"):
        read_market(tmp_path)


def test_commas_and_dates_are_decided_by_the_first_block_that_can(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "BLOCK_BYTES", 4096)
    rows = [(f"c{n}", f"{1 + n % 12}/{1 + n % 12}/2026", 1, 0, 5, 9) for n in range(1000)]
    rows += [("last", "1/31/2026", "1,5", "0,01", 5, 9)]
    (tmp_path / "a.csv").write_text(lines(rows, separator=";"))
    frame, cleaning = read_market(tmp_path)
    assert frame.iloc[-1][["date", "price"]].tolist() == [pd.Timestamp("2026-01-31"), 1.5]
    assert [*cleaning.notes.values()] == [
        ["commas are decimal ones", "dates have the month first"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        (["1/2/2026", "3/4/2026"], "row 2, column date: expected a date .* got '1/2/2026' (1 mo"),
        (["31/1/2026", "1/31/2026"], "some dates have the day first and some the month"),
        (["0001-01-01T00:00:00Z"], "expected a date from 2009 to 2099 .* got '0001-01-01T"),
    ],
)
def test_dates_that_may_be_two_are_an_error(tmp_path, dates, message):
    (tmp_path / "a.csv").write_text(lines([("a", date, 1, 0, 5, 9) for date in dates]))
    with pytest.raises(MarketDataError, match=message.replace("(", r"\(")):
        read_market(tmp_path)


UNKNOWN = [None, pd.NaT, pd.NA, np.nan]


def refusal(read):
    """The sentence that a file is refused with, "" where it is read."""
    try:
        read()
    except MarketDataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("column", OWN)
@pytest.mark.parametrize("value", [*UNKNOWN, [1, 2], True, datetime.date(2026, 1, 2)], ids=repr)
def test_no_cell_of_a_parquet_file_is_a_traceback(inner, tmp_path, column, value):
    frame = pd.DataFrame(MARKET, columns=OWN)
    frame[column] = [value] * len(frame)
    frame.to_parquet(tmp_path / "in.parquet")
    said = refusal(lambda: read_market(tmp_path))
    if any(value is each for each in UNKNOWN):
        expected = ("got nothing (2 more", f"3 unknown {column}", "coin: expected names as text")
        assert any(part in said for part in expected)
    elif column == "coin":
        assert "column coin: expected names as text, got" in said
    elif column == "date" and isinstance(value, datetime.date):
        assert not said
    else:
        assert f"row 2, column {column}: expected" in said
        assert any(f"got {shown} (2 more" in said for shown in ("[1, 2]", "True", "2026-01-02"))
    said = refusal(lambda: score_file(inner, tmp_path / "in.parquet", tmp_path / "out.parquet"))
    assert not said or f"row 2, column {column}: expected a number, got" in said


def cell():
    return st.one_of(
        st.text(max_size=8),
        st.floats().map(str),
        st.integers().map(str),
        st.dates().map(str),
        st.sampled_from(
            ["", "NaN", "1,5", "1.234,5", "$1,000", "1e400", '"', "\0", "5%", "3/4/2026"]
        ),
    )


HEADERS = st.sampled_from(
    [*OWN, *OWN, "Price", "Name", "volume", "1h %", "id", "x", "", "Date", "% 1h", "liquidity"]
)


MALFORMED = {
    "header": st.lists(HEADERS, max_size=9),
    "rows": st.lists(st.lists(cell(), max_size=9), max_size=4),
    "separator": st.sampled_from(",;\t|"),
    "encoding": st.sampled_from(["utf-8", "utf-16", "cp1252", "latin-1"]),
    "seed": st.integers(0, 2**20),
    "damage": st.integers(0, 3),
    "name": st.sampled_from(["a.csv", "a.json", "a.parquet", "a.csv.gz", "a.zip", "a.xlsx"]),
}
SOME = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@SOME
@given(**MALFORMED)
def test_no_malformed_file_is_a_traceback(inner, tmp_path_factory, **drawn):
    refused_or_read(inner, tmp_path_factory.getbasetemp(), **drawn)


@pytest.mark.soak
@settings(SOME, max_examples=500)
@given(**MALFORMED)
def test_none_of_500_malformed_files_is_a_traceback(inner, tmp_path_factory, **drawn):
    refused_or_read(inner, tmp_path_factory.getbasetemp(), **drawn)


def refused_or_read(inner, folder, header, rows, separator, encoding, seed, damage, name):
    """A file that is nearly right, of any kind, is read or refused in a sentence."""
    chance = random.Random(seed)
    if seed % 4 == 0:
        body = bytes(_bytes(chance.choice(list(FORMS.values()))))
    else:
        body = lines(rows, header, separator).encode(encoding, "replace")
    body = bytearray(body)
    for _ in range(damage if body else 0):
        at = chance.randrange(len(body))
        chance.choice([_flip, _cut, _double])(body, at, chance)
        if not body:
            break
    path = folder / name
    path.write_bytes(body)
    for read in (
        lambda: read_market(path),
        lambda: score_file(inner, path, path.with_suffix(".scored.csv"), overwrite=True),
    ):
        assert str(path) in (refusal(read) or str(path))


def _bytes(content):
    return content.encode() if isinstance(content, str) else content


def _flip(body, at, chance):
    body[at] = chance.randrange(256)


def _cut(body, at, chance):
    del body[at : at + chance.randrange(1, 50)]


def _double(body, at, chance):
    body[at:at] = body[at : at + chance.randrange(1, 50)]


def test_quoted_line_breaks_survive_beyond_the_first_block(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "BLOCK_BYTES", 4096)
    rows = [(f'"Coin\nnumber {n}"', "2026-01-02", 1.5, 0.01, n, 9) for n in range(1000)]
    (tmp_path / "a.csv").write_text(lines(rows))
    frame, _ = read_market(tmp_path)
    assert frame["coin"].iloc[-1] == "Coin\nnumber 999"
    assert len(frame) == 1000


def test_coins_named_like_marks_for_unknown_are_ranked(champion, tmp_path, capsys):
    names = ("Null", "NA", "None", "007", "b")
    rows = [(name, "2026-01-02", 1, 0.01, 1000 * n, 9000) for n, name in enumerate(names, 1)]
    (tmp_path / "in.csv").write_text(lines(rows))
    arguments = ["--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv")]
    assert job.main([*arguments, "--top", "3"]) == 0
    printed = capsys.readouterr().out
    assert all(f" {name} " in printed for name in names)


def test_zeros_that_a_small_digit_counts_are_not_read_as_that_digit():
    with pytest.raises(ValueError, match="expected a number, got"):
        number("$0.0\u208512")
    _, wrong = parse_numbers(pa.chunked_array([["$0.0\u208512", "1"]]))
    assert wrong.tolist() == [True, False]
