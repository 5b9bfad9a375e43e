"""The common look of all HTML pages, and filters of their templates."""

from typing import Any

from markupsafe import Markup

from ray_ggsm import html
from ray_ggsm.evaluation.pages import svg
from ray_ggsm.evaluation.summary import title_of


def page(template: str, **values: Any) -> str:
    """The page as HTML: `templates/<template>` filled with the values."""
    environment = html.environment("ray_ggsm.evaluation.pages")
    environment.filters |= {"title_of": title_of, "duration": duration, "sentence": sentence, "svg": Markup}
    return environment.get_template(template).render(marker=svg.marker, styles=svg.STYLES, **values)


def duration(seconds: float) -> str:
    """Seconds as "45 s", "7 min 12 s" or "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
