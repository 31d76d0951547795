"""Names that others gave, and passwords, on terminals and in logs; what a kill leaves."""

import errno
import io
import logging
import os
import signal
import subprocess
import sys

import pytest
from support import PROJECT

from liquidity import scratch
from liquidity.command import run
from liquidity.errors import TrackingError
from liquidity.printable import printable
from liquidity.terminal import Terminal
from serve.worker import Plain

ESCAPES = "\x1b[31mred\x1b]0;title\x07\r\x9b2J\u202etxt"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, n\u00e4mlich 5 %\n\ttext", "plain, n\u00e4mlich 5 %\n\ttext"),
        (ESCAPES, r"\x1b[31mred\x1b]0;title\x07\r\x9b2J\u202etxt"),
        ("file\udcff.csv", r"file\udcff.csv"),
        ("at postgresql://me:s3cret@db:5432/x and", "at postgresql://me:***@db:5432/x and"),
        ("https://me:p@ss/w:rd@host", "https://me:***@host"),
        (
            "postgresql://db/x?user=a&password=s3cret&b=1",
            "postgresql://db/x?user=a&password=***&b=1",
        ),
        ("http://host:5000/x@champion", "http://host:5000/x@champion"),
        ("models:/crypto-liquidity@champion", "models:/crypto-liquidity@champion"),
    ],
)
def test_text_is_shown_without_control_characters_and_passwords(text, shown):
    assert printable(text) == shown


def test_a_terminal_shows_names_as_they_are():
    file = io.StringIO()
    Terminal(file=file, width=200).print("[/b] [red]\x1b[2J \x9b2J")
    assert file.getvalue() == "[/b] [red]\\x1b[2J \\x9b2J\n"


def test_a_jobs_last_sentence_is_printable(capsys):
    def job():
        raise TrackingError(f"https://me:s3cret@host {ESCAPES}.")

    assert run("job", job) == 2
    assert capsys.readouterr().err == f"job: https://me:***@host {printable(ESCAPES)}.\n"


def test_the_servers_log_is_printable():
    record = logging.LogRecord("serve", 40, "f", 1, "at %s", ("https://me:s3cret@h \x1b[2J",), None)
    assert Plain("%(message)s").format(record) == r"at https://me:***@h \x1b[2J"


def test_a_scoring_job_takes_folders_and_files_of_any_name(tmp_path):
    """Rich would raise at the closing tag that nothing has opened."""
    source, target = tmp_path / "a[/b]", tmp_path / "c[" / "d]\x1b[2J"
    for folder in (source, target):
        folder.mkdir(parents=True)
        (folder / "e\x1b[2J.csv").write_text("x\n1\n")
    command = [sys.executable, "-m", "liquidity.scoring", "--input", source, "--output", target]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert r"d]\x1b[2J already and stay as they are" in result.stdout


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, monkeypatch):
    code = "from liquidity.scratch import scratch_folder as f\n"
    code += "with f(), f() as folder: print(folder, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}, cwd=PROJECT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout.readline()
        monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
        with scratch.scratch_folder():
            assert len(list(tmp_path.iterdir())) == 3  # those of the living stay
        process.send_signal(signal.SIGKILL)
        process.wait()
    with scratch.scratch_folder() as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_done_without(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(scratch.fcntl, "flock", refuse)
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"{scratch.PREFIX}another").mkdir()  # perhaps of a process that lives
    with scratch.scratch_folder() as folder:
        assert len(list(tmp_path.iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == [f"{scratch.PREFIX}another"]
    assert not folder.exists()
