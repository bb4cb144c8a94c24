"""Names that an ablation's record is written with by the search and read with by ``results``. Imports nothing."""

from __future__ import annotations

FUSION = "encoders.*.fusion"

# Before the variant's name, as the source of its trials.
SOURCE_PREFIX = "variant:"
