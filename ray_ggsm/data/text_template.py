"""Templates of event texts, such as '{page} {item}'."""

import string


def template_parts(template: str) -> list[tuple[str, str | None]]:
    """Each literal text with the column that follows it, None after the last one.

    Raises:
        ValueError: a brace is not closed, a column has no name, or has a format or conversion.
    """
    parts = []
    for literal, column, form, conversion in string.Formatter().parse(template):
        if column == "" or form or conversion:
            raise ValueError("write columns as {column}, without format or conversion")
        parts.append((literal, column))
    return parts


def template_columns(template: str) -> list[str]:
    """The columns that a template names; none if it is no template."""
    try:
        return [column for _, column in template_parts(template) if column is not None]
    except ValueError:
        return []
