"""What the tests in a browser share beside the fixtures of all."""

import pytest


@pytest.fixture(scope="module")
def kept(browser):
    """The pages that `kept_page` has opened, with JavaScript (True) and without."""
    return {}


@pytest.fixture
def kept_page(browser, kept):
    """`kept_page(**options)` is an empty page of a context with these options: the same page each
    time, as it takes Chromium half a second of processor time to open another.
    """

    def open_page(*, java_script_enabled=True, viewport=None, **media):
        if java_script_enabled not in kept:
            context = browser.new_context(java_script_enabled=java_script_enabled)
            kept[java_script_enabled] = context.new_page()
        page = kept[java_script_enabled]
        page.unroute_all()
        page.goto("about:blank")
        page.set_viewport_size(viewport or {"width": 1280, "height": 720})
        page.emulate_media(**{"color_scheme": "light", "forced_colors": "none"} | media)
        return page

    return open_page


@pytest.fixture(autouse=True)
def _closed_pages(browser, kept):
    """A test's pages end with it: each keeps processes of the browser, and some go on drawing."""
    others = list(browser.contexts)  # which several tests share
    yield
    for page in kept.values():
        page.unroute_all()
        page.goto("about:blank")
    others += [page.context for page in kept.values()]
    for context in browser.contexts:
        if context not in others:
            context.close()
