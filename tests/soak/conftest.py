"""What all slow tests need: to be heard."""

import os
import sys
from contextlib import nullcontext, redirect_stdout

import pytest


@pytest.fixture(scope="session", autouse=True)
def heard():
    """Let what a test prints be seen with `-s`: the stdout of xdist's processes goes nowhere."""
    of_xdist = "PYTEST_XDIST_WORKER" in os.environ
    with redirect_stdout(sys.stderr) if of_xdist else nullcontext():
        yield
