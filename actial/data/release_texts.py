"""The release's texts, which this repository does not copy, from a clone and rows of its data.

The run script opens its prompt with a stray YAML mark, "|" and a line break,
that was trained with: the text is taken as it stands. The viewpoint set gives
the questions, their layout and the request for a letter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from actial.config import ImportReleaseConfig
from actial.core.atomic_io import write_json, write_text
from actial.core.errors import UserError
from actial.core.json_stream import records
from actial.core.set_records import QuestionType
from actial.modeling.system_prompts import RELEASE_MARKS

RECORD = "release.json"  # the hashes of the texts, beside them
SCRIPTS = ("*.sh", "*.py", "*.json", "*.yaml")
QUOTED = re.compile(r"(?P<mark>\"|')(?P<text>(?:\\.|(?!(?P=mark)).)*)(?P=mark)", re.DOTALL)
OPTIONS = re.compile(
    r"A: (?P<A>.+?)(?P<gap>\s+)B: (?P<B>.+?)\s+C: (?P<C>[^\n.]+?)(?=\s*\n|\s*$|\. )"
)
TURNS = {"rotate to the left", "rotate to the right", "no rotation"}
MOVES = {"move to the left", "move to the right", "no movement"}
OBJECT_VIEW = re.compile(r"object'?s (?:view|perspective)|(?:from|of) the object")


def import_release(config: ImportReleaseConfig) -> str:
    """Write the texts into `config.out`; return what was written, as lines.

    Raises UserError where a text is not found, or three questions cannot be told apart.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    path, prompt = system_prompt(Path(config.release))
    write_text(out / "system_prompt.txt", prompt)
    record = {"system_prompt": {"from": str(path), "sha256": _hash(prompt)}}
    lines = [f"{out / 'system_prompt.txt'}: {len(prompt)} characters of {path}"]
    if config.rows:
        texts = user_texts(Path(config.rows))
        wording = yaml.safe_dump(wording_of(texts), sort_keys=False, allow_unicode=True)
        write_text(out / "wording.yaml", wording)
        record["wording"] = {"from": config.rows, "sha256": _hash(wording)}
        lines.append(f"{out / 'wording.yaml'}: three questions of {config.rows}")
    else:
        lines.append(
            "no wording: give rows=FILE of the viewpoint set to take the questions too"
        )
    write_json(out / RECORD, record)
    return "\n".join(lines)


def system_prompt(release: Path) -> tuple[Path, str]:
    """Return the trained system prompt and the file it stands in: the run script's, if there."""
    if not release.is_dir():
        raise UserError(f"release={release} is no folder: give a clone of the release.")
    for pattern in SCRIPTS:
        for path in sorted(release.rglob(pattern)):
            for text in quoted_texts(path.read_text(encoding="utf-8", errors="replace")):
                if all(mark in text for mark in RELEASE_MARKS):
                    return path, text
    raise UserError(
        f"release={release} has no quoted text with {', '.join(RELEASE_MARKS)}: give a clone of "
        "warmsnow-sh/Actial, or write the prompt into a file yourself."
    )


def quoted_texts(source: str) -> Iterator[str]:
    """Yield the quoted strings of a source file, with their escapes resolved."""
    escapes = {"n": "\n", "t": "\t"}
    for match in QUOTED.finditer(source):
        yield re.sub(
            r"\\(.)", lambda m: escapes.get(m[1], m[1]), match["text"], flags=re.DOTALL
        )


def user_texts(path: Path) -> list[str]:
    """Return the user's turns of a set in ShareGPT's or the chat form, without image marks."""
    texts = []
    for row in records(path):
        turns = row.get("messages") or row.get("conversations") or row.get("prompt")
        if not isinstance(turns, list) or not turns:
            raise UserError(
                f"rows={path} has the columns {', '.join(sorted(row))}: one of messages, "
                "conversations and prompt must hold the turns."
            )
        first_user = next(
            turn for turn in turns if turn.get("role", turn.get("from")) != "system"
        )
        text = str(first_user.get("content", first_user.get("value")))
        texts.append(text.replace("<image>", "").strip())
    return texts


def wording_of(texts: Iterable[str]) -> dict[str, Any]:
    """Return the content of a wording file: the commonest text of each question, and the layout."""
    stems: dict[frozenset[str], Counter[str]] = {}
    rests: Counter[tuple[str, str]] = Counter()
    for text in texts:
        match = OPTIONS.search(text)
        if match is None:
            continue
        options = frozenset(match[letter].strip().lower() for letter in "ABC")
        stem, rest = text[: match.start()], text[match.end() :]
        stems.setdefault(options, Counter())[stem.strip()] += 1
        between = stem[len(stem.rstrip()) :]
        rests[between, rest] += 1
    questions = _questions(stems)
    (between, rest), _ = rests.most_common(1)[0]
    # The release asks for the letter alone whatever its system prompt says about thinking.
    layout = f"{{question}}{between}{{options}}{_gap(rest)}{{instruction}}"
    return {
        "questions": {kind.value: _braced(text) for kind, text in questions.items()},
        "layout": layout,
        "direct_layout": layout,
        "instruction": rest.strip(),
    }


def _questions(stems: Mapping[frozenset[str], Counter[str]]) -> dict[QuestionType, str]:
    turns = stems.get(frozenset(TURNS), Counter())
    moves = stems.get(frozenset(MOVES), Counter())
    from_object = [stem for stem, _ in moves.most_common() if OBJECT_VIEW.search(stem.lower())]
    from_camera = [stem for stem, _ in moves.most_common() if stem not in from_object]
    if not turns or not from_object or not from_camera:
        raise UserError(
            "the rows do not show the three questions (two about movement, of which one from the "
            f"object's view, and one about rotation): seen are {[*moves, *turns][:6]}."
        )
    return {
        QuestionType.EGO_TRANSLATION: from_camera[0],
        QuestionType.OBJECT_TRANSLATION: from_object[0],
        QuestionType.EGO_ROTATION: turns.most_common(1)[0][0],
    }


def _gap(rest: str) -> str:
    return rest[: len(rest) - len(rest.lstrip(" \n"))] or "\n"


def _braced(text: str) -> str:
    """Return a text in which braces are not fields."""
    return text.replace("{", "{{").replace("}", "}}")


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()
