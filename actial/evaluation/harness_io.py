"""Exchange files with the public harnesses, which do not install beside Hydra (antlr4 pins).

Out: a VLMEvalKit TSV and an lmms-eval task. In: what either harness says a model answered, to be
graded by us.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actial.config import BenchmarkConfig
from actial.core.atomic_io import atomic, write_text
from actial.core.errors import UserError
from actial.core.json_lines import parse_json
from actial.core.multiple_choice_format import LETTERS, answer_position
from actial.core.records import FinishReason
from actial.evaluation.benchmark_results import style_of
from actial.evaluation.benchmarks.base import Benchmark, Item, Picture, Style
from actial.evaluation.benchmarks.prompts import prompt_text

OPTION_COLUMNS = 6  # at least


# ---------------------------------------------------------------- out


def export_vlmeval(items: Sequence[Item], path: Path) -> None:
    """Write a multiple-choice TSV for $LMUData: images are base64 of their own bytes.

    The index is an integer below a million.

    Raises:
        UserError: an item has no options, which that form cannot hold.
    """
    closed(items, "a VLMEvalKit TSV")
    width = max([OPTION_COLUMNS, *(len(item.options) for item in items)])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
        first, last = ["index", "question", "hint"], ["answer", "category", "image", "uid"]
        writer.writerow([*first, *LETTERS[:width], *last])
        for index, item in enumerate(items):
            options = [as_pandas_keeps_it(option) for option in item.options]
            options += [""] * (width - len(item.options))
            row = [
                index,
                item.question,
                item.hint,
                *options,
                LETTERS[item.answer_index],
                item.type,
                _image_cell(item),
                item.uid,
            ]
            writer.writerow(row)
        text.detach()


# What pandas, with which the harness reads, takes for a missing value.
MISSING = {
    "",
    "#N/A",
    "N/A",
    "NA",
    "n/a",
    "nan",
    "NaN",
    "NULL",
    "null",
    "None",
    "<NA>",
    "-nan",
}


def as_pandas_keeps_it(option: str) -> str:
    """Return an option that pandas' own reader leaves as it is.

    Numbers would become floats ("4" is printed as "4.0") and names of missing values would vanish;
    a no-break space behind them prevents both.
    """
    try:
        float(option)
    except ValueError:
        return f"{option}\u00a0" if option in MISSING else option
    return f"{option}\u00a0"


def _image_cell(item: Item) -> str:
    encoded = [base64.b64encode(picture_data(picture)).decode() for picture in item.images]
    return encoded[0] if len(encoded) == 1 else str(encoded)


def picture_data(picture: Picture) -> bytes:
    return picture.read_bytes() if isinstance(picture, Path) else picture


def closed(items: Sequence[Item], form: str) -> None:
    for item in items:
        if not item.options:
            raise UserError(
                f"{item.uid} has no options, so {form} cannot hold it: export a multiple-choice "
                "set."
            )


LMMS_YAML = """\
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {parquet}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: {max_tokens}
  until: []  # without it some adapters cut at the first blank line
  temperature: 0
  do_sample: false
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
metadata:
  - version: 1.0
