"""The rules that read an option from an answer, the most explicit way of naming one first.

A rule either names an option, leaves the answer to the next rule, or ends the search: an answer
that names two options without deciding, or one that does not exist, is unparsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from actial.core.multiple_choice_format import LETTERS
from actial.grading.answer import Answer, Decision
from actial.grading.answer_phrases import (
    BOX,
    CONCLUDED,
    CONCLUSION,
    CORRECTION,
    ENUMERATION,
    INTRODUCTION,
    LATEX_TEXT,
    LEADING,
    LINE,
    LISTED,
    PRONOUN_OR_OPTION,
    REFUSAL,
    REJECTED_AFTER,
    VERDICT,
)
from actial.grading.answer_text import normalized
from actial.grading.correction_phrases import (
    CORRECTED,
    CUED,
    SAME_AGAIN,
)
from actial.grading.doubts import BARE_VERDICTS, goes_on, in_doubt
from actial.grading.mention import Mention
from actial.grading.mention_context import contrasted, gives_reason
from actial.grading.option_mentions import clause_rejects
from actial.grading.option_texts import (
    bare_number,
    foreign_numbers,
    names_another,
    without_article,
)
from actial.grading.quantities import quantities_as_options
from actial.grading.verdict_lists import accepted_letters

Rule = Callable[[Answer], Decision | None]  # None leaves the answer to the next rule
UNDECIDED = Decision(None)
DECORATION = " \n\t()[]{}<>.,:;!*_\"'`$#-=>\u3002"


def decided_letter(answer: Answer, complete: bool) -> tuple[str | None, str]:
    """Return the letter that the first rule to decide names, and that rule's name.

    Args:
        answer: as it is looked at.
        complete: False for an output that was cut; only rules whose writer has committed apply.
    """
    decision, rule = _decide(answer, complete)
    letter = decision.letter if decision else None
    if letter is not None and not complete and goes_on(answer, letter):
        return None, "none"
    if letter is None or letter not in answer.letters or in_doubt(answer, letter):
        return None, "none"
    return letter, rule


def _decide(answer: Answer, complete: bool) -> tuple[Decision | None, str]:
    for name, rule, committed in RULES:
        if complete or committed:
            decision = rule(answer)
            if decision is not None:
                return decision, name
    return None, "none"


# ---------------------------------------------------------------- rules: the answer alone


def _whole(answer: Answer) -> Decision | None:
    """The text is a letter and nothing else: "B", "(B)", "**b**"."""
    if len(answer.text) > 40:
        return None
    bare = _undecorated(answer.text)
    if len(bare) != 1 or not (bare.isascii() and bare.isalpha()):
        return None
    if bare.upper() not in answer.letters and bare.casefold() in answer.plain_options:
        return None  # the text of an option: "X" of X, Y and Z
    return Decision(bare.upper())


def _undecorated(text: str) -> str:
    return LATEX_TEXT.sub(" ", text).strip(DECORATION)


def _option_text_alone(answer: Answer) -> Decision | None:
    """The text is an option's text: "right", "No movement"."""
    named = {i for i, option in enumerate(answer.plain_options) if option == answer.plain}
    if not named:
        bare = without_article(answer.plain)
        for i, option in enumerate(answer.plain_options):
            if bare == without_article(option) != option:
                named.add(i)
    if len(named) == 1 and answer.plain:
        return Decision(LETTERS[named.pop()])
    number = bare_number(answer.plain, answer.plain_options)
    return Decision(LETTERS[number]) if number is not None else None


# ---------------------------------------------------------------- rules: marks and statements


MAX_BOXES = (
    50  # a model that repeats its box thousands of times says the same in the last ones
)


def _boxed(answer: Answer) -> Decision | None:
    """The last LaTeX box: "\\boxed{B}", "\\boxed{\\text{(B) right}}"."""
    if "box" not in answer.text:
        return None
    last_boxes = list(BOX.finditer(answer.text))[-MAX_BOXES:]
    boxes = [(box, _box_decision(box[1], answer)) for box in last_boxes]
    decided = [(box, decision) for box, decision in boxes if decision is not None]
    if not decided:
        return None
    rejected = {d for box, d in decided if _rejects_box(answer.text, box)}
    decided = [(box, decision) for box, decision in decided if decision not in rejected]
    if not decided:
        return UNDECIDED
    (last, decision), earlier = decided[-1], decided[:-1]
    if earlier and earlier[-1][1] != decision:
        between = answer.text[earlier[-1][0].end() : last.start()]
        if len(between.strip(" $,./&")) < 5:
            return UNDECIDED
    return decision


def _rejects_box(text: str, box: re.Match[str]) -> bool:
    behind = box.end() + (text[box.end() : box.end() + 1] == "$")
    return clause_rejects(text, box.start()) or REJECTED_AFTER.match(text, behind) is not None


