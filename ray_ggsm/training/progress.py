"""One readable line per while of training, on a terminal as in a log file."""


def line(metrics: dict[str, float], steps: int, lines: int = 40) -> str:
    """The line for a step, or an empty string for steps that get none: about `lines` lines a run."""
    step = int(metrics["step"])
    if step != 1 and step != steps and step % max(1, steps // lines):
        return ""
    done = step / steps
    bar = ("#" * round(20 * done)).ljust(20, ".")
    left = metrics["seconds"] * (steps - step)
    return (
        f"[{bar}] step {step}/{steps}  loss {metrics['loss']:.3f}  accuracy {metrics['accuracy']:.3f}"
        f"  w {metrics['w_mean']:.2f}  {metrics['tokens'] / metrics['seconds']:,.0f} tokens/s"
        f"  {left // 60:.0f}:{left % 60:02.0f} left"
    )
