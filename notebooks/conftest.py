"""How the notebooks' outputs are compared when pytest runs them: strictly, but not stderr.

nbval compares every stored output with the new one, except pictures and widget views, whose bytes
differ from machine to machine. stderr carries progress bars and their timings: it is left out as
well, and so is HTML: a live figure's <img> holds the same bytes, and whatever else writes HTML
writes the same as plain text, which is compared. Errors still fail, and so does a missing or
changed line on stdout. Digits that wobble are rounded where they are printed
(`flowrob.lessons.check`), not here.
"""

import pytest
from nbval.plugin import IPyNbFile

collect_ignore_glob = ["*.py"]  # the twins are no modules: nothing here is imported for doctests


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    collectors = yield
    for collector in collectors:
        if isinstance(collector, IPyNbFile):
            collector.skip_compare += ("stderr", "text/html")
    return collectors
