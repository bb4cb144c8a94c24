"""Names that an ablation's record is written with by the search and read with by ``results``. Imports nothing."""

from __future__ import annotations

FUSION = "encoders.*.fusion"

# What varies when variants are components added to the base, one at a time.
COMPONENT = "component"

# Of those variants the base as it is: what every component is compared with.
PLAIN = "plain"

# Before the variant's name, as the source of its trials.
SOURCE_PREFIX = "variant:"
