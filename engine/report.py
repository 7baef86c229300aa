"""The closing table of a run."""

from engine.console import duration


def closing_table(result, test_images):
    """Text that compares baseline and pruned network, with the duration of each stage."""
    old, new = result["baseline"], result["pruned"]
    rows = [("", "baseline", "pruned", "")]
    rows.append(
        (
            result.get("accuracy_name", "top-1"),
            f"{old['top1']:.2%}",
            f"{new['top1']:.2%}",
            f"{100 * (new['top1'] - old['top1']):+.2f} points",
        )
    )
    rows.append(
        ("loss", f"{old['loss']:.4f}", f"{new['loss']:.4f}", f"{new['loss'] - old['loss']:+.4f}")
    )
    for label, key in (("parameters", "params"), ("FLOPs", "flops")):
        rows.append((label, f"{old[key]:,}", f"{new[key]:,}", f"{new[key] / old[key]:.1%} remain"))
    speed = f"{old['latency_ms'] / new['latency_ms']:.2f}x as fast"
    rows.append(
        ("latency, batch 1", f"{old['latency_ms']:.2f} ms", f"{new['latency_ms']:.2f} ms", speed)
    )
    if "latency" in result:
        latency = result["latency"]
        old_ms, new_ms = (latency["ms"][side] for side in ("baseline", "pruned"))
        speed = (
            f"{old_ms / new_ms:.2f}x as fast, {new_ms / old_ms:.1%} remain (wanted"
            f" {latency['target_rate']:.0%})"
        )
        batch = f"latency, batch {latency['batch_size']}"
        rows.append((batch, f"{old_ms:.2f} ms", f"{new_ms:.2f} ms", speed))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}} "
        f" {row[3]:>{widths[3]}}".rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * (sum(widths) + 6))
    stages = ", ".join(
        f"{name.replace('_', ' ')} {duration(value)}" for name, value in result["seconds"].items()
    )
    return "\n".join(
        ["", *lines, "", f"{test_images:,} test images, moving averages. Time: {stages}"]
    )
