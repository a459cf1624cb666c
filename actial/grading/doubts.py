"""What makes a letter that a rule read too doubtful to credit.

A letter stays unread where the answer's end takes it back, or where each of its mentions is in
doubt: a bare possibility, an alternative left open, another's opinion, another thing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from actial.core.multiple_choice_format import LETTERS
from actial.grading.answer import Answer
from actial.grading.answer_phrases import CLAUSE_START, SENTENCE_END
from actial.grading.answering_position import bare_before, bare_behind, stands_as_answer
from actial.grading.correction_phrases import (
    LIST_BEGINS,
    RECONSIDERS,
    RETRACTION,
    TAKEN_BACK,
)
from actial.grading.doubt_phrases import (
    ADJECTIVE,
    BEHIND_SIDE,
    CHANCE,
    CHANCE_BEHIND,
    COMMITTED,
    DENIED,
    EXPLAINED,
    FORMER,
    IF,
    IN_IMAGE,
    INVERTED,
    LEFT_OPEN,
    MOTION,
    MOVES_ON,
    MOVING,
    NAMED_IMAGE,
    OBSERVER,
    OF_THING,
    OPINION,
    OPPOSED,
    OR_BEFORE,
    OWNED,
    PLACED,
    POSSIBLE,
    POSSIBLE_BEHIND,
    SEVERAL_QUESTIONS,
    SIDE_OF_THING,
    SIDES,
    STANDS,
    WOULD,
    WOULD_BE,
)
from actial.grading.mention import Mention
from actial.grading.option_texts import MOTION_OPTION, without_article
from actial.grading.word_senses import in_another_sense

BARE_VERDICTS = ("yes", "no", "true", "false")
WINDOW = 160  # characters of context that are read before a mention

Doubt = Callable[[Answer, Mention], bool]


def in_doubt(answer: Answer, letter: str) -> bool:
    """Return whether an answer leaves open that it names a letter which a rule read from it."""
    if _retracted(answer, letter):
        return True
    own = [m for m in answer.standing if m.letter == letter]
    own = [m for m in own if not m.by_text] or own  # the words "right" do not vouch for a "B"
    return bool(own) and all(any(doubt(answer, m) for _, doubt in DOUBTS) for m in own)


def goes_on(answer: Answer, letter: str) -> bool:
    """Return whether an output that was cut was still weighing the option that it names.

    "B. But wait, the", "(B) right: in this case the", "It could be that the answer is B".
    """
    text = answer.text
    own = [m for m in answer.standing if m.letter == letter]
    if not own:
        return False
    last = own[-1]
    if RECONSIDERS.search(text, last.end) or LIST_BEGINS.search(text[: last.end]):
        return True
    if POSSIBLE.search(_before(text, last)[0]):
        return True
    with_text = last.end > last.start + 1 and not last.stated
    return with_text and text.startswith(":", last.end)


def _retracted(answer: Answer, letter: str) -> bool:
    """Return whether the end takes the answer back without another: "B. Wait, that is wrong."."""
    mentions = [m for group in answer.groups for m in group.mentions]
    own = [m for m in mentions if m.letter == letter]
    last = max((m.end for m in [m for m in own if not m.by_text] or own), default=0)
    patterns = [RETRACTION]
    if answer.plain_options[LETTERS.index(letter)] not in BARE_VERDICTS:
        patterns.append(TAKEN_BACK)  # "No, it is not." is no
    for pattern in patterns:
        match = pattern.search(answer.text, last)
        if match and not any(last <= m.start < match.start() for m in mentions):
            return True
    return False


def _before(text: str, mention: Mention) -> tuple[str, str]:
    """Return the sentence and the clause up to a mention."""
    window = text[max(0, mention.start - WINDOW) : mention.start]
    sentence = window[_last_end(SENTENCE_END, window) :]
    return sentence, sentence[_last_end(CLAUSE_START, sentence) :]


def _last_end(pattern: re.Pattern[str], text: str) -> int:
    return max((match.end() for match in pattern.finditer(text)), default=0)


# ---------------------------------------------------------------- possibilities and opinions


def _only_possible(answer: Answer, mention: Mention) -> bool:
    """Return whether an option is only called possible, by a writer who commits to none."""
    sentence, clause = _before(answer.text, mention)
    behind = POSSIBLE_BEHIND.match(answer.text, mention.end)
    if behind is None and (POSSIBLE.search(clause) is None or COMMITTED.search(sentence)):
        return False
    rejected = {m.letter for g in answer.groups for m in g.mentions if m.rejected}
    return not rejected >= set(answer.letters) - {mention.letter}  # "not A, nor C. Perhaps B."


def _one_of_several(answer: Answer, mention: Mention) -> bool:
    """Return whether an option is one of several possible ones, or answers one of two questions."""
    sentence, _ = _before(answer.text, mention)
    behind = CHANCE_BEHIND.match(answer.text, mention.end)
    if behind is not None or CHANCE.search(sentence) is not None:
        return True
    return SEVERAL_QUESTIONS.search(answer.text) is not None


def _opinion_of_another(answer: Answer, mention: Mention) -> bool:
    """Return whether somebody else names an option, or the writer at an earlier time."""
    sentence, clause = _before(answer.text, mention)
    head = sentence if sentence.lower().startswith("according") else clause
    return OPINION.search(head) is not None or FORMER.search(clause) is not None


def _no_place_of_an_answer(answer: Answer, mention: Mention) -> bool:
    """Return whether a letter that nothing states stands beside words that answers do not have."""
    if mention.by_text or mention.stated or mention.marked:
        return False
    return not stands_as_answer(answer.text, mention)


def _conditional(answer: Answer, mention: Mention) -> bool:
    """Return whether the sentence starts with a condition on which an option depends."""
    sentence, _ = _before(answer.text, mention)
    would = WOULD.match(answer.text, mention.end) is not None or WOULD_BE.search(sentence)
    if INVERTED.match(sentence):
        return bool(would) or not mention.stated  # "Assuming that it stands, the answer is B"
    return bool(would) and IF.match(sentence) is not None


# ---------------------------------------------------------------- what a mention goes on with


def _left_open(answer: Answer, mention: Mention) -> bool:
    """Return whether an alternative follows that is no option, or that the text breaks off."""
    match = LEFT_OPEN.match(answer.text, mention.end)
    if match is None:
        joined = any(
            m is mention for g in answer.groups if len(g.mentions) > 1 for m in g.mentions
        )
        before = answer.text[max(0, mention.start - 40) : mention.start]
        return not joined and OR_BEFORE.search(before) is not None
    near = range(match.end(), match.end() + 12)
    return not any(m.start in near for group in answer.groups for m in group.mentions)


def _explained(answer: Answer, mention: Mention) -> bool:
    """Return whether the sentence only says what an option means, or denies it in the end."""
    if not mention.stated and DENIED.match(answer.text, mention.end):
        return True
    return mention.by_text and EXPLAINED.match(_before(answer.text, mention)[0]) is not None


def _opposed(answer: Answer, mention: Mention) -> bool:
    """Return whether the sentence gives an option one end of a scale and denies the other."""
    return OPPOSED.match(answer.text, mention.end) is not None


# ---------------------------------------------------------------- other things than the option


def _another_thing(answer: Answer, mention: Mention) -> bool:
    """Return whether an option's text only belongs to the name or the place of another thing."""
    if not mention.by_text or mention.stated:
        return False
    displayed = answer.plain_options[LETTERS.index(mention.letter)]
    if {"a ", "b "} <= {option[:2] for option in answer.plain_options}:
        return False  # "A is closer" names a point and no noun
    option = without_article(displayed)
    nested = any(other.endswith(f" {option}") for other in answer.plain_options)
    if nested and not bare_before(answer.text, mention):
        return True  # "bright red" beside "red" and "dark red"
    if SIDES.match(option) or option in BARE_VERDICTS:
        return False
    if PLACED.search(answer.text[max(0, mention.start - 40) : mention.start]):
        return True
    if ADJECTIVE.fullmatch(option) or (displayed == option and " " in option):
        return False
    return not (bare_before(answer.text, mention) and bare_behind(answer.text, mention))


