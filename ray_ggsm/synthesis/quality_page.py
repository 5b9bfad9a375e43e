"""The page of a run of the synthesize job: how many pairs, how good, what failed, and some to read."""

from ray_ggsm.evaluation.pages.page import page
from ray_ggsm.synthesis.quality import Sample
from ray_ggsm.synthesis.questions import Questions


def render(result: Questions, sample: Sample | None, config: str) -> str:
    """The page as HTML; `config` is the resolved configuration."""
    counts = result.counts
    asked = counts.pairs + counts.lost
    return page(
        "questions.html.j2",
        page="synthesize",
        report={"title": "Questions and answers"},
        result=result,
        sample=sample,
        accepted=counts.pairs / asked if asked else 0.0,
        config=config,
    )
