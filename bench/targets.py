# SPDX-License-Identifier: GPL-2.0-or-later
"""The targets of the project, and the figures that decide if they are met."""

import dataclasses

from figures import blackouts, fate, median, packet_costs, slope

EXACT = "lost", "duplicated", "reordered"
# Cost of a queue pair in ms when the target was set
FORMER_COST = 0.12


@dataclasses.dataclass
class Target:
    text: str
    found: str
    met: bool


def exact(hand_over):
    """Yield if the patched contenders lose nothing where a stock one does."""
    runs = hand_over["runs"]
    ours = [key for key in ("c", "d", "e", "e-off", "j") if key in runs]
    counts = {key: sum(fate(runs[key], what) for what in EXACT) for key in ours}
    found = ", ".join(f"{key}: {count}" for key, count in counts.items())
    met = not any(counts.values())
    text = f"{', '.join(ours)} lose, duplicate and reorder 0 packets"
    if "f" in runs:
        lost = fate(runs["f"], "lost")
        text += ", where f loses some"
        found += f"; f loses {lost}"
        met = met and lost > 0
    yield Target(text, found, met)


def blackout(hand_over):
    """Yield if the TAP and its NIC add little to a migration without them."""
    runs = hand_over["runs"]
    if not {"b", "c"} <= runs.keys():
        return
    floor = median(blackouts(runs["b"]))
    ratio = median(blackouts(runs["c"])) / floor
    found = f"{ratio:.2f} times"
    if "g" in runs:
        # It moves the same NIC, but no TAP.
        found += f"; g takes {median(blackouts(runs['g'])) / floor:.2f} times"
    yield Target("blackout of c at most 1.25 times the downtime of b", found,
                 ratio <= 1.25)


def costs(result, contender):
    """Return a function: ms that a queue pair costs, from a number to another."""
    points = {run["queues"]: median(blackouts(run)) * 1000
              for run in result["runs"].values() if run["contender"] == contender}
    return lambda low, high: slope((n, points[n]) for n in points
                                   if low <= n <= high)


def queue_pairs(result):
    """Yield if a queue pair costs the same, and little, in a crowd."""
    if not {"c@16", "c@64", "c@256"} <= result["runs"].keys():
        return
    cost = costs(result, "c")
    few, many = cost(16, 64), cost(64, 256)
    ranges = f"{few:.3f} ms from 16 to 64, {many:.3f} ms from 64 to 256"
    found = f"{cost(16, 256):.3f} of %.3f ms"
    if {"g@16", "g@64", "g@256"} <= result["runs"].keys():
        # It moves the same NIC, but no TAP.
        stock = costs(result, "g")
        ranges += f"; g: {stock(16, 64):.3f} and {stock(64, 256):.3f} ms"
        found += f"; g: {stock(16, 256):.3f} ms"
    yield Target("a queue pair costs the same from 16 to 256, within 20 %", ranges,
                 abs(many - few) <= 0.2 * few)
    former, text = FORMER_COST, f"{FORMER_COST} ms, of another machine"
    if {"before@16", "before@64", "before@256"} <= result["runs"].keys():
        former = costs(result, "before")(16, 256)
        text = "its cost in the earlier version"
    yield Target(f"a queue pair costs at most half of {text}",
                 found % former, cost(16, 256) <= former / 2)


def ioctls(lines):
    """Yield if GET and SET cost less than the older calls, with 4 queues."""
    at = next(line for line in lines if line.get("queues") == 4)
    calls = at["calls"] / at["calls_older"]
    cost = (at["get"] + at["set"]) / (at["get_older"] + at["set_older"])
    yield Target("GET and SET of 4 queues are at most 1/3 of the older calls",
                 f"{at['calls']} of {at['calls_older']}", calls <= 1 / 3)
    yield Target("GET and SET of 4 queues take at most half of their instructions",
                 f"{cost:.3f}", cost <= 0.5)


def packet_path(packets):
    """Yield if a packet takes the same instructions as on the stock driver."""
    ratios = {way: patched / stock
              for way, (patched, stock) in packet_costs(packets).items()}
    yield Target("a packet takes 1.000 times the instructions of stock",
                 ", ".join(f"{way}: {ratio:.3f}" for way, ratio in ratios.items()),
                 all(f"{ratio:.3f}" == "1.000" for ratio in ratios.values()))


def machine_code(found):
    yield Target("the packet path is the same machine code as without the feature",
                 f"{found['same']} functions the same, {found['different']} "
                 "different", found["same"] > 0 and not found["different"])


def all_targets(results):
    """Yield (place, target) for all that was measured; "" is no place."""
    for name in "host", "lab":
        if found := results.get(f"hand_over-{name}"):
            for target in *exact(found), *blackout(found):
                yield name, target
    for name, place, check in (("queue_pairs", "host", queue_pairs),
                               ("instructions", "lab", ioctls),
                               ("packets", "lab", packet_path),
                               ("machine_code", "", machine_code)):
        if name in results:
            for target in check(results[name]):
                yield place, target