"""
LMMS_UTILS = '''\
"""Task functions for lmms-eval. The harness's own figure is a first look: actial.score grades its
samples file with the full set of rules."""

import io
import re

from PIL import Image


def doc_to_visual(doc):
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in doc["images"]]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["prompt"]


def process_results(doc, results):
    tail = results[0].rpartition("</think>")[2]
    tags = re.findall(r"<answer>(.*?)</answer>", tail, re.DOTALL | re.IGNORECASE)
    last = chr(ord("A") + len(doc["options"]) - 1)
    letters = re.findall(rf"\\b([A-{last}])\\b", tags[-1] if tags else tail)
    return {"accuracy": float(bool(letters) and letters[-1] == doc["answer"])}
'''


def lmms_style(config: BenchmarkConfig, benchmark: Benchmark) -> Style:
    """Return the style of exported prompts: one that asks for a letter, unless config says so.

    The harness sends no system prompt, in which other styles ask for the form of the answer.
    """
    style = style_of(config, benchmark)
    return Style.LETTER if style is Style.THINK and not config.style else style


def export_lmms(
    items: Sequence[Item], folder: Path, name: str, style: Style, max_tokens: int
) -> None:
    """Write a task folder for `lmms_eval --include_path`, with the prompts as we ask them.

    Files: NAME.yaml, utils.py and NAME.parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    closed(items, "an lmms-eval task")
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "uid": item.uid,
            "images": [picture_data(picture) for picture in item.images],
            "prompt": prompt_text(item, style),
            "options": list(item.options),
            "answer": LETTERS[item.answer_index],
            "category": item.type,
        }
        for item in items
    ]
    parquet = folder / f"{name}.parquet"
    with atomic(parquet) as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
    write_text(folder / "utils.py", LMMS_UTILS)
    write_text(
        folder / f"{name}.yaml",
        LMMS_YAML.format(
            name=name,
            parquet=json.dumps(str(parquet.resolve())),  # a path may hold YAML's own signs
            max_tokens=max_tokens,
        ),
    )


# ---------------------------------------------------------------- in


Answer = tuple[str, FinishReason | None]  # raw text, and why it ended where that is known


@dataclass(slots=True)
class Answers:
    """Answers by key; `keys` gives every item's: its uid, its name in the benchmark's file, or its
    position."""

    keys: Callable[[Sequence[Item]], list[str]]
    answers: dict[str, Answer]
    # What the harness took for the correct answer, where it says so.
    truths: dict[str, str] = field(default_factory=dict)


def read_answers(path: Path, items: Sequence[Item]) -> dict[str, Answer]:
    """Return uid -> answer, of a file of ours, of lmms-eval or of VLMEvalKit.

    Args:
        path: predictions.jsonl, lmms-eval's samples (.jsonl), or VLMEvalKit's predictions (.xlsx,
            .tsv, .json).
        items: of the benchmark.

    Raises:
        UserError: unknown form, an answer twice, items without an answer, or rows with other
            correct answers than the items (the harness ran on another revision, or in another
            order).
    """
    if not path.is_file():
        raise UserError(
            f"predictions={path} is no file: give a predictions file of ours, of lmms-eval or of "
            "VLMEvalKit."
        )
    read = _jsonl(path) if path.suffix == ".jsonl" else _vlmeval(path)
    keys = read.keys(items)
    missing = [
        item.uid for item, key in zip(items, keys, strict=True) if key not in read.answers
    ]
    if missing:
        raise UserError(
            f"{path} has no answer to {len(missing)} of {len(items)} questions, the first "
            f"{missing[0]}: {_why_missing(read, items, missing)}."
        )
    for item, key in zip(items, keys, strict=True):
        _check_truth(path, item, key, read.truths.get(key))
    return {item.uid: read.answers[key] for item, key in zip(items, keys, strict=True)}


def _why_missing(read: Answers, items: Sequence[Item], missing: Sequence[str]) -> str:
    """Return the remedy: rows numbered by the harness itself belong to its own TSV."""
    numbered = all(key.isdigit() for key in read.answers)
    if len(missing) == len(items) and numbered and read.keys is _rows:
        return "its rows are numbers of the harness's own TSV; score them with benchmark=tsv"
    if read.keys is _uids:
        return "answer them all, or give benchmark.limit, .circular and .split as it was made with"
    return "run the harness to its end"


def _check_truth(path: Path, item: Item, key: str, truth: str | None) -> None:
    if truth is None or not item.options:
        return
    try:
        position = answer_position(truth, item.options, item.uid)
    except UserError:
        return  # written in a way of the harness's own
    if position != item.answer_index:
        ours = LETTERS[item.answer_index]
        raise UserError(
            f"{path}: the right answer of row {key} is {truth}, of {item.uid} it is {ours}: the "
            "harness ran on another revision, or its rows have other names or another order; score "
            "the files that it read."
        )


