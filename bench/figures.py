# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics of the rounds in the JSON that the measurements write."""

import statistics

# Fate of packets, in the order of tables
FATES = "lost", "duplicated", "reordered", "corrupt"


def quartiles(values):
    """Return the first quartile, the median and the third quartile."""
    values = sorted(values)
    if len(values) < 2:
        return tuple(values * 3) or None
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, statistics.median(values), third


def median(values):
    values = list(values)
    return statistics.median(values) if values else None


def each(contender, name):
    """Return a figure of each round that has it."""
    return [r[name] for r in contender["rounds"] if name in r]


def blackouts(contender):
    """Return the seconds from the source's stop to the first packet after it.

    The source reads each packet at once until it stops. Where no packets are read,
    take the time to the start of the guest.
    """
    if contender["rounds"] and "to_guest" not in contender["rounds"][0]:
        return each(contender, "run")
    return each(contender, "first_read")


def gaps(contender, way):
    return [r[way]["gap"] for r in contender["rounds"] if way in r]


def fate(contender, what):
    """Return how many packets of all rounds met a fate, both ways."""
    return sum(r[way][what] for r in contender["rounds"]
               for way in ("to_guest", "to_host") if way in r)


def to_running(contender):
    """Return the seconds from the start of the migration until the guest runs."""
    return [r["run"] - r["migrate"] for r in contender["rounds"]
            if "migrate" in r]


def slope(points):
    """Return the slope of the line of least squares through (x, y)."""
    points = list(points)
    mean_x = statistics.mean(x for x, _ in points)
    mean_y = statistics.mean(y for _, y in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / \
        sum((x - mean_x) ** 2 for x, _ in points)


def packet_costs(lines):
    """Return {way: (instructions of the patched tun, of the stock one)}."""
    costs = {}
    for line in lines:
        costs.setdefault(line["way"], {})[line["tun"]] = line["instructions"]
    return {way: (cost["patched"], cost["stock"]) for way, cost in costs.items()}
