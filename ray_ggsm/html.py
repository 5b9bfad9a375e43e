"""The Jinja environment of all HTML pages: escaped, strict about missing values, loading nothing from the network."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment(package: str) -> Environment:
    """The templates in `<package>/templates`."""
    return Environment(loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
