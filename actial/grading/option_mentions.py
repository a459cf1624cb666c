"""Find every mention of an option in an answer, and what the words around it make of it.

An option is mentioned by its letter, by its text, or by both ("B. right"). A
mention is stated ("the answer is B"), rejected ("not B", "B is wrong"), or an
aside ("image B", "if the answer were B", "is it B?"). Mentions joined by "or",
"and", a comma or a slash form a group.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from itertools import pairwise

from actial.core.multiple_choice_format import LETTERS
from actial.grading.answer_phrases import (
    AFTER_I,
    AFTER_LOWER_A,
    ARTICLE,
    ASIDE_BEFORE,
    ASKED,
    BETWEEN_LETTER_AND_TEXT,
    BETWEEN_TEXT_AND_LETTER,
    BOLD_END,
    CLAUSE_START,
    COMPARED,
    COMPARISON,
    CONDITION,
    CONDITIONED,
    CONTRAST,
    COPULA,
    HEDGED_AFTER,
    HEDGED_BEFORE,
    IDIOM,
    JOINT,
    LETTER,
    LIST_BREAK,
    LIST_END,
    LISTING,
    MENTION,
    NAMED_BEFORE,
    NAMED_LOWER,
    NEEDS_GAP,
    OPTION_LETTER,
    PLURAL,
    PREDICATE,
    QUESTION,
    QUESTION_START,
    REJECTED_AFTER,
    REJECTED_BEFORE,
    REJECTING_LABEL,
    SENTENCE_END,
    STATEMENT,
    VERB,
)
from actial.grading.mention import Group, Mention
from actial.grading.mention_context import (
    EQUAL,
    FROM,
    IF_THEN,
    bounds,
    determines,
    points_to,
    rejects_another,
)
from actial.grading.option_texts import Occurrence, foreign_numbers, occurrences, plain

MAX_MENTIONS = 400  # more than so many name nothing
NEXT_TO = 12  # characters in which a second number makes the first one doubtful
BLANK = "\u2592"  # stands for a character of an option's text
WINDOW = 160  # characters of context that are read before a mention
FILLERS = ("", "to the ", "the ", "it ", "that ", "option ")  # before a stated option


def option_groups(text: str, options: tuple[str, ...]) -> list[Group]:
    """Return the mentions of options in a normalized text, in order.

    Args:
        text: as from `answer_text.normalized`.
        options: as from `option_texts.plain_option`.
    """
    mentions = _mentions(text, options)
    if len(mentions) > MAX_MENTIONS:
        return []
    context = _without_option_texts(text, options)
    groups = _grouped(text, mentions)
    for group in groups:
        _judge(context, group, {m.start for m in mentions})
    _inherit_rejection(text, groups)
    _set_aside_guesses(text, groups)
    return groups


# ---------------------------------------------------------------- finding options


def _mentions(text: str, options: tuple[str, ...]) -> list[Mention]:
    letters = _letters(text)
    if len(letters) > MAX_MENTIONS:
        return letters
    texts = occurrences(text, options)
    if len(texts) > MAX_MENTIONS:
        return [Mention("?", t.start, t.end) for t in texts]
    by_start = {m.start: m for m in _merged(text, letters, texts, options)}
    for start in _stated_positions(text, by_start):
        if start not in by_start:
            by_start[start] = Mention(text[start].upper(), start, start + 1)
        by_start[start].stated = True
        by_start[start].weak = False
    last = ord("A") + len(options) - 1
    mentions = [by_start[start] for start in sorted(by_start)]
    # A stray capital beyond the options, as in "point X", is no mention unless it is stated.
    mentions = [m for m in mentions if ord(m.letter) <= last or m.stated]
    mentions = [m for m in mentions if not determines(text, m)]
    for mention in mentions:
        mention.marked = _is_marked(text, mention)
        if PREDICATE.match(text, mention.end) is not None:
            mention.stated, mention.weak = True, False
        if mention.by_text:
            nearby = text[max(0, mention.start - NEXT_TO) : mention.end + NEXT_TO]
            option = options[ord(mention.letter) - ord("A")]
            mention.doubtful |= foreign_numbers(plain(nearby), option)
            mention.doubtful |= option[:1].isdigit() and bounds(text, mention)
    return mentions


def _letters(text: str) -> list[Mention]:
    mentions = []
    for match in MENTION.finditer(text):
        kind = match.lastgroup or ""
        kind = "inner" if match["inner"] else kind
        start, name = match.start(kind), match[kind]
        if kind == "letter" and not _is_letter(text, start, stated=False):
            continue
        weak = False
        if kind == "lower":
            weak = NAMED_LOWER.search(text[max(0, start - 12) : start]) is None
            if name in "ai" and (weak or ARTICLE.match(text, start + 1)):
                continue
        mentions.append(Mention(name.upper(), start, start + 1, weak=weak))
        if len(mentions) > MAX_MENTIONS:
            break
    return mentions


def _merged(
    text: str,
    letters: Sequence[Mention],
    texts: Sequence[Occurrence],
    options: Sequence[str],
) -> list[Mention]:
    """Join letters with the option texts beside them: "B. right", "right (B)"."""
    inside = [m for m in letters if not any(t.start <= m.start < t.end for t in texts)]
    if texts and any(OPTION_LETTER.search(option) for option in options):
        # "A is closer" as an option: letters beside such texts name points, not options
        inside = [m for m in inside if text[max(0, m.start - 1) : m.start] in tuple("([{`*")]
    merged = {m.start: m for m in inside}
    ordered = sorted(inside, key=lambda m: m.start)
    for occurrence in texts:
        before = [
            m for m in ordered if m.end <= occurrence.start and occurrence.start - m.end <= 8
        ]
        after = [
            m for m in ordered if occurrence.end <= m.start and m.start - occurrence.end <= 5
        ]
        own = LETTERS[occurrence.option]
        if before:
            between = BETWEEN_LETTER_AND_TEXT.match(text[before[-1].end : occurrence.start])
            if between and (between["mark"] or before[-1].letter == own):
                closing = text[occurrence.end : occurrence.end + 1] in (")", "]")
                before[-1].end = occurrence.end + closing
                continue
        if after and after[0].letter == own:
            between = BETWEEN_TEXT_AND_LETTER.match(text[occurrence.end : after[0].start])
            if between:
                merged.pop(after[0].start, None)
                end = after[0].end + (text[after[0].end : after[0].end + 1] in (")", "]"))
                merged[occurrence.start] = Mention(own, occurrence.start, end)
                continue
        mention = Mention(own, occurrence.start, occurrence.end, by_text=True)
        # "no" and "no, it would stay" start at one place: neither is named for certain.
        mention.doubtful = occurrence.start in merged
        merged[occurrence.start] = mention
    return list(merged.values())


def _stated_positions(text: str, mentions: Mapping[int, Mention]) -> list[int]:
    """Return where options stand that a phrase such as "the answer is" announces."""
    positions = []
    for cue in STATEMENT.finditer(text):
        if LISTING.search(text, max(0, cue.start("cue") - 12), cue.end("cue")):
            continue
        if NEEDS_GAP.search(cue["cue"]) and not _has_copula(cue["gap"]):
            continue  # "option B" mentions B; "the right option is B" states it
        position = _announced(text, cue, mentions)
        if position is None:
            letter = LETTER.match(text, cue.end())
            if letter is not None and _is_letter(text, letter.start(), stated=True):
                position = letter.start()
        elif (
            mentions[position].by_text
            and not cue["gap"].strip()
            and not VERB.match(cue["cue"])
        ):
            continue  # "answer right" states nothing
        if position is not None:
            positions.append(position)
    return positions


def _announced(text: str, cue: re.Match[str], mentions: Mapping[int, Mention]) -> int | None:
    """Return where the option stands that follows a cue, at once or behind a filler."""
    for start in range(cue.end("cue"), cue.end() + 1):
        if start in mentions and mentions[start].by_text:
            return start
    for filler in FILLERS:
        start = cue.end() + len(filler)
        follows = start in mentions and text[cue.end() : start].lower() == filler
        if follows and _is_letter(text, start, stated=True):
            return start
    return None


def _has_copula(gap: str) -> bool:
    return COPULA.search(gap) is not None


def _is_letter(text: str, start: int, stated: bool) -> bool:
    """Return whether a standing letter is one, and not the article "a" or the pronoun "I"."""
    letter, rest = text[start], text[start + 1 : start + 40]
    before = text[max(0, start - 24) : start]
    if NAMED_BEFORE.search(before) and letter.isupper():
        return True
    if start and text[start - 1] in "`" and rest[:1] in "`.)":
        return True
    if letter == "A":
        return ARTICLE.match(rest) is None
    if letter == "a":
        return AFTER_LOWER_A.match(rest) is not None
    if letter in "Ii":
        return AFTER_I.match(rest) is not None
    return letter.isupper() or stated


def _is_marked(text: str, mention: Mention) -> bool:
    """Return whether the letter stands in backticks or bold, alone or before its option's text."""
    before = text[max(0, mention.start - 3) : mention.start].rstrip("([ ")
    after = text[mention.end : mention.end + 80].lstrip(")] ")
    if before.endswith("`"):
        return "`" in after
    return before.endswith("**") and BOLD_END.match(after) is not None


