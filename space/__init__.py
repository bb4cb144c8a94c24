"""Which architectures may be asked for: spaces as data, and the code that reads them."""

from space.dimension import Dimension
from space.files import SpaceFile, list_spaces, load_space, parse_space
from space.limits import Limit, format_number, parse_number
from space.space import Space, SpaceError, Vector

__all__ = [
    "Dimension",
    "Limit",
    "Space",
    "SpaceError",
    "SpaceFile",
    "Vector",
    "format_number",
    "list_spaces",
    "load_space",
    "parse_number",
    "parse_space",
]
