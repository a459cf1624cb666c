"""A prediction with every field filled."""

from __future__ import annotations

from actial.grading.metrics import Prediction


def prediction(uid, score, kind="", **fields):
    base = {
        "text": "",
        "letter": "A",
        "choice": "x",
        "answer": "A",
        "rule": "whole",
        "outcome": "parsed",
        "format_ok": True,
        "finish": None,
    }
    return Prediction(uid=uid, score=float(score), type=kind, **base, **fields)
