"""Named architectures: the models of the paper's Table 1, small ones for small images, and three from a search.

The paper's names carry the true input side (240, 408, 504 px) of the small-patch branch, as timm's do.
``crossvit_cifar_*`` were found by a search on CIFAR-10 on CPU cores (``results/reference/cifar10_cpu_all``), and come
with weights (``crossvit_core.pretrained``).
"""

from __future__ import annotations

from crossvit_core.config import ArchConfig, BranchConfig, EncoderConfig

_LARGE_SIDE = {240: 224, 408: 384, 504: 480}


def _published(side: int, widths: tuple[int, int], heads: int, depth: int, ratio: float, stem: str) -> ArchConfig:
    """Patches 12/16, K = 3, N = 1, M = ``depth``, L = 1: what all models of Table 1 share."""
    branches = tuple(
        BranchConfig(image_size=s, patch_size=p, embed_dim=width, num_heads=heads, mlp_ratio=ratio, stem=stem)
        for s, p, width in zip((side, _LARGE_SIDE[side]), (12, 16), widths)
    )
    return ArchConfig(image_size=side, branches=branches, encoders=(EncoderConfig(depths=(1, depth)),) * 3)


def _small_image(
    side: int, patches: tuple[int, int], widths: tuple[int, int], heads: int, depth: int, encoders: int
) -> ArchConfig:
    """The paper's proportions carried to a small image: large branch twice as wide, both read the full side.

    Patches are chosen so that both tile it. From 32 px on, nano and micro have a small-patch grid of 8 x 8, few tokens;
    tiny and small of 64 and 96 px one of 16 x 16, near the paper's 20 x 20. 96 px is the one of these sides that
    patches in the paper's ratio, 3 to 4, tile in both branches, and the coarser two are the paper's own, 12 and 16.
    """
    branches = tuple(
        BranchConfig(image_size=side, patch_size=patch, embed_dim=width, num_heads=heads)
        for patch, width in zip(patches, widths)
    )
    return ArchConfig(
        image_size=side, num_classes=10, branches=branches, encoders=(EncoderConfig(depths=(1, depth)),) * encoders
    )


def _searched(
    patches: tuple[int, int], widths: tuple[int, int], ratio: float, encoder: EncoderConfig, count: int, convs: bool
) -> ArchConfig:
    """For 32 px and ten classes: four heads, convolutional stems, ``count`` times ``encoder``."""
    branches = tuple(
        BranchConfig(
            image_size=32, patch_size=patch, embed_dim=width, num_heads=4, mlp_ratio=ratio, stem="conv", conv_path=convs
        )
        for patch, width in zip(patches, widths)
    )
    return ArchConfig(image_size=32, num_classes=10, branches=branches, encoders=(encoder,) * count)


PRESETS: dict[str, ArchConfig] = {
    "crossvit_tiny_240": _published(240, (96, 192), 3, 4, 4.0, "linear"),
    "crossvit_small_240": _published(240, (192, 384), 6, 4, 4.0, "linear"),
    "crossvit_base_240": _published(240, (384, 768), 12, 4, 4.0, "linear"),
    "crossvit_9_240": _published(240, (128, 256), 4, 3, 3.0, "linear"),
    "crossvit_15_240": _published(240, (192, 384), 6, 5, 3.0, "linear"),
    "crossvit_18_240": _published(240, (224, 448), 7, 6, 3.0, "linear"),
    "crossvit_9_dagger_240": _published(240, (128, 256), 4, 3, 3.0, "conv"),
    "crossvit_15_dagger_240": _published(240, (192, 384), 6, 5, 3.0, "conv"),
    "crossvit_18_dagger_240": _published(240, (224, 448), 7, 6, 3.0, "conv"),
    "crossvit_15_dagger_408": _published(408, (192, 384), 6, 5, 3.0, "conv"),
    "crossvit_18_dagger_408": _published(408, (224, 448), 7, 6, 3.0, "conv"),
    "crossvit_18_dagger_504": _published(504, (224, 448), 7, 6, 3.0, "conv"),
    "crossvit_nano_16": _small_image(16, (4, 8), (16, 32), 2, 1, 1),
    "crossvit_micro_16": _small_image(16, (4, 8), (32, 64), 2, 2, 2),
    "crossvit_nano_32": _small_image(32, (4, 8), (32, 64), 2, 2, 1),
    "crossvit_micro_32": _small_image(32, (4, 8), (48, 96), 3, 2, 2),
    "crossvit_tiny_32": _small_image(32, (4, 8), (96, 192), 3, 4, 3),
    "crossvit_small_32": _small_image(32, (4, 8), (192, 384), 6, 4, 3),
    "crossvit_nano_64": _small_image(64, (8, 16), (32, 64), 2, 2, 1),
    "crossvit_micro_64": _small_image(64, (8, 16), (48, 96), 3, 2, 2),
    "crossvit_tiny_64": _small_image(64, (4, 8), (96, 192), 3, 4, 3),
    "crossvit_small_64": _small_image(64, (4, 8), (192, 384), 6, 4, 3),
    "crossvit_nano_96": _small_image(96, (12, 16), (32, 64), 2, 2, 1),
    "crossvit_micro_96": _small_image(96, (12, 16), (48, 96), 3, 2, 2),
    "crossvit_tiny_96": _small_image(96, (6, 8), (96, 192), 3, 4, 3),
    "crossvit_small_96": _small_image(96, (6, 8), (192, 384), 6, 4, 3),
    "crossvit_cifar_s": _searched((8, 16), (48, 64), 1, EncoderConfig(depths=(1, 2), fusion="class_token"), 1, False),
    "crossvit_cifar_m": _searched((8, 16), (32, 128), 2, EncoderConfig(depths=(1, 1), fusion="class_token"), 1, False),
    "crossvit_cifar_l": _searched((4, 16), (48, 64), 2, EncoderConfig(depths=(2, 2), fusion="none"), 2, True),
}