def _box_decision(content: str, answer: Answer) -> Decision | None:
    inner = LATEX_TEXT.sub(" ", content.replace("~", " ").replace("\\%", "%"))
    if "box" in inner:
        return None
    decision, _ = _decide(Answer(inner, answer.options), complete=True)
    if decision is None:
        rewritten = quantities_as_options(normalized(inner), answer.options)
        decision, _ = _decide(Answer(rewritten, answer.options), complete=True)
    return decision


def _marked(answer: Answer) -> Decision | None:
    """The only letter in backticks: "`B`", "``B``"."""
    if "`" not in answer.text:
        return None
    return _emphasized(answer, "`")


def _stated(answer: Answer) -> Decision | None:
    """The last statement: "the answer is B", "Answer: right", "I choose B", "B is correct"."""
    statements = [group for group in answer.groups if group.stated]
    if not statements:
        return None
    last = statements[-1]
    if len(last.letters) != 1:
        return UNDECIDED
    letter = next(iter(last.letters))
    earlier = [group for group in statements[:-1] if group.letters != {letter}]
    if earlier:
        between = answer.text[earlier[-1].mentions[-1].end : last.start]
        if not (CONCLUSION.search(between) or "\n" in between) or SAME_AGAIN.fullmatch(
            between
        ):
            return UNDECIDED
    if _corrected(answer, last.start, letter):
        return _correction(answer)
    return Decision(letter)


def _corrected(answer: Answer, start: int, letter: str) -> bool:
    """Return whether a later letter takes an answer back: "The answer is B. Wait, A."."""
    for group in answer.groups:
        if group.start > start and group.letters - {letter}:
            lead = answer.text[max(start + 1, group.start - 60) : group.start]
            if (CUED if group.by_text else CORRECTION).search(lead):
                return True
    return False


def _correction(answer: Answer) -> Decision:
    """Return the letter that the text ends with behind a correction: "A. No wait, B."."""
    ending = CORRECTED.search(answer.text, max(0, len(answer.text) - 80))
    groups = [group for group in answer.groups if group.letters and not group.by_text]
    if ending is None or not groups:
        return UNDECIDED
    last = groups[-1]
    alone = last.letters == {ending["letter"]} and last.start == ending.start("letter")
    return Decision(ending["letter"]) if alone else UNDECIDED


def _verdicts(answer: Answer) -> Decision | None:
    """The only accepted option of a list or table: "| A | wrong |", "| B | correct |"."""
    letters = accepted_letters(answer.text, answer.plain_options)
    if letters is None:
        return None
    return _only(letters) or UNDECIDED


# ---------------------------------------------------------------- rules: position and emphasis

NEXT_TO = 12  # characters: another letter so near to the leading one is no explanation


def _lone_line(answer: Answer) -> Decision | None:
    """A line holds one option and nothing else, and no other line another one."""
    if "\n" not in answer.text:
        return None
    by_start = sorted(
        (m for group in answer.groups for m in group.mentions), key=lambda m: m.start
    )
    letters = set()
    for line in LINE.finditer(answer.text):
        mentions = [m for m in by_start if line.start() <= m.start < line.end()]
        if len(mentions) == 1 and _covers(answer.text, line.start(), line.end(), mentions[0]):
            letters.add(mentions[0].letter)
    return _only(letters)


def _covers(text: str, start: int, end: int, mention: Mention) -> bool:
    enumeration = ENUMERATION.match(text, start)
    before = text[enumeration.end() if enumeration else start : mention.start]
    before = INTRODUCTION.sub("", before.strip(DECORATION).lower())
    return not before and not text[mention.end : end].strip(DECORATION)


def _leading(answer: Answer) -> Decision | None:
    """The text starts with a letter and its mark: "B. right", "(B) because". No list of options."""
    match = LEADING.match(answer.text)
    if match is None:
        return None
    name = match["round"] or match["square"] or match["letter"]
    letter, rest = name.upper(), answer.text[match.end() :]
    if letter not in answer.letters:
        return UNDECIDED
    if match[0] == "A:" and names_another(rest, LETTERS.index(letter), answer.plain_options):
        return UNDECIDED  # "A: to the right." may answer with either
    listed = {listed for listed in LISTED.findall(rest) if listed in answer.letters}
    if listed - {letter}:
        return None  # a list of the options answers nothing
    first = next((group for group in answer.groups if group.start < match.end()), None)
    if first is not None and first.letters != {letter}:
        return UNDECIDED  # rejected, hedged, or joined to another option
    if first is None and REJECTED_AFTER.match(rest):
        return UNDECIDED
    others = [
        g for g in answer.groups if g is not first and g.letters - {letter} and not g.by_text
    ]
    if any(group.start - match.end() < NEXT_TO for group in others):
        return _correction(answer)
    if _corrected(answer, match.end(), letter):
        return _correction(answer)
    return Decision(letter)


def _bold(answer: Answer) -> Decision | None:
    """The only letter in bold: "I compared all, and **B** fits"."""
    if "**" not in answer.text:
        return None
    return _emphasized(answer, "*")


