"""Progress as lines that can be read on a terminal and in a log file."""


def bar(done: float) -> str:
    """`done` (0 to 1) as a bar of characters."""
    return f"[{('#' * round(20 * done)).ljust(20, '.')}]"


def line(metrics: dict[str, float], steps: int, lines: int = 40) -> str:
    """The line for a step, or an empty string for steps that get none: about `lines` lines a run."""
    step = int(metrics["step"])
    if step != 1 and step != steps and step % max(1, steps // lines):
        return ""
    left = metrics["seconds"] * (steps - step)
    accuracy = f"  accuracy {metrics['accuracy']:.3f}" if "accuracy" in metrics else ""
    weight = f"  w {metrics['w_mean']:.2f}" if "w_mean" in metrics else ""
    return (
        f"{bar(step / steps)} step {step}/{steps}  loss {metrics['loss']:.3f}{accuracy}"
        f"{weight}  {metrics['tokens'] / metrics['seconds']:,.0f} tokens/s"
        f"  {left // 60:.0f}:{left % 60:02.0f} left"
    )
