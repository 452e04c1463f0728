"""The README agrees with the code."""

import re
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from chatlab.cli import app
from chatlab.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_row(name: str) -> None:
    """The row shows the default and the description of the setting."""
    field = Settings.model_fields[name]
    row = re.search(rf"^\| `{PREFIX}{name.upper()}` \| (.*?) \| (.*) \|$", README, re.MULTILINE)
    assert row, f"{name} has no row"
    assert row[2] == field.description
    if name != "data_dir":  # it depends on the user
        assert row[1].strip("`") == ("" if field.default in (None, "") else str(field.default))


def test_everything_named_in_the_readme_exists() -> None:
    """Every setting, make target, command and linked file exists."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    assert {name.lower() for name in re.findall(rf"{PREFIX}([A-Z_]+)", README)} <= set(
        Settings.model_fields
    )
    assert all(
        re.search(rf"^{target}:", makefile, re.MULTILINE)
        for target in re.findall(r"make (\w+)", README)
        if target != "it"
    )
    assert set(re.findall(r"`chatlab (\w+)", README)) == set(group.commands)
    assert all((ROOT / path).exists() for path in re.findall(r"\]\(([^)#:]+)\)", README))
