"""What all slow tests need: to be heard."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def heard():
    """Let what a test prints be seen with `-s`: the stdout of xdist's processes goes nowhere."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.dup2(2, 1)
