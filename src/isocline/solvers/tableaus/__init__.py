"""Every tableau of this package: a method is one file here, and is found by being here."""

from importlib import import_module
from pkgutil import iter_modules

from ..tableau import Tableau

__all__ = ["TABLEAUS"]


def _discover() -> dict[str, Tableau]:
    """Tableaus of all modules of this package by lower-case name, sorted by order, then name."""
    found: dict[str, Tableau] = {}
    for module in iter_modules(__path__):
        contents = vars(import_module(f"{__name__}.{module.name}"))
        for tableau in contents.values():
            if not isinstance(tableau, Tableau):
                continue
            # A module may import another's table; two tables of one name would hide each other.
            if found.setdefault(tableau.name.lower(), tableau) is not tableau:
                raise ValueError(f"tableau {tableau.name!r}: two tables have this name")
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


TABLEAUS: dict[str, Tableau] = _discover()
