"""Phrases that leave a mentioned option in doubt: possibilities, opinions, other things.

Every repetition in these patterns is bounded, so matching takes time linear in the text.
"""

from __future__ import annotations

import re

# ---------------------------------------------------------------- possibilities and opinions

# "It could be right.", "Maybe B", "可能是B"; "you may notice" and "most likely" are none
POSSIBLE = re.compile(
    r"\b(?:could|might|may)\b(?!\s(?:only\b|\w{0,12}\s?(?:notice"
    r"|see|observe|note|recall)\b"
    r"|be\s(?:seen|observed|noted)\b))"
    r"|\b(?:maybe|perhaps|possibly|conceivably|potentially"
    r"|vielleicht|möglicherweise"
    r"|eventuell|könnte|peut-être|pourrait|quizás?"
    r"|tal\svez|podría|puede\sser|talvez|forse"  # codespell:ignore forse
    r"|potrebbe|возможно)\b"
    r"|(?<![最更很不极大])(?<![最更很极]有)可能|也许|或许|說不定|说不定|もしかし|ひょっと|아마",
    re.IGNORECASE,
)
POSSIBLE_BEHIND = re.compile(
    r"[\])}\"'`*_.]{0,4}(?:\s?(?:选项|選項|项|項)?(?:也|都|就"
    r"|是)?(?:有可能|可能|也许|或许)"
    r"(?:是)?(?:对|對|正确|正確)|\s?(?:だ|である)?かも|일\s?(?:수도|지도)"
    r"|\s?[,(\u2013\u2014-]?\s?(?:maybe|perhaps"
    r"|possibly)\b\W{0,4}\Z)",
    re.IGNORECASE,
)
# "I think that it may be B", "the answer might be B": a guess, but the writer's answer
COMMITTED = re.compile(
    r"\b(?:answers?|choices?|guess|bet|pick|choose|select"
    r"|lean\w{0,3}"
    r"|i(?:'d|\swould)?\s(?:think|believe|say|go|suppose)"
    r"|antwort|respuesta|réponse|resposta"
    r"|risposta)\b|答案|(?:我|笔者)(?:认为|認為|觉得|覺得|猜|会选)|正解|答え|정답",
    re.IGNORECASE,
)
# "There is a chance that it is B", "one possible answer is B": whatever is stated is only possible
CHANCE = re.compile(
    r"\b(?:a|an|one|1|some|another)\s(?:\w{1,12}\s)?(?:chance"
    r"|possibility|possible|candidate)\b|\b(?:toss-up"
    r"|coin\s(?:flip|toss))\b",
    re.IGNORECASE,
)
CHANCE_BEHIND = re.compile(
    r"[\])}\"'`*_]{0,4}\sis\s(?:a|one"
    r"|one\sof\sthe)\s(?:\w{1,12}\s)?"
    r"(?:possib\w{1,8}|candidates?|options?|chance)\b",
    re.IGNORECASE,
)
# "Q1: A, Q2: B", "The first question's answer is A and the second's is B"
SEVERAL_QUESTIONS = re.compile(
    r"\b(?:Q\s?|question\s)1\b.{1,400}?\b(?:Q\s?|question\s)2\b"
    r"|\bfirst (?:question"
    r"|answer)\b.{1,400}?\bsecond(?:'s)?\s(?:question"
    r"|answer|one|is)\b",
    re.IGNORECASE | re.DOTALL,
)
_SAYING = (
    r"(?:say|said|says|think|thinks|thought|claims?"
    r"|claimed|believes?|believed|suggests?|suggested"
    r"|chose|chooses?|picks?|picked|answers?|answered"
    r"|selects?|selected|guess|guessed)\b"
)
# "My friend says B", "GPT-4 said B", "According to the caption, B"
OPINION = re.compile(
    r"(?:\b(?:friend|brother|sister|colleague|student"
    r"|teacher|classmate|user|someone|somebody"
    r"|everyone|everybody|people|others?|he|she|they"
    r"|(?:other|another)\s(?:\w{1,12}\s)?models?)"
    r"|(?-i:\b(?:GPT|Gemini|Claude|Qwen|LLaVA|InternVL"
    r"|DeepSeek)[\w.-]{0,12}))\s"
    rf"(?:\w{{1,8}}ly\s|would\s|might\s|may\s|has\s"
    rf"|have\s)?{_SAYING}"
    r"|\baccording to (?:the|a|an|his|her|their"
    r"|my)\s(?:\w{1,12}\s)?(?:captions?|users?|authors?"
    r"|hints?|titles?|prompts?|friends?|teachers?|labels?)\b",
    re.IGNORECASE,
)
# "I would have said B before looking", "the previous answer was B"
FORMER = re.compile(
    r"\bwould\shave\s(?:said|chosen|picked|guessed"
    r"|thought|answered|been)\b"
    r"|\b(?:i|we)\s(?:hope|wish|wonder|(?:wanted|meant"
    r"|intended|planned)\sto)\b"
    r"|\b(?:previous|earlier|former|initial|original"
    r"|old)\s(?:answer|choice|guess|thought)\b",
    re.IGNORECASE,
)
# "Had the lamp moved, B ..", "Assuming that it moved, B"; "If it moved, B would .."
INVERTED = re.compile(
    r"\A\W{0,3}(?:had|were|should|assuming|supposing"
    r"|suppose|unless(?!\si\b))\s[^.!?\n]{1,120},",
    re.IGNORECASE,
)
IF = re.compile(r"\A\W{0,3}if\s(?!i\s(?:had|were|have)\sto\b)[^.!?\n]{1,120},", re.IGNORECASE)
WOULD_BE = re.compile(r"\bwould\sbe\W{0,4}\Z", re.IGNORECASE)
WOULD = re.compile(r"[\])}\"'`*_]{0,4}\swould\b", re.IGNORECASE)

