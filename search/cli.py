"""The ``crossvit`` command. Heavy imports happen inside the subcommand that needs them."""

from __future__ import annotations

import errno
import sys
from typing import NoReturn

import typer

from search import interrupt
from search.commands.ablate import ablate
from search.commands.bench import bench
from search.commands.export import export
from search.commands.listing import count, spaces
from search.commands.quantize import quantize
from search.commands.search import search
from search.commands.select import retrain, select
from search.commands.study import dashboard, report, status

EXIT_FAILED, EXIT_BAD_INPUT = 1, 2
_NO_PLACE_TO_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

app = typer.Typer(
    help="Search, measure and choose CrossViT architectures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# In the order of their use, which is that of the help.
for _command in (search, report, select, retrain, export, quantize, ablate, bench, status, dashboard, spaces, count):
    app.command()(_command)


def main() -> NoReturn:
    """Run the command; turn what a user can mend into one line and exit code 2, what failed on the way into 1."""
    interrupt.arm()
    try:
        code = _run()
    except KeyboardInterrupt:
        code = interrupt.EXIT_INTERRUPTED
    if code == interrupt.EXIT_INTERRUPTED:
        _fail("interrupted", code)
    raise SystemExit(0)


def _run() -> int | None:
    try:
        code: int | None = app(standalone_mode=False)  # typer answers a KeyboardInterrupt by giving back 130
    except Exception as error:
        _fail_with(error)
    return code


def _fail_with(error: Exception) -> NoReturn:
    if isinstance(error, typer.Exit):
        raise SystemExit(error.exit_code)
    if isinstance(error, typer.Abort):
        _fail("interrupted", interrupt.EXIT_INTERRUPTED)
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # typer's own complaint about options
        error.show()
        raise SystemExit(error.exit_code)
    if isinstance(error, OSError) and error.errno in _NO_PLACE_TO_WRITE:
        _fail(f"cannot write to {error.filename or 'a file'}: {error.strerror}", EXIT_FAILED)
    code = _exit_code(error)
    if code is None:
        raise error
    _fail(str(error), code)


def _exit_code(error: Exception) -> int | None:
    """2 for what the user asked, 1 for what broke under way, None for a defect of ours."""
    from crossvit_core.artefact import ExportError, MismatchError
    from crossvit_core.config import ArchError
    from crossvit_core.data import DataError
    from crossvit_core.quantize.settings import QuantizeError
    from crossvit_core.recipe import RecipeError
    from results.figures import FigureFormatError
    from results.store import StoreError, WriteError
    from search.executors.base import ExecutorError
    from search.limits import LimitConfigError
    from search.mirrors import MirrorError
    from search.session import StudyFailedError
    from search.study_config import StudyConfigError
    from space import SpaceError

    if isinstance(error, (StudyFailedError, ExecutorError, MismatchError, WriteError)):
        return EXIT_FAILED
    configured = (QuantizeError, FigureFormatError, LimitConfigError, MirrorError, StudyConfigError)
    if isinstance(error, (ArchError, DataError, ExportError, RecipeError, SpaceError, StoreError, *configured)):
        return EXIT_BAD_INPUT
    return None


def _fail(message: str, code: int) -> NoReturn:
    print(f"crossvit: {message}", file=sys.stderr)
    raise SystemExit(code)
