"""One CrossViT: describe, build, count, train, measure. Importing this package loads neither torch nor timm."""

from crossvit_core.config import ArchConfig, ArchError, BranchConfig, EncoderConfig, HeadConfig
from crossvit_core.presets import PRESETS

__all__ = ["PRESETS", "ArchConfig", "ArchError", "BranchConfig", "EncoderConfig", "HeadConfig"]
