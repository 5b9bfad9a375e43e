"""A titled group of pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A titled group of pictures with a legend and a sentence."""

    caption: str
    panels: Mapping[str, str]
    """Heading ("" for none) -> SVG."""
    names: Sequence[str] = ()
    """Series of the legend; none if the pictures name them themselves."""
    band: str = ""
    """Meaning of the shaded band."""
    note: str = ""
    """Sentence below the pictures."""
