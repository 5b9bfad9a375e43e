"""What all HTML pages share: one look, no network, and words for keys and durations."""

from typing import Any

from markupsafe import Markup

from ray_ggsm import html
from ray_ggsm.evaluation.pages import charts
from ray_ggsm.evaluation.summary import TITLES


def page(template: str, **values: Any) -> str:
    """The page as HTML: `templates/<template>` filled with the values."""
    environment = html.environment("ray_ggsm.evaluation.pages")
    environment.filters |= {"title_of": title_of, "duration": duration, "sentence": sentence, "svg": Markup}
    return environment.get_template(template).render(marker=charts.marker, series_kinds=charts.KINDS, **values)


def title_of(key: str) -> str:
    """A key as people read it."""
    return TITLES.get(key, key)


def duration(seconds: float) -> str:
    """Seconds as "45 s", "7 min 12 s" or "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def sentence(text: str) -> str:
    """With a capital at its beginning."""
    return text[:1].upper() + text[1:]
