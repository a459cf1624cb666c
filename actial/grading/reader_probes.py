"""Tell two versions of an answer reader apart by what they read from fixed answers."""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256

from actial.core.records import FinishReason
from actial.grading.multiple_choice import Compat, grade
from actial.grading.open_ended import METRICS, grade_open

# Answers on which readers differ: rejections, pairs, lists, tags, numbers, forms of a statement.
PROBES = (
    "B",
    "(b)",
    "B. right",
    "right",
    "not right",
    "no movement",
    "<think>A</think><answer>B</answer>",
    "<answer>b. right</answer>",
    "<answer>A</answer> no, <answer>B</answer>",
    "<answer>Because</answer>",
    "The answer is B.",
    "The answer is not A.",
    "Answer: A or B",
    "A. left\nB. right\nThe answer is B.",
    "A is wrong, so B",
    "I looked at both images.\nB\nbecause of the chair, not A",
    "**Answer**\n\n(B)\n\nThe wall is closer.",
    "`B`",
    "\\boxed{\\text{B}}",
    "**B**",
    "So **B** it is",
    "I think it moved to the right, not to the left.",
    "I cannot tell",
    "Option B is correct",
    "either A or B, but I choose B",
    "image A shows the right side",
    "\u7b54\u6848\uff1aB",
    "<think>It may be A",
    "12.5",
    "12.5 meters",
    "between 5 and 6 meters",
    "1,200",
    "-3e1",
    "seven",
    "3.0",
    "yes, it is",
    "r,A",
    "move_right:1.0,rotate_left:20",
    # kinds that were added later: verdicts, corrections, quantities, bounds, remarks, articles
    "| A | wrong |\n| B | correct |",
    '{"A": "no", "B": "yes"}',
    "A. No wait, B.",
    "The answer is B. Wait, that is wrong.",
    "~~A~~ B",
    "\\boxed{B}, not \\boxed{A}",
    "1250 cm",
    "twelve hundred",
    "five meters",
    "thirty degrees",
    "more than 5 meters",
    "12.5 meters or more",
    "12.5\u201314 meters",
    "<reason>The answer is A</reason>B",
    "B<explanation>A is wrong</explanation>",
    "< think >A</ think >B",
    "<answer>B<answer>",
    "If the camera moved, then B",
    "There is no chair.",
    "chair",
    "right (not left)",
    "\u4e0d\u80fd\u9009B",
    "B \u306f\u9593\u9055\u3044",
    "B\uac00 \uc815\ub2f5\uc774 \uc544\ub2d9\ub2c8\ub2e4",
    "La B es incorrecta",
    "insufficient evidence for B",
    "The final_answer is B",
    "In front of door B",
    # takes back by its next sentence, idioms of "right", numbers of images, places, check boxes
    "B. This is incorrect.",
    "B is unsupported",
    "This contradicts B",
    "You're right, it moved.",
    "The right wall is visible",
    "At most 5 meters",
    "5 meters at most",
    "In image 1200 there is a chair",
    "the second option",
    "the first or the second option",
    "- [ ] A\n- [x] B",
    "Answer: (A)(B)",
    "That leaves B.",
    "Q: Which way?\nA: right",
    "A: right",
    "The user might expect B",
    "B\u4e0d\u7b26\u5408",
    "\u5e94\u8be5\u662fB",
    "\u56feB",
    # doubts, and forms that were read wrongly or not at all
    "It could be right.",
    "Perhaps B",
    "B\u53ef\u80fd\u5bf9",
    "One possible answer is B.",
    "The previous answer was B.",
    "My friend says B.",
    "Team B",
    "B lacks evidence.",
    "B fits best.",
    "B\u6709\u70b9\u95ee\u9898",
    "Had it moved, B would be the answer.",
    "The answer is B and",
    "B or something else",
    "B implies a shift to the left",
    "The chair is the farthest, not the closest.",
    "next to the chair",
    "the chair leg",
    "The objects shifted to the right.",
    "The man's right hand",
    "<answer>A</answer> or <answer>B</answer>",
    "far-right",
    "It moved to the left because the objects shifted to the right.",
    "Since it shifts left, B is correct.",
    "Answer: A\nCorrection: B",
    "12,5 Meter",
    "two and ten, so 1200 in total",
    "5 m/s",
    "which corresponds to option B",
    "\\frac{1}{3}",
    "The camera moved to the right.",
    "The cup moved right.",
    # other senses of an option's word, a second option denied, forms of a direction, cut outputs
    "Right, let me look.",
    "The door on the left is closed.",
    "room 1200",
    "It moved left, not right.",
    "rightwards",
    "The camera did not move.",
    "\u201330",
    "No, I cannot answer this.",
    "A is the first image.",
    "\u9009\u9879A\u548c\u9009\u9879B\u90fd\u4e0d\u5bf9",
    "The answer is B. But wait, the",
)
OPTION_SETS = (
    ("left", "right", "no movement"),
    ("5 meters", "12.5 meters", "1200", "-30"),
    ("no", "yes", "the chair", "30 degrees"),
    ("move to the left", "move to the right"),
)
TRUTHS = {"yes_no": "yes", "exact": "right", "contains": "right", "joint": "r,A", "count": "3"}


@cache
def reader_fingerprint(compat: str) -> str:
    """Return a hash of what a reader reads from the probes, numbers and texts included."""
    readings: list[object] = []
    for text in PROBES:
        for options in OPTION_SETS:
            for finish in (None, FinishReason.LENGTH):
                result = grade(text, options, 0, finish, Compat(compat))
                readings.append((result.letter, result.rule, result.outcome.value))
        for metric in sorted(METRICS):
            truth = TRUTHS.get(metric, "7")
            result, read = grade_open(text, metric, truth)
            readings.append((result.value, read))
    return sha256(json.dumps(readings).encode()).hexdigest()[:12]
