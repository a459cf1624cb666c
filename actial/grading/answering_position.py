"""Whether a letter stands where an answer stands: "so B", "I'd say B", "B fits best".

A letter that no phrase states may belong to anything: "Team B", "doubts about B", "B
lacks evidence". It answers where the words beside it, before and behind, are ones that
answers have.
"""

from __future__ import annotations

import re

from actial.grading.answer_phrases import CLAUSE_START
from actial.grading.mention import Mention

WINDOW = 160


def _any(words: str) -> str:
    """Return a pattern of any of the words; "_" stands for a space."""
    return "|".join(words.split()).replace("_", " ")


# The word before a letter, "option" and articles left out; other languages' as far as they go.
LEADS = _any("""
    is was be am are it it's that's this
    that i'd i say said saying think
    believe suppose guess choose chose
    choosing pick picked picking select
    selected selecting prefer favou?rs?
    favou?red supports? indicates?
    suggests? means? implies points_to
    mark answer answers answering
    conclude with only just but so hence
    thus therefore then and yes yeah sure
    okay ok well sorry correct right
    final leaves leaving left likely more
    most best rather doubt certain
    certainty forced now still maybe
    perhaps remains remaining assistant
    return output result prediction ans
    closer_inspection not nor neither
    either both all since
    (?<!same_)(?<!such_)(?<!much_)as
    because if while although though when
    than where how [a-z]{2,20}ly
    sounds_like gets? gives? yields?
    match(?:es)? fits? on have has makes
    make to towards? inst boxed framebox
    bbox fbox ist lautet w\u00e4re
    w\u00e4hle nehme f\u00fcr w\u00fcrde
    also sondern die der das aber antwort
    het antwoord kies dus est c'est
    choisis donc mais la le r\u00e9ponse
    l'option lettre es elijo sino escojo
    respuesta entonces lo u?na? \u00e9 a
    o escolho resposta letra lettera
    \u00e8 scelgo risposta opci\u00f3n
    op\u00e7\u00e3o opzione \u00e4r
    svaret cevap do\u011fru ne
""")
_FILLERS = r"(?:(?:the|an?|option|choice|letter|answer|alternative|number)\s)*"
LEAD = re.compile(
    rf"(?:\A|[^\w\s'][\s\"'`*(\[]{{0,4}}|\b(?:{LEADS})\s)"
    rf"{_FILLERS}[\"'`*(\[{{$\\]{{0,4}}\Z",
    re.IGNORECASE,
)
SPACED_WORD = re.compile(r"[\"'`*$]{0,3} (?=[a-z])")

# The words behind a letter that do not speak against it: "B clearly fits", "B must be the one"
_ADVERBS = _any("best clearly only also really most accurately correctly definitely")
_VERBS = _any("""
    fits? match(?:es)? describes?
    explains? holds works agrees
    satisfies corresponds remains shows
    captures reflects represents aligns
    beats wins stands
    makes_(?:the_most_)?sense does says
    states
    (?:appears|seems|looks)_(?:to|most|more|best|consistent)
""")
_MODALS = _any("is was has_to must should will would might may could")
_PREDICATES = r"the\b|my\b|our\b|right\b|it\b|so\b|in\b|one\b|not\b|close\b|" + _any("""
    correct consistent best true better
    more most likely supported plausible
    accurate valid also
""")
_FOLLOWERS = _any("""
    most more very quite best because
    since as for due given with rather
    instead over not it is_it i to in on
    at of from the if though although but
    and or nor so then where while which
    that who based out definitely likely
    probably certainly obviously clearly
    only too alone here per by after wins
    unless versus vs both correct right
    final oder und ou et o y e ist est es
    \u00e9 \u00e8 w\u00e4hlen
""")
TAIL = re.compile(
    rf"(?:(?:{_ADVERBS})\s)*(?:(?:{_VERBS})\b"
    rf"|(?:{_MODALS})\s(?:be\s)?(?:\w{{1,12}}ly\s)?(?:{_PREDICATES})"
    rf"|(?:is|was)(?=[.,;!?\n]|\Z)|(?:{_FOLLOWERS})\b)",
    re.IGNORECASE,
)

