"""Turn a benchmark's items into examples; images are decoded on demand and resized."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image, ImageOps

from actial.config import ImageConfig
from actial.core.errors import UserError
from actial.core.image_codec import UNREADABLE
from actial.core.records import AnswerMode, Example, Question
from actial.core.set_records import BenchmarkRecord
from actial.data.images import fitted_size
from actial.data.photos import photo_rgb
from actial.evaluation.benchmarks.base import Item, Picture, Style
from actial.evaluation.benchmarks.prompts import prompt_text

EMPTY = np.zeros((0, 0, 3), np.uint8)


class BenchmarkExamples(Sequence[Example]):
    """A lazily loaded sequence of one-question examples."""

    def __init__(
        self,
        items: Sequence[Item],
        style: Style,
        *,
        multiple: int,
        min_pixels: int,
        max_pixels: int,
        square: bool = False,
    ) -> None:
        self.items, self.style = items, style
        self.min_pixels = min_pixels
        self.sizes = ImageConfig(multiple=multiple, max_pixels=max_pixels, square=square)

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.in_style(index, self.style)

    def in_style(self, index: int, style: Style) -> Example:
        """Return an item as an example whose question is put in a style."""
        item = self.items[index]
        images = [
            fit(decode(picture, item.uid), self.sizes, self.min_pixels)
            for picture in item.images
        ]
        return as_example(item, style, images)

    def outline(self, index: int) -> Example:
        """Return an item as an example with empty images, which need no decoding."""
        item = self.items[index]
        return as_example(item, self.style, [EMPTY] * len(item.images))

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))


def as_example(item: Item, style: Style, images: list[np.ndarray]) -> Example:
    """The item's question in a style, about pictures already at the size the model sees."""
    question = Question(
        uid=item.uid,
        type=item.type,
        text=prompt_text(item, style),
        options=item.options,
        answer_index=item.answer_index,
        mode=AnswerMode.DIRECT if style is Style.LETTER else AnswerMode.THINK,
    )
    record = BenchmarkRecord(
        categories=item.categories, circular=item.circular, open=item.open
    )
    text_first = style is Style.DATASET_TEXT_FIRST
    return Example(
        uid=item.uid,
        images=images,
        questions=[question],
        task="benchmark",
        record=record,
        text_first=text_first,
    )


def decode(picture: Picture, name: str) -> np.ndarray:
    """uint8 (H, W, 3), turned upright as its EXIF tag says, transparency on white."""
    try:
        with Image.open(
            picture if isinstance(picture, Path) else io.BytesIO(picture)
        ) as image:
            return photo_rgb(ImageOps.exif_transpose(image))
    except UNREADABLE as error:
        raise UserError(
            f"a picture of {name} cannot be read ({error}): fetch the file again."
        ) from None


def fit(pixels: np.ndarray, sizes: ImageConfig, min_pixels: int) -> np.ndarray:
    """Resize to a size that `sizes` allows, of at least `min_pixels`.

    The aspect ratio stays about the same, but for `sizes.square`; only images below the minimum
    are enlarged.
    """
    image = Image.fromarray(pixels)
    width, height = fitted_size(image.width, image.height, sizes)
    if width * height < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        wanted = (width, height)
        if not sizes.square:
            scale = math.sqrt(min_pixels / (image.width * image.height))
            wanted = image.size
        multiple = sizes.multiple
        width, height = (math.ceil(side * scale / multiple) * multiple for side in wanted)
    if (width, height) == image.size:
        return pixels
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