def _emphasized(answer: Answer, sign: str) -> Decision | None:
    """Return the only emphasized letter, where no other letter stands in its line or behind it."""
    letters = [m for m in answer.standing if not m.by_text]
    emphasized = [m for m in letters if m.marked and answer.text[m.start - 1] == sign]
    if not emphasized:
        return None
    last = emphasized[-1]
    if len({m.letter for m in emphasized}) > 1 or not _alone_in_group(answer, last):
        return UNDECIDED
    if any(group.stated and group.letters != {last.letter} for group in answer.groups):
        return UNDECIDED
    others = [m for m in letters if m.letter != last.letter]
    foreign = [m for m in answer.standing if m.letter != last.letter]
    if any(_alone_in_line(answer.text, m) for m in foreign):
        return UNDECIDED
    if all(_in_earlier_line(answer.text, m, last) for m in others):
        return Decision(last.letter)
    return UNDECIDED


def _alone_in_line(text: str, mention: Mention) -> bool:
    start = text.rfind("\n", 0, mention.start) + 1
    end = text.find("\n", mention.end)
    return _covers(text, start, len(text) if end < 0 else end, mention)


def _alone_in_group(answer: Answer, mention: Mention) -> bool:
    group = next(group for group in answer.groups if mention in group.mentions)
    return group.letters == {mention.letter}


def _in_earlier_line(text: str, mention: Mention, last: Mention) -> bool:
    return mention.start < last.start and "\n" in text[mention.start : last.start]


def _only(letters: set[str]) -> Decision | None:
    if not letters:
        return None
    return Decision(next(iter(letters))) if len(letters) == 1 else UNDECIDED


def _sole_letter(answer: Answer) -> Decision | None:
    """The only letter that is neither rejected nor an aside: "I think A is wrong, so B"."""
    groups = [group for group in answer.groups if group.letters and not group.by_text]
    letters = {letter for group in groups for letter in group.letters}
    concluded = CONCLUDED.search(answer.text, max(0, len(answer.text) - 80))
    if len(letters) > 1 and concluded is not None:
        last = groups[-1]
        if last.letters == {concluded["letter"]} and last.start == concluded.start("letter"):
            return Decision(concluded["letter"])  # "A fits, B does not fit. Hence A."
    if len(letters) > 1:
        return _correction(answer)
    return _only(letters)


# ---------------------------------------------------------------- rules: option texts


def _option_text(answer: Answer) -> Decision | None:
    """The only option whose text occurs, not rejected: "The camera moved to the right."."""
    mentions = [m for group in answer.groups for m in group.mentions]
    reasons = [m for m in mentions if gives_reason(answer.text, m, mentions)]
    verdict = _leading_verdict(answer, mentions)
    if verdict is not None:
        return verdict
    reasons += contrasted(answer.text, mentions)
    named = {m.letter for m in mentions if m.by_text and m not in reasons}
    if not named:
        return None
    if "I" in answer.letters and PRONOUN_OR_OPTION.search(answer.text):
        return UNDECIDED  # "I, object 9" may name two
    groups = [group for group in answer.groups if group.mentions[0] not in reasons]
    standing = {letter for group in groups for letter in group.letters}
    if len(named) != 1 or standing != named:
        return UNDECIDED  # two are named, or the only one is rejected
    letter = named.pop()
    text = answer.plain_options[LETTERS.index(letter)]
    if answer.plain_options.count(text) > 1 or _refuses(answer, text):
        return UNDECIDED
    if any(m.letter == letter and not m.standing for m in mentions):
        return UNDECIDED
    if foreign_numbers(answer.plain, text):
        return UNDECIDED
    if text in BARE_VERDICTS and any(not m.by_text for m in mentions):
        return UNDECIDED  # "No, not B" rejects B and does not answer "no"
    return Decision(letter)


def _leading_verdict(answer: Answer, mentions: Sequence[Mention]) -> Decision | None:
    """Return the verdict that the text starts with, where no other option is mentioned."""
    match = VERDICT.match(answer.plain)
    if match is None or answer.plain_options.count(match[0]) != 1:
        return None
    letter = LETTERS[answer.plain_options.index(match[0])]
    only = all(m.by_text and m.letter == letter for m in mentions)
    taken_back = CORRECTION.search(answer.plain, match.end())
    unsure = taken_back or _refuses(answer, match[0])
    return Decision(letter) if only and not unsure else None


def _refuses(answer: Answer, option: str) -> bool:
    apart = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", " ", answer.plain)
    return REFUSAL.search(apart) is not None


# Name, rule, and whether it applies to an output that was cut: its writer has committed by then.
RULES: tuple[tuple[str, Rule, bool], ...] = (
    ("marked", _boxed, True),
    ("marked", _marked, True),
    ("whole", _whole, True),
    ("option_text", _option_text_alone, False),
    ("answer_is", _stated, True),
    ("verdicts", _verdicts, False),
    ("lone_line", _lone_line, True),
    ("leading", _leading, True),
    ("bold", _bold, False),
    ("sole_letter", _sole_letter, False),
    ("option_text", _option_text, False),
)
