"""The source of a configuration."""

from __future__ import annotations

from actial.config import SourceConfig, SourceKind
from actial.data.sources import co3d
from actial.data.sources import pose_files as posed_sources
from actial.data.sources.base import Source
from actial.data.sources.colmap_folders import FolderSource


def open_source(config: SourceConfig) -> Source:
    """The reader of config.kind."""
    if config.kind in (
        SourceKind.mvimgnet,
        SourceKind.mvimgnet2,
        SourceKind.procedural,
        SourceKind.colmap,
    ):
        return FolderSource(config)

    readers: dict[SourceKind, type[Source]] = {
        SourceKind.co3d: co3d.Co3dSource,
        SourceKind.uco3d: co3d.Uco3dSource,
        SourceKind.wildrgbd: posed_sources.WildRgbdSource,
        SourceKind.nerfstudio: posed_sources.TransformsSource,
        SourceKind.blender: posed_sources.TransformsSource,
    }
    return readers[config.kind](config)
