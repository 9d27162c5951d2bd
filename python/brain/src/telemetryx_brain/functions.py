"""The decorator, and the functions that it was put on."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telemetryx_brain.batch import Batch
    from telemetryx_brain.findings import Finding

Analyze: TypeAlias = "Callable[[Batch], Iterable[Finding] | None]"
"""What the server calls."""
Frame: TypeAlias = Literal["batch", "arrow", "pandas"]
F = TypeVar("F", bound=Callable[..., Any])

_registered: list[Analyze] = []


@overload
def brain(function: F) -> F: ...
@overload
def brain(*, frame: Frame | None = None, fields: Sequence[str] = ()) -> Callable[[F], F]: ...
def brain(function: F | None = None, *, frame: Frame | None = None, fields: Sequence[str] = ()) -> F | Callable[[F], F]:
    """Make a function part of the brain: it is called with each batch and returns findings, or nothing.

    It is handed a list of events; with ``frame`` the :class:`Batch` itself, a table of pyarrow or a frame of pandas, where
    ``fields`` are paths into the payload that become columns. A finding's ``cause`` is an event, or the number of a row.

    An event comes once, unless it was delivered long ago and an operator asks for it again: what comes again because an
    answer was lost is answered from memory. If the function raises, the batch comes again later; of several functions in
    one brain those before it see it twice then. For events that it can never handle it raises :class:`Refuse`.
    """
    if frame not in (None, "batch", "arrow", "pandas"):
        raise ValueError(f"frame is 'batch', 'arrow' or 'pandas', not {frame!r}")

    def register(function: F) -> F:
        def analyze(batch: Batch) -> Iterable[Finding] | None:
            match frame:
                case None:
                    found = function(batch.events)
                case "batch":
                    found = function(batch)
                case "arrow":
                    found = function(batch.arrow(fields))
                case "pandas":
                    found = function(batch.pandas(fields))
            return found  # type: ignore[no-any-return]

        _registered.append(analyze)
        return function

    return register if function is None else register(function)


def load(name: str) -> Analyze:
    """All decorated functions of ``my_brain.py`` or of a module ``my_package.brains``.

    Raises ValueError if there is none.
    """
    _registered.clear()
    if name.endswith(".py"):
        path = Path(name).resolve()
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ValueError(f"there is no file {name}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        sys.path.insert(0, str(path.parent))
        spec.loader.exec_module(module)
    else:
        sys.path.insert(0, "")
        importlib.import_module(name)
    if not _registered:
        raise ValueError(f"{name} has no function with the decorator @brain")
    return together(_registered.copy())


def together(functions: Sequence[Analyze]) -> Analyze:
    """One function that answers with what all of them find."""

    def analyze(batch: Batch) -> Iterable[Finding]:
        for function in functions:
            yield from function(batch) or ()

    return analyze
