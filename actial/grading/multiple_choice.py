"""Read which option a completion names: one reader for rewards, evaluation and re-scoring.

`grade` walks the rules of `option_rules.RULES` and reports which one read the answer.
The rules with examples are in docs/grading.md; published readers are imitated for
comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from actial.core.errors import UserError
from actial.core.multiple_choice_format import LETTERS
from actial.core.records import FinishReason, Grade, Outcome
from actial.grading.answer import Answer
from actial.grading.answer_text import answer_region, format_ok
from actial.grading.easi_readers import EASI_READERS
from actial.grading.option_rules import decided_letter
from actial.grading.published_readers import READERS
from actial.grading.quantities import positions_as_letters, quantities_as_options


class Compat(StrEnum):
    """How answers are read."""

    LADDER = "ladder"  # ours
    ACTIAL = "actial"  # the release's reward
    ACTIAL_EVAL = "actial_eval"  # the release's evaluation client
    ACTIAL_MMSI = "actial_mmsi"  # the same for MMSI-Bench and ViewSpatial-Bench
    VLMEVAL_EXACT = "vlmeval_exact"  # VLMEvalKit without a judge, as the release froze it
    EASI = "easi"  # EASI's own matching
    VLMEVAL_2026 = "vlmeval_2026"  # VLMEvalKit without a judge, as EASI runs it


def grade(
    text: str,
    options: Sequence[str],
    answer_index: int,
    finish: FinishReason | None = None,
    compat: Compat | str = Compat.LADDER,
) -> Grade:
    """Read which of `options` the output names and compare it with the correct one.

    Args:
        text: decoded completion without the end-of-turn token.
        options: displayed option texts in order; option i has letter "ABC.."[i]. 1 to 26 of them.
        answer_index: position of the correct option.
        finish: why sampling stopped. LENGTH turns an unparsed answer into TRUNCATED, and then a
            rule that guesses from unfinished text does not apply.
        compat: a `Compat` value.

    Returns:
        The grade; an answer that cannot be read is wrong.

    Raises:
        UserError: answer_index lies outside the options, or the compat mode is unknown.
    """
    if not 0 <= answer_index < len(options) <= len(LETTERS):
        raise UserError(
            f"answer_index={answer_index} does not fit {len(options)} options: "
            "give the 0-based position of the correct one."
        )
    try:
        mode = Compat(compat)
    except ValueError:
        modes = ", ".join(m.value for m in Compat)
        raise UserError(f"compat={compat} is unknown: use one of {modes}.") from None
    unfinished = finish is FinishReason.LENGTH
    readers = READERS | EASI_READERS
    if mode.value in readers:
        letter, rule = readers[mode.value](text, options)
    else:
        region = answer_region(text)
        letter, rule = None, "none"
        if region is None:
            unfinished = True
        else:
            complete = region.tagged or not unfinished
            letter, rule = read_option(region.text, options, complete=complete)
    outcome = Outcome.PARSED
    if letter is None:
        outcome = Outcome.TRUNCATED if unfinished else Outcome.NO_ANSWER
    return Grade(
        letter=letter,
        rule=rule,
        outcome=outcome,
        value=float(letter == LETTERS[answer_index]),
        format_ok=format_ok(text),
    )


def read_option(
    text: str, options: Sequence[str], complete: bool = True
) -> tuple[str | None, str]:
    """Return the letter of the option that a text names, and the rule that read it.

    Args:
        text: what follows the chain of thought, or an answer tag's body.
        options: displayed option texts in order.
        complete: False for an output that was cut; only rules whose writer has committed apply
            then.

    Returns:
        (None, "none") where no option, or no single one, is named.
    """
    answer = Answer(text, options)
    letter, rule = decided_letter(answer, complete)
    if letter is None:
        for name, rewritten in (
            ("quantity", quantities_as_options(answer.text, options)),
            ("position", positions_as_letters(answer.text, len(options))),
        ):
            if letter is None and rewritten != answer.text:
                letter, _ = decided_letter(Answer(rewritten, options), complete)
                rule = name
    return (letter, rule) if letter else (None, "none")