def _side_of_scene(answer: Answer, mention: Mention) -> bool:
    """Return whether "left" or "right" is a side of an image or a body, and no motion."""
    option = answer.plain_options[LETTERS.index(mention.letter)]
    if not mention.by_text or mention.stated or option not in ("left", "right"):
        return False
    before = answer.text[max(0, mention.start - 20) : mention.start]
    if OWNED.search(before) and SIDE_OF_THING.match(answer.text, mention.end):
        return True
    if not any(MOTION.search(other) for other in answer.plain_options):
        return False
    sentence, _ = _before(answer.text, mention)
    if OBSERVER.search(sentence):
        return False
    if STANDS.search(sentence) and OF_THING.match(answer.text, mention.end):
        return True
    behind = BEHIND_SIDE.match(answer.text, mention.end)
    return behind is not None or IN_IMAGE.search(sentence) is not None


def _motion_of_another(answer: Answer, mention: Mention) -> bool:
    """Return whether a motion in other words than the option's is a thing's, or goes on."""
    option = answer.plain_options[LETTERS.index(mention.letter)]
    if not mention.by_text or MOTION_OPTION.fullmatch(option) is None:
        return False
    if MOVES_ON.match(answer.text, mention.end):
        return True
    if answer.text[mention.start : mention.end].casefold() == option:
        return False
    _, clause = _before(answer.text, mention)
    return MOVING.search(clause) is None


def _names_an_image(answer: Answer, mention: Mention) -> bool:
    """Return whether a letter that nothing states names an image: "A is the first image"."""
    if mention.by_text or mention.stated:
        return False
    return NAMED_IMAGE.match(answer.text, mention.end) is not None


def _another_sense(answer: Answer, mention: Mention) -> bool:
    """Return whether an option's word has another sense, as in "Right, let me look"."""
    if not mention.by_text or mention.stated:
        return False
    option = answer.plain_options[LETTERS.index(mention.letter)]
    of_motion = any(MOTION.search(other) for other in answer.plain_options)
    return in_another_sense(answer.text, mention, option, of_motion=of_motion)


# Name, and whether it leaves a mention in doubt.
DOUBTS: Sequence[tuple[str, Doubt]] = (
    ("only possible", _only_possible),
    ("one of several", _one_of_several),
    ("opinion of another", _opinion_of_another),
    ("no place of an answer", _no_place_of_an_answer),
    ("conditional", _conditional),
    ("left open", _left_open),
    ("explained", _explained),
    ("opposed", _opposed),
    ("another thing", _another_thing),
    ("side of the scene", _side_of_scene),
    ("motion of another", _motion_of_another),
    ("another sense", _another_sense),
    ("name of an image", _names_an_image),
)
