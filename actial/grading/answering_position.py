"""Whether a letter stands where an answer stands: "so B", "I'd say B", "B fits best".

A letter that no phrase states may belong to anything: "Team B", "doubts about B", "B lacks
evidence". It answers where the words beside it, before and behind, are ones that answers have.
"""

from __future__ import annotations

import re

from actial.grading.answer_phrases import CLAUSE_START
from actial.grading.mention import Mention

WINDOW = 160
# The word before a letter, "option" and articles left out; other languages' as far as they go.
_LEADS = (
    r"is|was|be|am|are|it|it's|that's|this|that|i'd|i"
    r"|say|said|saying|think|believe|suppose|guess"
    r"|choose|chose|choosing|pick|picked|picking|select"
    r"|selected|selecting|prefer|favou?rs?"
    r"|favou?red|supports?|indicates?|suggests?|means?"
    r"|implies|points to|mark|answer|answers"
    r"|answering|conclude|with|only|just|but|so|hence"
    r"|thus|therefore|then|and|yes|yeah|sure|okay|ok"
    r"|well|sorry|correct|right|final|leaves|leaving"
    r"|left|likely|more|most|best|rather"
    r"|doubt|certain|certainty|forced|now|still|maybe"
    r"|perhaps|remains"
    r"|remaining|assistant|return|output|result|prediction"
    r"|ans|closer inspection|not|nor|neither"
    r"|either|both|all|since|(?<!same )(?<!such )(?<!much )as"
    r"|because|if|while|although|though|when|than"
    r"|where|how|[a-z]{2,20}ly"
    r"|sounds like|gets?|gives?|yields?|match(?:es)?|fits?|on"
    r"|have|has|makes|make|to|towards?|inst|boxed"
    r"|framebox|bbox|fbox"
    # German, Dutch, French, Spanish, Portuguese, Italian, Swedish, Turkish
    r"|ist|lautet|w\u00e4re|wähle|nehme|f\u00fcr|w\u00fcrde"
    r"|also|sondern|die|der|das|aber|antwort"
    r"|het|antwoord|kies|dus|est|c'est|choisis|donc|mais"
    r"|la|le|r\u00e9ponse|l'option|es|elijo|sino"
    r"|escojo|respuesta|entonces|lo|u?na?|\u00e9|a|o"
    r"|escolho|resposta|letra|lettre|lettera|\u00e8"
    r"|scelgo|risposta|opci\u00f3n|op\u00e7\u00e3o"
    r"|opzione|\u00e4r|svaret|cevap|do\u011fru|ne"
)
_FILLERS = r"(?:(?:the|an?|option|choice|letter|answer|alternative|number)\s)*"
LEAD = re.compile(
    rf"(?:\A|[^\w\s'][\s\"'`*(\[]{{0,4}}"
    rf"|\b(?:{_LEADS})\s){_FILLERS}[\"'`*(\[{{$\\]{{0,4}}\Z",
    re.IGNORECASE,
)
SPACED_WORD = re.compile(r"[\"'`*$]{0,3} (?=[a-z])")
# The words behind a letter that do not speak against it.
_VERBS = (
    r"fits?|match(?:es)?|describes?|explains?|holds"
    r"|works|agrees|satisfies|corresponds|remains"
    r"|shows|captures|reflects|represents|aligns|beats"
    r"|wins|stands|makes (?:the most )?sense"
    r"|does|says|states"
    r"|(?:appears|seems|looks) (?:to|most|more|best|consistent)"
)
TAIL = re.compile(
    rf"(?:(?:best|clearly|only|also|really|most|accurately"
    rf"|correctly|definitely)\s)*(?:(?:{_VERBS})\b"
    r"|(?:is|was|has to|must|should|will|would|might"
    r"|may|could)\s(?:be\s)?(?:\w{1,12}ly\s)?"
    r"(?:the\b|my\b|our\b|correct|right\b"
    r"|consistent|best|true|better|more|most|likely|it\b"
    r"|so\b|supported|plausible|accurate|valid"
    r"|also|in\b|one\b|not\b|close\b)"
    r"|(?:is|was)(?=[.,;!?\n]|\Z)"
    r"|(?:most|more|very|quite|best|because|since|as"
    r"|for|due|given|with|rather|instead|over|not|it"
    r"|is it|i|to|in|on|at|of|from|the|if|though|although"
    r"|but|and|or|nor|so|then|where|while"
    r"|which|that|who|based|out|definitely|likely|probably"
    r"|certainly|obviously|clearly|only|too"
    r"|alone|here|then|per|by|after|wins|unless|oder"
    r"|und|ou|et|o|y|e|ist|est|es|é|è|wählen"
    r"|versus|vs|both|correct|right|final)\b)",
    re.IGNORECASE,
)

WORD = re.compile(r"[A-Za-z]{2}")
# The same in Chinese and Japanese, which write no space: "B更合理", "Bです"
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
TEXT_LEAD = re.compile(
    r"(?:\A|[^\w\s-]\s?|\n|\b(?:the|an?|this|that|these"
    r"|those|is|are|was|were|be|to|of|as|it|it's"
    r"|only|just|like|say|says|see|and|or|so|than|towards?"
    r"|option|answer|colou?r|moves?|moving|turns?"
    r"|turning|going|goes|go|shifts?|shifting|rotat(?:e"
    r"|es|ing)|fac(?:e|es|ing)|not|no|then|one|its"
    r"|i|for|pick|choose|select|by|with|in|on|at|from"
    r"|about|exactly|approximately|roughly"
    r"|[a-z]{2,12}ed|[a-z]{2,16}ly|appears|looks|seems"
    r"|remains|stays|both|all|my|your|his|her|their|which"
    r"|any|some|either|neither|nor|but|versus|vs|keeps?"
    r"|holds?|has|have|touch(?:es|ing)|via)\s)\Z",
    re.IGNORECASE,
)
# And behind it: "the bus is", "the bus behind it", but not "the bus stop"
TEXT_TAIL = re.compile(
    r"(?:is|isn't|was|are|were|has|have|had|can|could"
    r"|would|will|should|must|might|may|does|did"
    r"|appears?|seems?|looks?|stands?|sits?|lies|hangs"
    r"|remains?|stays|faces|facing|moves?|moved"
    r"|comes|being|fits|matches|shows|which|that|who"
    r"|whose|as|and|or|nor|but|in|on|at|to|from|of"
    r"|for|with|without|by|near|next|behind|beside|under"
    r"|above|below|between|over|into|onto|off"
    r"|toward|towards|against|along|around|across|after"
    r"|before|because|since|so|then|not|rather"
    r"|than|instead|first|only|too|also|here|there|away"
    r"|out|up|down|left|right|due|given|if|when"
    r"|while|where|though|although|i|we|you|it|they|he"
    r"|she|the|an?|this|its|my|all|both|area|room"
    r"|colou?red|colou?r|object|one|option|answer|alone"
    r"|itself|again|please|most|more|least|less"
    r"|closer|nearer|farther|further|taller|larger|bigger"
    r"|smaller|shorter|higher|lower|wider"
    r"|[a-z]{3,12}est|[a-z]{2,20}ly|visible|shown|seen"
    r"|located|placed|standing|sitting|lying"
    r"|positioned|situated|versus|vs|wins|oder|und|ou|et|o|y)\b",
    re.IGNORECASE,
)


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
