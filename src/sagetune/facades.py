"""The public reference's import paths below `sage`, and who keeps them from being imported.

`sage` is nobody's alone: ours is a namespace, and another distribution's regular package of that name (one with an
`__init__.py`) hides it wherever the two are installed together. The classes themselves are in `sagetune`, always.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

FACADES = (
    "sage.libs.finetune.agent",
    "sage.libs.sias",
    "sage.benchmark.benchmark_agent.experiments.method_comparison",
)
SOURCE = Path(__file__).parents[1]


def file_of(facade: str) -> Path:
    """Our file of a module of FACADES."""
    return SOURCE.joinpath(*facade.split(".")).with_suffix(".py")


def hidden() -> dict[str, str]:
    """Facade -> the file that is imported in its place; empty where all can be imported.

    Imports the packages above the facades; ours have no code.
    """
    found = {facade: _in_place_of(facade) for facade in FACADES}
    return {facade: other for facade, other in found.items() if other is not None}


def _in_place_of(facade: str) -> str | None:
    if _origin(facade) == str(file_of(facade)):
        return None
    parts = facade.split(".")
    origins = [_origin(".".join(parts[:depth])) for depth in range(1, len(parts) + 1)]
    return next((origin for origin in origins if origin is not None), "nothing: the file is missing")


def _origin(module: str) -> str | None:
    """The file that a module is imported from; None for a namespace and for what cannot be found."""
    try:
        spec = find_spec(module)
    except ImportError:  # a package above it is another's, and has no such part or does not load
        return None
    return spec.origin if spec is not None else None
