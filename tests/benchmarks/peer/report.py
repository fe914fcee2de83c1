"""Tables and plots of the measurements, and whether they reach the goals."""

import pathlib
from collections.abc import Mapping, Sequence

from turns import COMPARED, ratios

GPU, CPU = 1.3, 1.0  # images/s over the published network's
SAVING = 0.1  # how far SG's measured saving may fall behind that of its FLOPs
SHARE = 0.6  # of the measured matrix product
COLOURS = ("#0072B2", "#56B4E9", "#E69F00", "#009E73", "#D55E00")  # Okabe and Ito's


def table(size: str, rows: Sequence[Mapping]) -> str:
    """Return the table of one size and batch size, training or sampling."""
    lines = [
        f"\n{size}, batch {rows[0]['batch']}",
        f"{'':24}{'ms/step':>10}{'images/s':>10}  {'times the peer (quartiles)':27}"
        f"{'of peak':>8}{'memory':>10}{'first call':>12}  compiled by",
    ]
    for row in rows:
        speed, memory = row["speedup"], row["memory_bytes"]
        text = "{median:.2f} ({low:.2f} to {high:.2f})".format(**speed) if speed else ""
        gib = f"{memory / 2**30:.2f} GiB" if memory else "-"
        lines.append(
            f"{row['program']:24}{1e3 * row['seconds_per_step']:10.2f}"
            f"{row['images_per_second']:10.4g}  {text:27}{row['share_of_peak']:8.1%}{gib:>10}"
            f"{row['first_call_seconds']:10.1f} s  {row['how']}"
        )
    return "\n".join(lines)


def best(rows: Sequence[Mapping], size: str, program: str) -> Mapping | None:
    """Return the row of a program at the batch size where it makes the most images per second."""
    own = [r for r in rows if r["size"] == size and r["program"] == program]
    return max(own, key=lambda r: r["images_per_second"], default=None)


def figures(rows: Sequence[Mapping], device: str) -> list[tuple[str, float, float, bool]]:
    """Return the goals: words, the value, its limit, and whether it is reached.

    Args:
      rows: of all sizes and batch sizes.
      device: "cuda", where each network counts at its best batch size, or "cpu", where ours must
        keep up at every one.
    """
    out = []
    for size in dict.fromkeys(r["size"] for r in rows):
        for program, other in COMPARED.items():
            mine, theirs = best(rows, size, program), best(rows, size, other)
            if not mine or not theirs:
                continue
            if device == "cuda":
                if "unguided" not in program:
                    value = mine["images_per_second"] / theirs["images_per_second"]
                    words = f"batch {mine['batch']}, over {other} at batch {theirs['batch']}"
                    out.append((f"{size} {program}: {words}", value, GPU, value >= GPU))
                continue
            own = [r for r in rows if r["size"] == size and r["program"] == program]
            worst = min(own, key=lambda r: r["speedup"]["median"])
            value = worst["speedup"]["median"]
            words = f"over {other}, at batch {worst['batch']}, the worst"
            out.append((f"{size} {program}: {words}", value, CPU, value >= CPU))
        out += _savings(rows, size)
        for program in ("ours, dense training", "ours, CFG", "DiT, dense training", "DiT, CFG"):
            row = best(rows, size, program)
            if row and size in ("B/2", "XL/2") and device == "cuda":
                value = row["share_of_peak"]
                words = f"{size} {program}: share of the matrix product, batch {row['batch']}"
                out.append((words, value, SHARE, value >= SHARE))
    return out


def _savings(rows, size):
    """Return SG's time over that of CFG and of no guidance, with the limits its FLOPs allow."""
    out = []
    for row in (r for r in rows if r["size"] == size and r["program"] == "ours, SG"):
        beside = {r["program"]: r for r in rows if r["size"] == size and r["batch"] == row["batch"]}
        for name in ("ours, CFG", "ours, unguided"):
            other = beside[name]
            cost = row["flops_per_step"] / other["flops_per_step"]
            limit = 1 - (1 - SAVING) * (1 - cost)
            value = ratios(row["seconds"], other["seconds"])["median"]
            words = f"{size} ours, SG: time over {name}, batch {row['batch']} (FLOPs {cost:.3f})"
            out.append((words, value, limit, value <= limit))
    return out


def verdict(figures: Sequence[tuple[str, float, float, bool]]) -> str:
    """Return a line per figure."""
    lines = ["\nFigures to reach"]
    for words, value, limit, reached in figures:
        sign = ">=" if (value >= limit) == reached else "<="
        lines.append(f"{'yes' if reached else 'no ':4} {value:6.3f} {sign} {limit:.3f}  {words}")
    return "\n".join(lines)


def plot(rows: Sequence[Mapping], title: str, path: pathlib.Path) -> None:
    """Draw the ratios per size as bars, and images per second over the batch size."""
    from matplotlib.figure import Figure

    sizes = list(dict.fromkeys(r["size"] for r in rows))
    figure = Figure((13, 3 + 2.6 * len(sizes)), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplot_mosaic(
        [["bars", "bars"], *([f"{s} training", f"{s} sampling"] for s in sizes)]
    )
    bars = panels["bars"]
    for n, (program, other) in enumerate(COMPARED.items()):
        for at, size in enumerate(sizes):
            mine, theirs = best(rows, size, program), best(rows, size, other)
            if mine and theirs:
                bars.bar(
                    at + (n - 2) * 0.16,
                    mine["images_per_second"] / theirs["images_per_second"],
                    width=0.15,
                    color=COLOURS[n],
                    label=f"{program}, over {other}" if at == 0 else None,
                )
    bars.axhline(1, color="black", linewidth=1)
    bars.set_xticks(range(len(sizes)), sizes)
    bars.set_ylabel("images/s over the peer's,\neach at its best batch")
    bars.legend(fontsize=8)
    for name, panel in panels.items():
        if name == "bars":
            continue
        size, kind = name.split(" ")
        for n, (program, other) in enumerate(COMPARED.items()):
            if ("training" in program) == (kind == "training"):
                _line(panel, rows, size, program, COLOURS[n], "-")
                if other.split(", ")[1] == program.split(", ")[1]:
                    _line(panel, rows, size, other, COLOURS[n], "--")
        if not panel.lines:  # left out by --programs, or did not fit
            panel.set_axis_off()
            continue
        batches = sorted({r["batch"] for r in rows if r["size"] == size})
        panel.set(title=name, xlabel="batch", ylabel="images/s", xscale="log")
        panel.set_xticks(batches, batches)
        panel.set_xticks([], minor=True)
        panel.set_ylim(bottom=0)
        panel.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _line(panel, rows, size, program, colour, style):
    own = sorted(
        (r["batch"], r["images_per_second"])
        for r in rows
        if r["size"] == size and r["program"] == program
    )
    if own:
        fill = "full" if style == "-" else "none"
        panel.plot(
            *zip(*own, strict=True), style, marker="o", fillstyle=fill, color=colour, label=program
        )
