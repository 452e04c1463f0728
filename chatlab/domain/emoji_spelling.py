"""An emoji may be written with or without variation selectors. Reactions have one spelling."""

from functools import cache

from emoji import EMOJI_DATA, STATUS, is_emoji

SELECTORS = "\ufe0e\ufe0f"  # text style and emoji style
_WITHOUT_SELECTORS = dict.fromkeys(map(ord, SELECTORS))


def without_selectors(text: str) -> str:
    return text.translate(_WITHOUT_SELECTORS)


def one_spelling(text: str) -> str:
    """Return the spelling that Unicode recommends for an emoji. Other texts stay as they are."""
    bare = without_selectors(text)
    recommended = _recommended().get(bare, bare)
    return recommended if is_emoji(recommended) else text


@cache
def _recommended() -> dict[str, str]:
    """Return the recommended spellings that have selectors, by the spelling without."""
    return {
        without_selectors(emoji): emoji
        for emoji, about in EMOJI_DATA.items()
        if about["status"] == STATUS["fully_qualified"] and without_selectors(emoji) != emoji
    }
