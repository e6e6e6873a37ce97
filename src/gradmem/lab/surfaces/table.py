"""All surfaces by name."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from gradmem.lab.surfaces.bowls import BOWLS
from gradmem.lab.surfaces.ripples import RIPPLES
from gradmem.lab.surfaces.surface import Surface
from gradmem.lab.surfaces.valleys import VALLEYS
from gradmem.lab.surfaces.wells import WELLS

SURFACES: Mapping[str, Surface] = MappingProxyType(
    {each.name: each for family in (BOWLS, VALLEYS, RIPPLES, WELLS) for each in family}
)


def get_surface(name: str) -> Surface:
    """The surface called ``name``; ValueError with a name like it otherwise.

    >>> get_surface("booth").dimension
    2
    >>> get_surface("boot")
    Traceback (most recent call last):
    ...
    ValueError: unknown surface 'boot'; did you mean booth? `gradmem surfaces` lists all of them
    """
    if name in SURFACES:
        return SURFACES[name]
    near = difflib.get_close_matches(name.lower(), SURFACES, n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"unknown surface {name!r}; {guess}`gradmem surfaces` lists all of them")