# ---------------------------------------------------------------- judging letters


def _without_option_texts(text: str, option_texts: Sequence[str]) -> str:
    """Blank out option texts of several words, so that "no movement" rejects nothing."""
    several_words = [re.escape(option) for option in option_texts if " " in option]
    if not several_words:
        return text
    pattern = re.compile("|".join(several_words), re.IGNORECASE)
    return pattern.sub(lambda match: BLANK * len(match[0]), text)


def _grouped(text: str, mentions: Sequence[Mention]) -> list[Group]:
    groups: list[Group] = []
    for mention in mentions:
        if groups:
            previous = groups[-1].mentions[-1]
            between = text[previous.end : mention.start]
            if _joined(text, previous, mention) and not _starts_anew(
                text, previous, mention, between
            ):
                groups[-1].mentions.append(mention)
                continue
        groups.append(Group([mention]))
    return groups


def _joined(text: str, previous: Mention, mention: Mention) -> bool:
    between = text[previous.end : mention.start]
    if len(between) > 40:
        return False
    if JOINT.match(between):
        return True
    lead = text[max(0, previous.start - 40) : previous.start]
    if COMPARED.match(between) and (COMPARISON.search(lead) or FROM.search(lead)):
        return True
    if points_to(text, previous, mention):
        return True
    if "\n" in between or not (previous.stated or ";" in between):
        return False
    if clause_rejects(text, previous.start):
        return False
    return (
        LIST_BREAK.match(between) is not None and LIST_END.match(text, mention.end) is not None
    )


