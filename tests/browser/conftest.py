"""What the tests in a browser share beside the fixtures of all."""

import pytest


@pytest.fixture(autouse=True)
def _closed_pages(browser):
    """A test's pages end with it: each keeps processes of the browser, and some go on drawing."""
    others = list(browser.contexts)  # which several tests share
    yield
    for context in browser.contexts:
        if context not in others:
            context.close()