# ---------------------------------------------------------------- what a mention goes on with

# "A or something else", "The answer is A and" where the text ends
LEFT_OPEN = re.compile(
    r"[\])}\"'`*_]{0,4}(?:,?\s(?:or|oder|ou)\b(?!\s(?:so"
    r"|rather|more|in\sother|equivalently"
    r"|simply|to\sbe|put|at\sleast|less|fewer)\b)|\s?(?:或者|或|还是)"
    r"|\s?/\s?(?:none|neither|other|unknown|unclear)\b"
    r"|,?\s?(?:\b(?:and|or|nor|und|oder|y|et|ou)|和|与|/"
    r"|&)\s?[\"'`*(\[]{0,3}\Z)",
    re.IGNORECASE,
)
# "on or under the table"
OR_BEFORE = re.compile(
    r"(?<!more)(?<!less)\s(?:or|oder)\s(?:(?:the|option"
    r"|choice)\s)?[\"'`*(\[]{0,3}\Z",
    re.IGNORECASE,
)
# "B describes a motion to the right, which we do not see"
DENIED = re.compile(
    r"[^.!?\n]{0,80},\swhich\s(?:[a-z]{1,12}\s){0,2}(?:does"
    r"|do|is|are|did|was|were|can)(?:\snot|n't)\b",
    re.IGNORECASE,
)
# "B implies a shift to the left"
EXPLAINED = re.compile(
    r"\A\W{0,3}(?:(?:option"
    r"|choice)\s)?[\"'`*(\[]{0,3}(?-i:[A-HJ-Z])[\"'`*)\]]{0,3}\s(?:implies|means"
    r"|says|states|describes|involves|requires|suggests"
    r"|is\sabout|refers|would)\b",
    re.IGNORECASE,
)
_DEGREE = r"(?:most|least|more|less)\b|\w{2,12}(?:est|er)\b"
# "The chair is the farthest, not the closest.": which of the two was asked for?
OPPOSED = re.compile(
    rf"[\])}}\"'`*_]{{0,4}}\s(?:is|are|was|seems|looks"
    rf"|appears)\s(?:the\s)?(?:{_DEGREE})"
    rf"[^.!?\n]{{0,60}}?(?:,|;|\s(?:and|but))\s?(?:and\s"
    rf"|but\s)?(?:it\s)?(?:is\s)?not\s(?:the\s)?"
    rf"(?:{_DEGREE})",
    re.IGNORECASE,
)

# ---------------------------------------------------------------- other things than the option