def _starts_anew(text: str, previous: Mention, mention: Mention, between: str) -> bool:
    """Return whether a letter behind a comma begins a clause of its own, "B, A is wrong"."""
    if not between.strip(" )]}\"'`*_.").startswith((",", ";", "-", "\u2013", "and", "&")):
        return False
    if previous.by_text and mention.stated and not mention.by_text:
        # "since it shifts left, B is correct"
        return CONDITION.search(text, max(0, previous.start - 80), previous.start) is None
    after = REJECTED_AFTER.match(text, mention.end)
    if after is None:
        return False
    plural = PLURAL.match(after[0].lstrip(")]}\"'`*_.:, ")) is not None
    return not plural


def _judge(text: str, group: Group, starts: Container[int]) -> None:
    first, last = group.mentions[0], group.mentions[-1]
    sentence, clause = _before(text, first)
    rejected = REJECTED_BEFORE.search(IDIOM.sub(" ", clause)) is not None
    after = REJECTED_AFTER.match(text, last.end)
    rejected = rejected or (after is not None and not rejects_another(text, after, starts))
    window = text[max(0, first.start - 40) : first.start]
    rejected = rejected or REJECTING_LABEL.search(window) is not None
    hedged = CONDITIONED.match(text, last.end) is not None
    hedged |= HEDGED_AFTER.match(text, last.end) is not None and not last.stated
    aside = (
        hedged
        or IF_THEN.search(sentence) is not None
        or COMPARISON.search(clause) is not None
        or CONDITION.search(clause) is not None
        or _is_question(text, sentence, last)
    )
    for mention in group.mentions:
        mention.rejected = rejected
        mention.aside = not rejected and aside
        before = text[max(0, mention.start - 24) : mention.start]
        if not mention.stated and not mention.by_text and ASIDE_BEFORE.search(before):
            mention.aside = True
    from_to = len(group.mentions) > 1 and FROM.search(text[: first.start][-40:])
    if (first.aside or from_to) and not group.stated:
        for mention in group.mentions:
            mention.aside = True


