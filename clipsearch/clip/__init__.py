"""CLIP models: load, build, save, and embed images and texts. Importing this registers the tiny preset's towers."""

from __future__ import annotations

from clipsearch.clip.checkpoint import checkpoint_info, save_clip
from clipsearch.clip.model import Clip, choose_device, load_clip
from clipsearch.clip.pixels import PixelSettings
from clipsearch.clip.tiny import TinyOptions, build_tiny
from clipsearch.clip.tower import ConvTower, ConvTowerConfig
from clipsearch.clip.words import WordTower, WordTowerConfig

__all__ = [
    "Clip",
    "ConvTower",
    "ConvTowerConfig",
    "PixelSettings",
    "TinyOptions",
    "WordTower",
    "WordTowerConfig",
    "build_tiny",
    "checkpoint_info",
    "choose_device",
    "load_clip",
    "save_clip",
]
