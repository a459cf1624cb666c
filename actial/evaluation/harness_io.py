"""Write benchmarks for the public harnesses, which do not install beside Hydra (antlr4 pins).

They are a VLMEvalKit TSV and an lmms-eval task; `harness_answers` reads what a model answered.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from actial.config import BenchmarkConfig
from actial.core.atomic_io import atomic, write_text
from actial.core.errors import UserError
from actial.core.multiple_choice_format import LETTERS
from actial.core.text_files import is_number
from actial.evaluation.benchmark_results import style_of
from actial.evaluation.benchmarks.base import Benchmark, Item, Picture, Style
from actial.evaluation.benchmarks.prompts import prompt_text

OPTION_COLUMNS = 6  # at least
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


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
            # An empty option between others is one as well.
            options = [as_pandas_keeps_it(option) or NO_BREAK_SPACE for option in item.options]
            options += [""] * (width - len(item.options))
            row = [
                index,
                as_pandas_keeps_it(item.question),
                as_pandas_keeps_it(item.hint),
                *options,
                LETTERS[item.answer_index],
                as_pandas_keeps_it(item.type),
                _image_cell(item),
                item.uid,
            ]
            writer.writerow(row)
        text.detach()


# What pandas, with which the harness reads, takes for a missing value or a truth value.
MISSING = {
    *("#N/A", "#N/A N/A", "#NA", "N/A", "NA", "n/a", "<NA>", "None", "NULL", "null"),
    *("nan", "NaN", "-nan", "-NaN", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
}
TRUTH_VALUES = {"true", "false"}


def as_pandas_keeps_it(text: str) -> str:
    """Return a text that pandas' own reader leaves as it is; an empty one stays empty.

    Numbers would become floats ("4" is printed as "4.0"), "true" would become
    "True" and names of missing values would vanish; a no-break space behind them
    prevents it.
    """
    altered = text in MISSING or text.lower() in TRUTH_VALUES or is_number(text)
    return text + NO_BREAK_SPACE if altered else text


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