SIDES = re.compile(
    r"(?:to |on |at |in )?(?:left|right|front|back|rear"
    r"|top|bottom|middle|cent(?:er|re)|up|down"
    r"|upper|lower|north|south|east|west|forward|backward"
    r"|clockwise|counter|izquierda|derecha|gauche|droite"
    r"|links|rechts)(?:wards?|east|west|clockwise)?\b|[^a-z]"
)
# What a noun may follow: "the yellow car" is yellow, "the bus stop" is no bus
ADJECTIVE = re.compile(
    r"red|orange|yellow|green|blue|purple|pink|brown"
    r"|black|white|gr[ae]y|beige|silver|gold(?:en)?"
    r"|small|large|big|tall|short|wide|narrow|round"
    r"|square|\w{2,12}(?:er|est)"
)
# "next to the chair", "behind the red sofa", "the legs of the table"
PLACED = re.compile(
    r"\b(?:next to|near|nearby|beside|behind|in front of"
    r"|under|underneath|beneath|below|above"
    r"|on top of|inside|between|among|opposite(?: to)?"
    r"|adjacent to|close to|against|around|past"
    r"|beyond|across from|(?<!direction )of"
    r"|(?:something|anything|an?\s\w{2,15}|the\s\w{2,15})\s(?:in"
    r"|on|at|from|with))\s"
    r"(?:(?:the|an?|this|that|his|her|its|my|your)\s)?"
    r"(?:(?!(?:is|are|was|were|stands|sits|lies"
    r"|comes)\b)[a-z]{1,15}\s)?\Z",
    re.IGNORECASE,
)
MOTION = re.compile(r"\b(?:mov\w*|motion|rotat\w*|turn\w*|shift\w*|pan\w*)\b")
_IMAGE = r"(?:images?|photos?|pictures?|frames?|views?|shots?)"
# "A is the first image"
NAMED_IMAGE = re.compile(
    r"[\])}\"'`*_]{0,4} (?:is|was) (?:(?:the|an?|from|taken) ){0,2}"
    rf"(?:first|second|third|last|1st|2nd|left|right|earlier|later|initial|final) {_IMAGE}\b",
    re.IGNORECASE,
)
# "In the first image the lamp is on the left", "the objects shifted to the right"
IN_IMAGE = re.compile(
    rf"\b(?:in|within)\s(?:the\s)?(?:(?:first|second|1st"
    rf"|2nd|other|next|initial|final)\s{_IMAGE}"
    rf"|{_IMAGE}\s[12])\b|\b(?:objects?|items?|things"
    rf"|everything|furniture|background|scene"
    r"|contents?)\s(?:\w{1,12}\s){0,3}(?:mov|shift|appear"
    r"|slid|drift|go)",
    re.IGNORECASE,
)
BEHIND_SIDE = re.compile(
    rf"\s(?:(?:hand\s)?(?:side|half|part"
    rf"|edge)\sof\s(?:the\s)?(?:\w{{1,8}}\s)?{_IMAGE}"
    rf"|in\s(?:the\s)?(?:(?:first|second|1st|2nd"
    rf"|other)\s{_IMAGE}|{_IMAGE}\s[12]))\b",
    re.IGNORECASE,
)
# "The table is to the left of the chair"
STANDS = re.compile(r"\b(?:is|are|was|were|stands?|sits?|lies)\b", re.IGNORECASE)
OF_THING = re.compile(r"\sof\s(?:the|an?)\b", re.IGNORECASE)
OBSERVER = re.compile(
    r"\b(?:camera|viewpoint|viewer|observer|photographer"
    r"|perspective|i|we|movement|motion"
    r"|direction)\b",
    re.IGNORECASE,
)
# What may have moved where the options are motions of the camera: it, or nothing that is named
MOVING = re.compile(
    r"\b(?:camera|viewpoint|viewer|observer|photographer|it|i|we|you)\b[^.!?\n]{0,60}\Z"
    r"|\A\W{0,4}(?:(?:so|thus|hence|then|therefore|answer|answer is)\W{1,3}){0,3}\Z",
    re.IGNORECASE,
)
# "moved left and right", "moved to the left, then to the right"
MOVES_ON = re.compile(
    r"\s?(?:,|/|\b(?:and|or|then)\b)\s?(?:(?:and|then)\s){0,2}(?:to\s)?(?:the\s)?(?:left|right)\b",
    re.IGNORECASE,
)
SIDE_OF_THING = re.compile(
    rf"\s(?:hands?\b(?!\s(?:side|direction))|arms?|legs?"
    rf"|foot|feet|eyes?|ears?|shoulders?|cheek"
    rf"|knee|shoes?|gloves?|{_IMAGE})\b",
    re.IGNORECASE,
)
OWNED = re.compile(
    r"(?:(?<!to )(?<!towards )(?<!toward )\b(?:the|his"
    r"|her|their|its|my|your)|'s)\s\Z",
    re.IGNORECASE,
)
