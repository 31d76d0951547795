"""Where a scored file goes, by whose rights, and what else it leaves alone."""

import os
import stat

import pytest
from support import GOOD

from liquidity.data import content
from liquidity.errors import MarketDataError
from liquidity.output import replaced
from liquidity.scoring.files import score_file
from liquidity.scoring.job import plan

COLUMNS = ",".join(GOOD)
LINE = ",".join(map(str, GOOD.values()))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("\n".join([COLUMNS, *[LINE] * 10, ""]))
    return path


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("plant", ["symlink_to", "hardlink_to"])
def test_a_planted_link_in_the_place_of_the_unfinished_file_is_refused(
    inner, source, tmp_path, plant
):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    getattr(tmp_path / ".out.csv.partial", plant)(victim)
    with pytest.raises(MarketDataError, match=r"\.out\.csv\.partial: expected no such file.* link"):
        score_file(inner, source, tmp_path / "out.csv")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_nothing_but_a_file_is_written_to(inner, source, tmp_path, make):
    make(tmp_path / ".out.csv.partial")
    with pytest.raises(MarketDataError, match="expected no such file"):
        score_file(inner, source, tmp_path / "out.csv")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_unfinished_file_is_refused(inner, source, tmp_path):
    """Who holds it open could change the output afterwards."""
    partial = tmp_path / ".out.csv.partial"
    partial.write_text("")
    os.chown(partial, 65534, 65534)
    with pytest.raises(MarketDataError, match="another user's"):
        score_file(inner, source, tmp_path / "out.csv")


@pytest.mark.parametrize("rights", [0o600, 0o640, 0o664])
def test_a_replaced_output_keeps_its_mode_from_the_first_byte_on(inner, source, tmp_path, rights):
    target = tmp_path / "out.csv"
    target.write_text("old")
    target.chmod(rights)
    seen = []
    score_file(
        inner, source, target, overwrite=True,
        on_block=lambda *_: seen.append(mode(tmp_path / ".out.csv.partial")),
    )  # fmt: skip
    assert {*seen, mode(target)} == {rights}
    assert target.read_text() != "old"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_replaced_output_keeps_its_owner(inner, source, tmp_path):
    target = tmp_path / "out.csv"
    target.write_text("old")
    os.chown(target, 65534, 65533)
    score_file(inner, source, target, overwrite=True)
    assert (target.stat().st_uid, target.stat().st_gid) == (65534, 65533)


@pytest.mark.parametrize("there", [True, False])
def test_an_output_that_is_a_link_is_written_through(inner, source, tmp_path, there):
    (tmp_path / "elsewhere").mkdir()
    real, link = tmp_path / "elsewhere/real.csv", tmp_path / "out.csv"
    if there:
        real.write_text("old")
    link.symlink_to(real)
    score_file(inner, source, link, overwrite=there)
    assert link.is_symlink()
    assert real.read_text().startswith(COLUMNS)
    assert [path.name for path in real.parent.iterdir()] == ["real.csv"]


def test_a_link_to_nowhere_or_to_no_file_is_said(source, tmp_path):
    (tmp_path / "out.csv").symlink_to(tmp_path / "nowhere/real.csv")
    with pytest.raises(MarketDataError, match="nowhere: no such folder"):
        plan(source, tmp_path / "out.csv", overwrite=False)
    (tmp_path / "null.csv").symlink_to("/dev/null")
    with (
        pytest.raises(MarketDataError, match="/dev/null: is no file"),
        replaced(tmp_path / "null.csv", overwrite=True),
    ):
        pass
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def append(path):
    with path.open("a") as file:
        file.write(f"{LINE}\n" * 1000)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def rewrite(path):
    path.write_text(path.read_text().replace("1.0", "2.0"))


def exchange(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def remove(path):
    path.unlink()


@pytest.mark.parametrize("change", [append, cut, rewrite, exchange, remove])
def test_an_input_that_changes_while_it_is_read_is_no_output(inner, tmp_path, monkeypatch, change):
    monkeypatch.setattr(content, "BLOCK_BYTES", 2**16)
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("\n".join([COLUMNS, *[LINE] * 100_000, ""]))
    target.write_text("old")
    changes = iter([change])

    def on_block(*_):
        for once in changes:
            once(source)

    with pytest.raises(MarketDataError, match=r"in\.csv: changed while it was read.*run the comm"):
        score_file(inner, source, target, overwrite=True, on_block=on_block)
    assert target.read_text() == "old"
    assert not (tmp_path / ".out.csv.partial").exists()
