# SPDX-License-Identifier: GPL-2.0-or-later
"""Plots of the results, as SVG."""

import io
import re

import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot

import model
from figures import blackouts, fate, gaps, quartiles
from tables import PLACES, rtnl_hold

# One colour for each kind of way, and a label that also says it
PATCHED, STOCK, FLOOR = "#1f6fb4", "#d9822b", "#777777"
KINDS = {"control": FLOOR, "a": FLOOR, "b": FLOOR, "f": STOCK, "f-late": STOCK,
         "g": STOCK, "h": STOCK}
LEGEND = ((PATCHED, "patched"), (STOCK, "stock"), (FLOOR, "for comparison"))
BETTER = "shorter is better"

matplotlib.rcParams.update({
    "font.size": 10, "font.family": "DejaVu Sans", "svg.fonttype": "none",
    "svg.hashsalt": "tapstate", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#e5e5e5",
    "axes.axisbelow": True})


def svg(figure):
    """Return a figure as an element of HTML."""
    out = io.StringIO()
    figure.tight_layout()
    figure.savefig(out, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = out.getvalue()
    return text[re.search("<svg", text).start():]


def colour(key):
    return KINDS.get(key, PATCHED)


def rows_figure(rows, title, xlabel):
    """Draw (key, name, values) below each other: quartiles and each round."""
    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.42 * len(rows)))
    for y, (key, _, values) in enumerate(rows):
        first, middle, third = quartiles(values)
        axes.barh(y, middle, color=colour(key), alpha=0.35, height=0.6)
        axes.plot([first, third], [y, y], color=colour(key), linewidth=3,
                  solid_capstyle="butt")
        axes.plot(values, [y] * len(values), "o", color=colour(key), markersize=3)
        axes.annotate(f"{middle:.3g}", (max(values), y), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [f"{key}. {name}" for key, name, _ in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{xlabel}; bar: median, line: quartiles, dots: rounds; "
                    f"{BETTER}")
    axes.set_title(title, loc="left", fontsize=11)
    present = {colour(key) for key, _, _ in rows}
    axes.legend([pyplot.Rectangle((0, 0), 1, 1, color=c, alpha=0.5)
                 for c, _ in LEGEND if c in present],
                [name for c, name in LEGEND if c in present],
                loc="lower right", fontsize=9)
    return svg(figure)


def rows_of(found, values):
    """Return rows of the runs that have values, in ms or as they are."""
    rows = ((key, run["name"], values(run)) for key, run in found["runs"].items())
    return [row for row in rows if row[2]]


def in_ms(values):
    return [1000 * value for value in values]


def hand_over(found, where):
    yield f"Blackout of the network, {where}", rows_figure(
        rows_of(found, lambda run: in_ms(blackouts(run))),
        "from the stop of the guest to the first packet that is read for it again",
        "milliseconds")
    yield f"Lost packets, {where}", rows_figure(
        rows_of(found, lambda run: [
            r["to_guest"]["lost"] + r["to_host"]["lost"]
            for r in run["rounds"] if "to_guest" in r]),
        f"lost in a move, of {found['rate']} packets per second each way", "packets")
    yield f"Longest gap, {where}", rows_figure(
        rows_of(found, lambda run: in_ms(gaps(run, "to_guest"))),
        "longest time without a packet to the guest", "milliseconds")


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
        for n, value in zip(x, middle):
            axes.annotate(f"{value:.3g}", (n, value), xytext=(0, 6),
                          textcoords="offset points", ha="center", fontsize=9)
    axes.set_xscale("log", base=4)
    axes.set_yscale("log")
    axes.set_xticks(sorted({run["queues"] for run in found["runs"].values()}))
    axes.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.set_xlabel("queue pairs of the NIC")
    axes.set_ylabel("blackout, ms (lower is better)")
    axes.legend(fontsize=9)
    yield "Cost of queue pairs", svg(figure)


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
    left.set_ylim(bottom=0)
    left.legend(fontsize=9)
    flows = [line for line in lines if "flows" in line]
    right.plot([line["flows"] for line in flows],
               [line["get"] / 1000 for line in flows], "o-", color=PATCHED,
               label="TUNGETSTATE")
    right.set_xlabel("flows")
    right.set_ylim(bottom=0)
    right.legend(fontsize=9)
    yield "Instructions of the calls", svg(figure)


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
    yield "Several guests at once", svg(figure)


def all_plots(results):
    """Yield (title, SVG) for all that was measured."""
    for place, where in PLACES.items():
        if found := results.get(f"hand_over-{place}"):
            yield from hand_over(found, where)
    for name, draw in ("queue_pairs", queue_pairs), ("instructions", instructions):
        if name in results:
            yield from draw(results[name])
    if "scale" in results:
        yield from scale(results)
