"""Invisible characters, and which of them names and texts may have."""

import re
import unicodedata

import emoji as emojis

# Unicode calls them Default_Ignorable_Code_Point: zero-width characters, variation selectors, and
# the characters that change the direction of the text after them.
IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
CONTROLS = "\x00-\x1f\x7f-\x9f\u2028\u2029\ufff9-\ufffb"
_INVISIBLE = re.compile(f"[{IGNORABLE}{CONTROLS}]")
_VISIBLE = re.compile(rf"[^{IGNORABLE}{CONTROLS}\s\u2800]")  # U+2800: a Braille cell without dots

VIRAMA = 9  # the combining class of the signs after which a joiner selects a ligature
ZERO_WIDTH_NON_JOINER, ZERO_WIDTH_JOINER, EMOJI_STYLE = "\u200c", "\u200d", "\ufe0f"


def has_visible(text: str) -> bool:
    """Return whether anything of this text can be seen."""
    return _VISIBLE.search(text) is not None


def clean_name(name: str) -> str:
    """Return a name without invisible characters, and with single spaces between its words.

    Invisible characters that emoji and the words of some scripts are spelt with remain.
    """
    name = " ".join(name.split())  # a line break between two words is a space
    visible = _INVISIBLE.sub(lambda found: found[0] if _is_spelling(found) else "", name)
    return " ".join(visible.split())


def _is_spelling(found: re.Match[str]) -> bool:
    """Return whether this invisible character changes how its two neighbours are drawn."""
    text, place = found.string, found.start()
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    if found[0] == EMOJI_STYLE:
        return emojis.is_emoji(before + EMOJI_STYLE) or after == "\N{COMBINING ENCLOSING KEYCAP}"
    if not before or not after or found[0] not in (ZERO_WIDTH_NON_JOINER, ZERO_WIDTH_JOINER):
        return False
    if unicodedata.combining(before) == VIRAMA:  # scripts of India
        return True
    if found[0] == ZERO_WIDTH_JOINER:  # in emoji of several people or things
        return unicodedata.category(before) in ("So", "Sk", "Mn") and emojis.is_emoji(after)
    return unicodedata.bidirectional(before) == unicodedata.bidirectional(after) == "AL"  # Arabic
