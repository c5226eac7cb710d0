# SPDX-License-Identifier: GPL-2.0-or-later
"""Plots of the results, as SVG."""

import dataclasses
import io
import re

import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot

import model
from figures import blackouts, gaps, quartiles
from tables import PLACES, rtnl_hold

# One colour for each kind of way, and a label that also says it
PATCHED, STOCK, FLOOR = "#1f6fb4", "#d9822b", "#777777"
EARLIER = "#7fb8e0"
KINDS = {"before": EARLIER, "control": FLOOR, "a": FLOOR, "b": FLOOR, "f": STOCK, "f-late": STOCK,
         "g": STOCK, "h": STOCK}
LEGEND = ((PATCHED, "patched"), (STOCK, "stock"), (FLOOR, "for comparison"))
CAPTION = "Bars are medians, lines quartiles, dots single rounds."

matplotlib.rcParams.update({
    "font.size": 10, "font.family": "DejaVu Sans", "svg.fonttype": "none",
    "svg.hashsalt": "tapstate", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#e5e5e5",
    "axes.axisbelow": True})


@dataclasses.dataclass
class Plot:
    title: str
    caption: str
    svg: str


def svg(figure):
    """Return a figure as an element of HTML."""
    out = io.StringIO()
    figure.tight_layout()
    figure.savefig(out, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = out.getvalue()
    return text[re.search("<svg", text).start():]


def short(value):
    """Return a number with about three digits."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def colour(key):
    return KINDS.get(key, PATCHED)


def rows_figure(rows, xlabel):
    """Draw (key, name, values) below each other: quartiles and each round."""
    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.42 * len(rows)))
    for y, (key, _, values) in enumerate(rows):
        first, middle, third = quartiles(values)
        axes.barh(y, middle, color=colour(key), alpha=0.35, height=0.6)
        axes.plot([first, third], [y, y], color=colour(key), linewidth=3,
                  solid_capstyle="butt")
        axes.plot(values, [y] * len(values), "o", color=colour(key), markersize=3)
        axes.annotate(short(middle), (max(values), y), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [f"{key}. {name}" for key, name, _ in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    most = max(max(values) for _, _, values in rows)
    axes.set_xlim(0, 1.12 * most or 1)
    axes.set_xlabel(f"{xlabel} (less is better)")
    present = {colour(key) for key, _, _ in rows}
    axes.legend([pyplot.Rectangle((0, 0), 1, 1, color=c, alpha=0.5)
                 for c, _ in LEGEND if c in present],
                [name for c, name in LEGEND if c in present],
                loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=9,
                frameon=False)
    return svg(figure)


def rows_of(found, values):
    """Return rows of the runs that have values, in ms or as they are."""
    rows = ((key, run["name"], values(run)) for key, run in found["runs"].items())
    return [row for row in rows if row[2]]


def in_ms(values):
    return [1000 * value for value in values]


def hand_over(found, where):
    yield Plot(
        f"Blackout of the network, {where}", "From the stop of the guest to the "
        f"first packet that is read for it again. {CAPTION}",
        rows_figure(rows_of(found, lambda run: in_ms(blackouts(run))),
                    "milliseconds"))
    yield Plot(
        f"Lost packets, {where}", "Lost in a move, both ways, of "
        f"{found['rate']} packets per second each way. {CAPTION}",
        rows_figure(rows_of(found, lambda run: [
            r["to_guest"]["lost"] + r["to_host"]["lost"]
            for r in run["rounds"] if "to_guest" in r]), "packets"))
    yield Plot(
        f"Longest gap, {where}", "Longest time without a packet to the guest, "
        f"as its programs see it: without KVM the emulator's warm-up is in it. "
        f"{CAPTION}",
        rows_figure(rows_of(found, lambda run: in_ms(gaps(run, "to_guest"))),
                    "milliseconds"))


def queue_pairs(found):
    figure, axes = pyplot.subplots(figsize=(9, 4))
    kinds = {}
    for run in found["runs"].values():
        kinds.setdefault(run["contender"], []).append(run)
    for key, runs in kinds.items():
        points = sorted((run["queues"], in_ms(blackouts(run))) for run in runs)
        x = [n for n, _ in points]
        low, middle, high = zip(*(quartiles(values) for _, values in points))
        axes.fill_between(x, low, high, color=colour(key), alpha=0.2)
        axes.plot(x, middle, "o-", color=colour(key),
                  label=f"{key}. {runs[0]['name']}")
        # The first contender has its labels above, the second below.
        below = len(axes.texts) > 0
        for n, value in zip(x, middle):
            axes.annotate(short(value), (n, value), xytext=(0, -14 if below else 6),
                          textcoords="offset points", ha="center", fontsize=9,
                          color=colour(key))
    axes.set_xscale("log", base=4)
    axes.set_yscale("log")
    axes.set_xticks(sorted({run["queues"] for run in found["runs"].values()}))
    axes.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.set_xlabel("queue pairs of the NIC")
    axes.set_ylabel("blackout, ms (lower is better)")
    axes.legend(fontsize=9)
    yield Plot("Cost of queue pairs", "Medians; the areas have half of all rounds.",
               svg(figure))


def instructions(lines):
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    queues = [line for line in lines if "queues" in line]
    x = [line["queues"] for line in queues]
    for name, style, label in (
            ("get", "o-", "TUNGETSTATE"), ("get_older", "o--", "older reads"),
            ("set", "s-", "TUNSETSTATE"), ("set_older", "s--", "older writes")):
        left.plot(x, [line[name] / 1000 for line in queues], style,
                  color=STOCK if "older" in name else PATCHED, label=label)
    left.set_xscale("log", base=4)
    left.set_xticks(x)
    left.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    left.set_xlabel("queues")
    left.set_ylabel("thousand instructions (lower is better)")
    left.set_ylim(0, 1.45 * left.get_ylim()[1])
    left.legend(fontsize=9, loc="upper left", ncols=2)
    flows = [line for line in lines if "flows" in line]
    right.plot([line["flows"] for line in flows],
               [line["get"] / 1000 for line in flows], "o-", color=PATCHED,
               label="TUNGETSTATE")
    right.set_xlabel("flows")
    right.set_ylabel("thousand instructions")
    right.set_ylim(bottom=0)
    right.legend(fontsize=9)
    yield Plot("Instructions of the calls", "For devices with more queues, and for "
               "one that has learned flows. The older reads tell nothing of queues "
               "and flows.", svg(figure))


def scale(results):
    found = results["scale"]
    update = model.fit(found, rtnl_hold(results))
    figure, axes = pyplot.subplots(figsize=(9, 3.6))
    counts = range(1, 17)
    axes.plot(counts, [model.simulate(update, n, n, found["processors"])
                       for n in counts], "-", color=FLOOR, label="model")
    for number, points in found["points"].items():
        axes.plot([int(number)] * len(points), [p["total"] for p in points], "o",
                  color=PATCHED, label="measured" if number == "1" else None)
    axes.set_xlabel("guests that move at once")
    axes.set_ylabel("seconds until all have moved (lower is better)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=9)
    yield Plot("Several guests at once", "From the start of the first target to the "
               "end of the last move. The model knows the processor time and the "
               "total of one guest.",
               svg(figure))


def all_plots(results):
    """Yield a Plot for all that was measured."""
    for place, where in PLACES.items():
        if found := results.get(f"hand_over-{place}"):
            yield from hand_over(found, where)
    for name, draw in ("queue_pairs", queue_pairs), ("instructions", instructions):
        if name in results:
            yield from draw(results[name])
    if "scale" in results:
        yield from scale(results)
