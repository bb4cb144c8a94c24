"""Which architectures may be asked for: spaces as data, and the code that reads them."""

from space.dimension import Dimension
from space.files import SpaceFile, list_spaces, load_space, parse_space
from space.limits import LIMITED_METRICS, Limit, LimitError, format_number, override_limits, parse_limit, parse_number
from space.space import Space, SpaceError, Vector

__all__ = [
    "LIMITED_METRICS",
    "Dimension",
    "Limit",
    "LimitError",
    "Space",
    "SpaceError",
    "SpaceFile",
    "Vector",
    "format_number",
    "list_spaces",
    "load_space",
    "override_limits",
    "parse_limit",
    "parse_number",
    "parse_space",
]
