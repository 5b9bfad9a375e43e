"""What a full refresh costs at 100 million and 1 billion users: a calculation from a few measured numbers.

    python benchmarks/scale.py [--gpus 8 64] [--users 1e8 1e9] [--tokens 400] [--utilisation 0.35] ...

Every number that enters is an option, with its source in the help. The model's FLOPs follow from its shape. Nothing
here was run at these sizes, or on a GPU. `docs/scale.md` shows the result with the default options.
"""

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """A decoder's shape; the defaults are Qwen2.5-0.5B's."""

    layers: int = 24
    width: int = 896
    inner: int = 4864
    heads: int = 14
    key_heads: int = 2
    head_width: int = 64

    def flops(self, tokens: float) -> float:
        """Operations of one forward pass over a sequence."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.key_heads)
        per_token = 2 * self.layers * (attention + 3 * self.width * self.inner)
        return tokens * per_token + 4 * self.layers * self.heads * self.head_width * tokens**2


def lines(options: argparse.Namespace, users: float, gpus: int) -> list[str]:
    """One cell of the table after the other."""
    model, o = Model(), options
    flops = model.flops(o.tokens)
    per_gpu = o.peak * 1e12 * o.utilisation / flops
    hours = users / (per_gpu * gpus) / 3600
    out = model.width * o.bytes_per_value
    buckets = users / o.rows_per_bucket
    # rows of a bucket: a footer and two reads, twice (texts, encode); its file in the version before: a footer, a read
    gets, puts = buckets * 8, buckets * 2
    nodes = max(1, gpus // 8)
    move = users * (4 * o.bytes_per_row + 2 * out)  # rows: input, written by bucket, read for texts and to encode
    return [
        f"{users:,.0f}",
        f"{gpus}",
        f"{per_gpu:,.0f}",
        f"{hours:,.1f} h",
        f"{users * o.bytes_per_row / 1e12:.2f} / {users * out / 1e12:.2f} TB",
        f"{move / (nodes * o.bandwidth * 1e9) / 3600:,.1f} h",
        f"{buckets:,.0f}",
        f"{gets / 1e3:,.0f} k / {puts / 1e3:,.0f} k",
        f"${gets / 1e3 * o.get_price + puts / 1e3 * o.put_price:,.0f}",
        f"{users * o.changed / (per_gpu * gpus) / 3600:,.2f} h",
    ]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--users", type=float, nargs="+", default=[1e8, 1e9])
    add("--gpus", type=int, nargs="+", default=[8, 64])
    add("--tokens", type=float, default=400, help="mean tokens per user (Journey: 57; the paper's template: up to 690)")
    add("--peak", type=float, default=312, help="TFLOP/s of one GPU in bf16 (data sheet of an A100)")
    add("--utilisation", type=float, default=0.35, help="share of it that is reached: an assumption, not measured")
    add("--bytes-per-row", type=float, default=5000, help="Parquet bytes of one user row (Journey: 731 at 57 tokens)")
    add(
        "--bytes-per-value",
        type=float,
        default=3.7,
        help="of a stored value (found once, width 128; float16: 2.1)",
    )
    add("--bandwidth", type=float, default=2.0, help="GB/s between one node of 8 GPUs and the object store")
    add("--rows-per-bucket", type=float, default=16_384, help="publishing.rows_per_bucket")
    add("--changed", type=float, default=0.4, help="share of users that a night encodes (Journey, max_age_days 7: .41)")
    add("--get-price", type=float, default=0.0004, help="US dollars per 1,000 GET requests")
    add("--put-price", type=float, default=0.005, help="US dollars per 1,000 PUT requests")
    options = parser.parse_args()
    titles = [
        "users", "GPUs", "users/s per GPU", "encode", "input / vectors", "move data", "buckets", "GET / PUT", 
        "requests", "nightly: encode",
    ]  # fmt: skip
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for users in options.users:
        for gpus in options.gpus:
            print("| " + " | ".join(lines(options, users, gpus)) + " |")


if __name__ == "__main__":
    main()
