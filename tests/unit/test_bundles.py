"""The modules of a page as one script."""

import re

import pytest

from chatlab.web.bundles import BUNDLES, STATIC, bundle
from chatlab.web.replay_page import replay_page

DEFINED = re.compile(r'^modules\["([^"]+)"\] = ', re.MULTILINE)


@pytest.mark.parametrize(("first", "loaded"), [*BUNDLES.items(), ("projector/replay.js", None)])
def test_each_module_comes_once_and_after_those_that_it_imports(
    first: str, loaded: str | None
) -> None:
    """Nothing is looked up before it is there, and no module is in two bundles of a page."""
    there = DEFINED.findall(bundle(loaded)) if loaded else []
    script = bundle(first, loaded)
    for part in re.split(r'^(?=modules\[")', script, flags=re.MULTILINE)[1:]:
        [module] = DEFINED.findall(part)
        assert module not in there
        wanted = re.findall(r'^const .* = modules\["([^"]+)"\];$', part, re.MULTILINE)
        assert set(wanted) <= set(there), module
        there.append(module)
    assert there[-1] == first
    left = re.findall(
        r"^(?:import|export) (?!\* as vendor|\{ modules \}|const)", script, re.MULTILINE
    )
    assert left == []


def test_the_bundles_have_all_modules_of_the_pages() -> None:
    """A module that no bundle has would be a request of its own."""
    scripts = "".join(bundle(first, loaded) for first, loaded in BUNDLES.items())
    files = [*STATIC.glob("chat/*.js"), *STATIC.glob("projector/*.js")]
    modules = {file.relative_to(STATIC).as_posix() for file in files}
    assert modules - set(DEFINED.findall(scripts)) == {"projector/replay.js"}


def test_a_recorded_page_has_one_script_that_nothing_ends_early() -> None:
    """Text in a recording cannot end an element of the page."""
    page = replay_page({"version": 1, "inputs": ["</script><script>alert(1)</script>"]})
    assert page.count("<script") == page.count("</script>") == 2