def _uids(items: Sequence[Item]) -> list[str]:
    return [item.uid for item in items]


def _rows(items: Sequence[Item]) -> list[str]:
    return [str(item.source_index) for item in items]


def _places(items: Sequence[Item]) -> list[str]:
    return [str(place) for place in range(len(items))]


def _jsonl(path: Path) -> Answers:
    """Read ours by uid, lmms-eval's by doc_id, the position in the set.

    Of lmms-eval the raw response before the task's own filters is taken; where both are equal the
    harness leaves the raw one out.
    """
    rows, truths, ours = [], {}, False
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            ours = "uid" in row
            text = row["text"] if ours else _response(row)
            if not isinstance(text, str):
                raise TypeError
            finish = FinishReason(row["finish"]) if row.get("finish") else None
            key = row["uid"] if ours else row["doc_id"]
            rows.append((key, (text, finish)))
            truths[str(key)] = str(row.get("answer" if ours else "target", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path} line {number} has neither uid and text nor doc_id and resps: give ours or "
                "lmms-eval's samples."
            ) from None
    return Answers(_uids if ours else _places, _once(path, rows), truths)


def _response(row: dict[str, Any]) -> str:
    """Return the raw response of a sample; "" where the harness got none (null or no entry).

    Raises:
        KeyError: the row is no sample.
    """
    text = row["resps"] if "resps" in row else row["filtered_resps"]
    while isinstance(text, list):
        text = text[0] if text else None
    return "" if text is None else str(text)


def _vlmeval(path: Path) -> Answers:
    """By the uid that our TSV carries along, else by the row's index in the benchmark's file."""
    import pandas as pd

    readers = {
        # an answer "None" is text, an empty cell is no answer
        ".xlsx": lambda: pd.read_excel(path, dtype=str, keep_default_na=False),
        ".tsv": lambda: pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False),
        # with null beside it the answer 3 would become 3.0
        ".json": lambda: pd.DataFrame(parse_json(path.read_text("utf-8-sig")), dtype=object),
    }
    if path.suffix not in readers:
        raise UserError(
            f"predictions={path} has the ending {path.suffix}: give .jsonl, .xlsx, .tsv or .json."
        )
    try:
        frame = readers[path.suffix]()
    except (ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not a readable {path.suffix} file ({str(error).splitlines()[0]}): "
            "copy it again."
        ) from None
    if not {"index", "prediction"} <= set(frame.columns):
        raise UserError(
            f"{path} lacks the columns index and prediction of VLMEvalKit's output; it has "
            f"{', '.join(map(str, frame.columns))}."
        )
    name = "uid" if "uid" in frame.columns else "index"
    if name == "uid" and frame["uid"].duplicated().any():
        frame = _without_circular_copies(frame)
    rows = [
        (key, (str(text), None))
        for key, text in zip(frame[name], frame["prediction"].fillna(""), strict=True)
    ]
    truths = (
        dict(zip(map(str, frame[name]), map(str, frame["answer"]), strict=True))
        if "answer" in frame.columns
        else {}
    )
    return Answers(_uids if name == "uid" else _rows, _once(path, rows), truths)


CIRCULAR_OFFSET = 1_000_000  # `vlmutil circular` numbers the rotations of a row so far apart


def _without_circular_copies(frame: Any) -> Any:
    """Return the rows in their own order of options; copies by `vlmutil circular` keep the uid."""
    return frame[frame["index"].astype(int) < CIRCULAR_OFFSET]


def _once(path: Path, rows: Sequence[tuple[Any, Answer]]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for key, answer in rows:
        if str(key) in answers:
            raise UserError(
                f"{path} answers question {key} twice: merge the runs' files into one."
            )
        answers[str(key)] = answer
    return answers
