"""Settings of the synthesize job."""

from pydantic import Field, JsonValue

from ray_ggsm.config import Config, Location, Runtime
from ray_ggsm.experiment import RayConfig
from ray_ggsm.synthesis.config import BudgetConfig, ClientConfig, DifficultyConfig, PairsConfig


class SynthesizeConfig(Config):
    """Whose rows get questions, and who writes them."""

    experiment: str
    """Config file of an experiment; the rows of its split with `role: train` get questions."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Changes to it: key.path -> value."""
    output: Runtime[Location]
    """Directory of replies and pairs, local or s3://."""
    rows: int | None = Field(None, ge=1)
    """Number of user rows that get questions, drawn at random; null: all."""
    seed: int = Field(0, ge=0)
    """Decides which rows, and seeds the model's sampling."""
    client: ClientConfig
    """Who writes the pairs: a language model, or counting rules."""
    pairs: PairsConfig = PairsConfig()
    """How many."""
    difficulty: DifficultyConfig = DifficultyConfig()
    """Which of them are hard."""
    prompts: Runtime[str | None] = None
    """Directory with prompts of one's own (<name>.txt), local or s3://. Results go by what they say, not by where they
    are."""
    budget: Runtime[BudgetConfig] = BudgetConfig()
    """What requests may cost."""
    rows_per_part: int = Field(64, ge=1)
    """User rows whose requests are made together, and whose pairs are one file."""
    ray: Runtime[RayConfig] = RayConfig()
    """Resources."""
