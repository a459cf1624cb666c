"""The source of a configuration."""

from __future__ import annotations

from actial.config import SourceConfig, SourceKind
from actial.data.sources.base import Source
from actial.data.sources.co3d import Co3dSource
from actial.data.sources.colmap_folders import FolderSource
from actial.data.sources.pose_files import WildRgbdSource
from actial.data.sources.transforms import TransformsSource
from actial.data.sources.uco3d import Uco3dSource

READERS: dict[SourceKind, type[Source]] = {
    SourceKind.mvimgnet: FolderSource,
    SourceKind.mvimgnet2: FolderSource,
    SourceKind.procedural: FolderSource,
    SourceKind.colmap: FolderSource,
    SourceKind.co3d: Co3dSource,
    SourceKind.uco3d: Uco3dSource,
    SourceKind.wildrgbd: WildRgbdSource,
    SourceKind.nerfstudio: TransformsSource,
    SourceKind.blender: TransformsSource,
    SourceKind.llff: TransformsSource,
}


def open_source(config: SourceConfig) -> Source:
    """Return the reader of config.kind; raises UserError when config.root cannot be read."""
    return READERS[config.kind](config)