def _before(text: str, mention: Mention) -> tuple[str, str]:
    """Return the sentence and the clause up to a mention."""
    window = text[max(0, mention.start - WINDOW) : mention.start]
    ends = [match.end() for match in SENTENCE_END.finditer(window)]
    sentence = window[ends[-1] :] if ends else window
    head = sentence
    if mention.stated:
        # "The answer is:" and "answer - B" hold signs that end clauses elsewhere.
        near = len(sentence) - NEXT_TO
        cues = [m for m in STATEMENT.finditer(sentence) if m.end() >= near]
        if cues and not CONTRAST.search(sentence, cues[-1].end()):
            head = sentence[: cues[-1].start()]
    starts = [match.end() for match in CLAUSE_START.finditer(head)]
    clause = sentence[starts[-1] :] if starts else sentence
    return sentence, clause


def _is_question(text: str, sentence: str, last: Mention) -> bool:
    after = text[last.end : last.end + 60]
    if ASKED.match(after):
        return True
    return QUESTION.match(after) is not None and QUESTION_START.search(sentence) is not None


def _inherit_rejection(text: str, groups: Sequence[Group]) -> None:
    """Reject what a rejected letter's list goes on with: "not A, B"."""
    for previous, group in pairwise(groups):
        between = text[previous.mentions[-1].end : group.start]
        rejected = all(m.rejected for m in previous.mentions)
        if rejected and JOINT.match(between) and not any(m.stated for m in group.mentions):
            for mention in group.mentions:
                mention.rejected = True


def _set_aside_guesses(text: str, groups: Sequence[Group]) -> None:
    """Set "it could be A, it could be B" aside: several guesses decide nothing."""
    if EQUAL.search(text) and len({m.letter for g in groups for m in g.mentions}) > 1:
        for group in groups:
            for mention in group.mentions:
                mention.aside |= not (mention.rejected or mention.stated)
    guesses = [g for g in groups if HEDGED_BEFORE.search(text[max(0, g.start - 40) : g.start])]
    if len({letter for group in guesses for letter in group.letters}) > 1:
        for group in guesses:
            for mention in group.mentions:
                mention.aside = not mention.rejected


def clause_rejects(text: str, position: int) -> bool:
    """Return whether the clause that leads up to a position rejects what stands there."""
    window = text[max(0, position - WINDOW) : position]
    starts = [match.end() for match in CLAUSE_START.finditer(window)]
    clause = window[starts[-1] :] if starts else window
    return REJECTED_BEFORE.search(IDIOM.sub(" ", clause)) is not None
