"""Characters that no one can see: in names, in texts, and in the spelling of emoji."""

import unicodedata

import pytest
from emoji import EMOJI_DATA, STATUS

from chatlab.domain.emoji_spelling import one_spelling
from chatlab.domain.visible_text import clean_name, has_visible

# Unicode calls them format characters too, but they are drawn: signs around numbers and verses.
DRAWN = {0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
DRAWN |= {*range(0x600, 0x606), *range(0x13430, 0x13440)}


def test_no_format_control_or_space_character_is_visible() -> None:
    """All of these categories of Unicode are known to be invisible."""
    everything = map(chr, range(0x110000))
    invisible = {"Cf", "Cc", "Zs", "Zl", "Zp"}
    seen = {
        ord(one) for one in everything if unicodedata.category(one) in invisible if has_visible(one)
    }
    assert seen <= DRAWN


@pytest.mark.parametrize(
    "text", ["\u200b", "\u2060\ufeff\u00ad", "\u3164 \u115f", "\u2800", "\ufe0f"]
)
def test_a_text_of_invisible_characters_has_nothing_visible(text: str) -> None:
    """One character that can be seen is enough."""
    assert not has_visible(text)
    assert has_visible(f"{text}x{text}")


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("Ann", "Ann"),
        ("\u202eAnn\u2066", "Ann"),
        ("A\u200dn\u200bn\ufeff", "Ann"),
        ("Ann\x07\x00", "Ann"),
        ("Ann\nB.\u2028C.", "Ann B. C."),
        ("Ann \u200b B.", "Ann B."),
        ("Ann\ufe0f", "Ann"),
        ("\u200c\u2060", ""),
        ("\u0917\u094d\u200d\u0927", "\u0917\u094d\u200d\u0927"),  # Devanagari: a ligature
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),  # Persian
        ("\u2764\ufe0f 1\ufe0f\u20e3", "\u2764\ufe0f 1\ufe0f\u20e3"),
        (
            "\U0001f469\U0001f3fd\u200d\U0001f52c",
            "\U0001f469\U0001f3fd\u200d\U0001f52c",
        ),  # a scientist
    ],
)
def test_a_name_has_only_the_invisible_characters_that_it_is_spelt_with(
    name: str, cleaned: str
) -> None:
    """Others are removed. Cleaning a clean name changes nothing."""
    assert clean_name(name) == cleaned
    assert clean_name(cleaned) == cleaned


def test_each_emoji_has_one_spelling() -> None:
    """All spellings that Unicode lists lead to the recommended one, and so does a text selector."""
    recommended = {STATUS["fully_qualified"], STATUS["component"]}
    for emoji in EMOJI_DATA:
        assert EMOJI_DATA[one_spelling(emoji)]["status"] in recommended, emoji
    assert {one_spelling(heart) for heart in ("\u2764", "\u2764\ufe0f", "\u2764\ufe0e")} == {
        "\u2764\ufe0f"
    }
    assert one_spelling("\U0001f44d\ufe0f") == "\U0001f44d"


@pytest.mark.parametrize("text", ["", "x\ufe0f", "$set.text", "\u2764\ufe0fx"])
def test_a_text_that_is_no_emoji_keeps_its_spelling(text: str) -> None:
    """It is rejected later, or was stored by an older version."""
    assert one_spelling(text) == text
