"""Render the package's HTML pages: one file each, no network, every text escaped.

`render_page` fills a template of actial/assets that extends page.html.j2, which
holds the style. Pages made of headings, lists, tables, bars and images need no
template of their own: `render_sections`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from actial.core.image_codec import data_url
from actial.core.paths import ASSETS


@dataclass(slots=True, kw_only=True)
class Card:
    """A question with its images and choices."""

    images: Sequence[str]  # data URLs
    text: str
    choices: Sequence[str] = ()
    highlighted: int = -1  # position of the choice in bold


@dataclass(slots=True, kw_only=True)
class Figure:
    """An image and the lines below it, which wrap at its width however long their words are."""

    image: str  # data URL
    width: int  # pixels
    caption: Sequence[str] = ()


@dataclass(slots=True, kw_only=True)
class Section:
    """One section of a page; what is empty is left out."""

    heading: str = ""
    text: str = ""
    warnings: Sequence[str] = ()  # without a final period
    lines: Sequence[str] = ()
    counts: Mapping[str, int] = field(default_factory=dict)  # name -> count, drawn as bars
    head: Sequence[str] = ()  # of the table
    rows: Sequence[Sequence[Any]] = ()
    figures: Sequence[Figure] = ()
    cards: Sequence[Card] = ()

    @property
    def largest(self) -> int:
        return max([1, *self.counts.values()])


def render_page(template: str, **values: Any) -> str:
    """Fill the template actial/assets/<template>; every value is escaped unless marked safe there.

    Raises:
        jinja2.UndefinedError: the template needs a value that is not given.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)


def render_sections(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """Return a page of sections."""
    return render_page("sections.html.j2", title=title, subtitle=subtitle, sections=sections)


def image_url(image: Image.Image, quality: int = 85) -> str:
    """Return an image as the data URL of a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return data_url(buffer.getvalue())