WORD = re.compile(r"[A-Za-z]{2}")
# The same in Chinese and Japanese, which write no space: "B\u66f4\u5408\u7406", "B\u3067\u3059"
CJK = re.compile(r"[\])}\"'`*]{0,3}\s?(?=[\u3040-\u30ff\u4e00-\u9fff])")
CJK_TAIL = re.compile(
    r"(?:选项|選項|選択肢|项|項|这个|這個)*(?:看起来|看起來|似乎|显然|顯然|明显|应该"
    r"|應該|一定|肯定|才|就|也|最|更|较|比较)*"
    r"(?:是|为|為|对(?!称)|對|正确|正確|符合|合理|合适|准确|贴切|接近|好|比|可信"
    r"|没错|沒錯|因为|因為|因|由于|理由|所以|而|和|与|或|者"
    r"|を|です|だ|である|が正|が答|が最|が適|と|に|で|の|は正|も|、|選び|选|\Z)"
)


def stands_as_answer(text: str, mention: Mention) -> bool:
    """Return whether the words beside a letter let it be the answer."""
    if WORD.match(text, mention.start):
        return True  # "right (B)" starts with the option's text
    window = text[max(0, mention.start - WINDOW) : mention.start]
    start = max((match.end() for match in CLAUSE_START.finditer(window)), default=0)
    lead = window[start:].lstrip()
    if lead.isascii() and LEAD.search(lead) is None:
        return False
    if mention.end > mention.start + 1:
        return True  # with its option's text
    if text.startswith("+", mention.end):
        return False
    behind = CJK.match(text, mention.end)
    if behind is not None:
        return CJK_TAIL.match(text, behind.end()) is not None
    word = SPACED_WORD.match(text, mention.end)
    return word is None or TAIL.match(text, word.end()) is not None


# What may stand before an option's text: no other word of the same name, as in "school bus"
_BEFORE_TEXT = _any("""
    the an? this that these those is are
    was were be to of as it it's only
    just like say says see and or so than
    towards? option answer colou?r moves?
    moving turns? turning going goes go
    shifts? shifting rotat(?:e|es|ing)
    fac(?:e|es|ing) not no then one its i
    for pick choose select by with in on
    at from about exactly approximately
    roughly [a-z]{2,12}ed [a-z]{2,16}ly
    appears looks seems remains stays
    both all my your his her their which
    any some either neither nor but
    versus vs keeps? holds? has have
    touch(?:es|ing) via
""")
TEXT_LEAD = re.compile(rf"(?:\A|[^\w\s-]\s?|\n|\b(?:{_BEFORE_TEXT})\s)\Z", re.IGNORECASE)
# And behind it: "the bus is", "the bus behind it", but not "the bus stop"
_BEHIND_TEXT = _any("""
    is isn't was are were has have had
    can could would will should must
    might may does did appears? seems?
    looks? stands? sits? lies hangs
    remains? stays faces facing moves?
    moved comes being fits matches shows
    which that who whose as and or nor
    but in on at to from of for with
    without by near next behind beside
    under above below between over into
    onto off toward towards against along
    around across after before because
    since so then not rather than instead
    first only too also here there away
    out up down left right due given if
    when while where though although i we
    you it they he she the an? this its
    my all both area room colou?red
    colou?r object one option answer
    alone itself again please most more
    least less closer nearer farther
    further taller larger bigger smaller
    shorter higher lower wider
    [a-z]{3,12}est [a-z]{2,20}ly visible
    shown seen located placed standing
    sitting lying positioned situated
    versus vs wins oder und ou et o y
""")
TEXT_TAIL = re.compile(rf"(?:{_BEHIND_TEXT})\b", re.IGNORECASE)


def bare_before(text: str, mention: Mention) -> bool:
    """Return whether no word before an option's text makes another name of it."""
    return TEXT_LEAD.search(text[max(0, mention.start - 24) : mention.start]) is not None


def bare_behind(text: str, mention: Mention) -> bool:
    """Return whether no word behind an option's text makes another name of it."""
    if re.match(r"'s\s[a-z]", text[mention.end :]):
        rest = mention.end + 3
    else:
        word = SPACED_WORD.match(text, mention.end)
        if word is None:
            return True
        rest = word.end()
    return TEXT_TAIL.match(text, rest) is not None
