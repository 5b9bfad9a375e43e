"""What a config does with the columns of a table."""

from dataclasses import dataclass, replace

from ray_ggsm.data.sources.source import Extract


@dataclass(frozen=True)
class Uses:
    """What the config does with a table's columns."""

    templates: frozenset[str] = frozenset()
    """Columns that are shown as text."""
    expressions: tuple[str, ...] = ()
    """SQL over the columns."""
    numbers: frozenset[str] = frozenset()
    """Columns that must be numbers."""

    def of(self, wanted: Extract) -> "Uses":
        """Those that what is loaded serves."""
        return self if wanted.texts or wanted.empty else replace(self, templates=frozenset())


NO_USES = Uses()
