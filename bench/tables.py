# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of the results: a title, notes, and rows of which the first is the head."""

import dataclasses

import model
from figures import (FATES, blackouts, each, fate, gaps, median, packet_costs,
                     quartiles, to_running)
from targets import all_targets

# What a place means for the contenders
NOTES = {"host": " This kernel does not report the state of a TAP: c hands over "
                 "without it. The lab has both.",
         "lab": " The host is emulated, too: read ratios."}
PLACES = {"host": "on the build machine's kernel", "lab": "in the lab VM"}


@dataclasses.dataclass
class Table:
    title: str
    rows: list
    note: str = ""

    def text(self):
        """Return the table for a terminal."""
        widths = [max(len(row[i]) for row in self.rows)
                  for i in range(len(self.rows[0]))]
        numbers = [all(row[i][:1] in "0123456789-+" for row in self.rows[1:])
                   for i in range(len(widths))]
        lines = ["  ".join(cell.rjust(width) if number else cell.ljust(width)
                           for cell, width, number in zip(row, widths, numbers))
                 for row in self.rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        head = [self.title] + ([self.note] if self.note else [])
        return "\n".join(head + [line.rstrip() for line in lines])


    def markdown(self):
        """Return the table for a page such as README.md."""
        lines = ["| " + " | ".join(row) + " |" for row in self.rows]
        lines.insert(1, "|---" * len(self.rows[0]) + "|")
        return "\n".join(lines)


def ms(values):
    """Return the median and the quartiles of seconds, in ms."""
    found = quartiles(values)
    if not found:
        return "-"
    return "{1:.1f} ({0:.1f} .. {2:.1f})".format(*(1000 * v for v in found))


def targets(results):
    rows = [("target", "where", "found", "")]
    for place, target in all_targets(results):
        rows.append((target.text, PLACES.get(place, ""), target.found,
                     "met" if target.met else "NOT MET"))
    return Table("Targets", rows)


def times(found):
    rows = [("contender", "guest stopped, ms", "blackout, ms", "to running, ms",
             "QEMU's downtime, ms", "bytes in the stream")]
    for key, run in found["runs"].items():
        if not each(run, "run"):
            continue
        size = median(each(run, "bytes"))
        rows.append((f"{key}. {run['name']}", ms(each(run, "run")),
                     ms(blackouts(run)), ms(to_running(run)),
                     ms(each(run, "qemu_downtime")), str(int(size)) if size else "-"))
    return rows


def packets(found):
    rows = [("contender", *FATES, "gap to the guest, ms", "gap to the host, ms")]
    for key, run in found["runs"].items():
        if not gaps(run, "to_guest"):
            continue
        rows.append((f"{key}. {run['name']}", *(str(fate(run, w)) for w in FATES),
                     ms(gaps(run, "to_guest")), ms(gaps(run, "to_host"))))
    return rows


def hand_over(results):
    for place, where in PLACES.items():
        found = results.get(f"hand_over-{place}")
        if not found:
            continue
        count = f"{found['rounds']} rounds, 4 queue pairs, {found['rate']} " \
            "numbered packets/s each way"
        yield Table(f"A guest gets another QEMU, {where}", times(found),
                    f"Median and quartiles of {count}. Less is better." +
                    NOTES[place])
        yield Table(f"Its packets, {where}", packets(found),
                    f"Sum of {count}; longest time without a packet. "
                    "Less is better.")


def queue_pairs(results):
    if found := results.get("queue_pairs"):
        rows = [("contender", "queue pairs", "guest stopped, ms", "blackout, ms")]
        for run in found["runs"].values():
            rows.append((f"{run['contender']}. {run['name']}", str(run["queues"]),
                         ms(each(run, "run")), ms(blackouts(run))))
        yield Table("Cost of queue pairs", rows,
                    f"Median and quartiles of {found['rounds']} rounds.")


def downtime_calls(results):
    for place, where in PLACES.items():
        found = results.get(f"downtime_calls-{place}")
        if not found:
            continue
        rows = [("contender", "system calls", "ioctls of the TAP", "that take RTNL")]
        for key, run in found["runs"].items():
            rows.append((f"{key}. {run['name']}", *(
                f"{median(each(run, what)):g}" for what in ("calls", "tun", "rtnl"))))
        yield Table(f"System calls of both QEMUs during the blackout, {where}", rows,
                    f"Median of {found['rounds']} rounds, 4 queue pairs. "
                    "Less is better.")


def instructions(results):
    if lines := results.get("instructions"):
        rows = [("queues", "GET", "older reads", "SET", "older writes",
                 "GET+SET to older")]
        for line in lines:
            if "queues" in line:
                ratio = (line["get"] + line["set"]) / \
                    (line["get_older"] + line["set_older"])
                rows.append((str(line["queues"]), str(line["get"]),
                             str(line["get_older"]), str(line["set"]),
                             str(line["set_older"]), f"{ratio:.3f}"))
        yield Table("Instructions of the calls", rows,
                    "Counted, not timed. The older reads tell less. "
                    "Less is better.")
        yield Table("Instructions of GET with flows",
                    [("flows", "GET")] + [(str(line["flows"]), str(line["get"]))
                                          for line in lines if "flows" in line])


def ratios(results):
    if lines := results.get("ratios"):
        rows = [("figure", "median", "quartiles", "unit")]
        for line in lines:
            rows.append((line["what"], f"{line['median']:.2f}",
                         f"{line['q1']:.2f} .. {line['q3']:.2f}", line["unit"]))
        yield Table("Times of the calls", rows)


def packet_path(results):
    if found := results.get("packets"):
        rows = [("a packet", "patched", "stock", "ratio")]
        for way, (patched, stock) in packet_costs(found).items():
            rows.append((way, str(patched), str(stock), f"{patched / stock:.3f}"))
        yield Table("Instructions of a packet through the TAP", rows)


def rtnl_hold(results):
    """Return the seconds of RTNL that the calls of a device with 4 queues take."""
    for line in results.get("ratios", ()):
        if line["what"] == "TUNGETSTATE without flows":
            # A target reads each queue, before it runs and when it does.
            return 2 * 4 * line["median"] / 1e6
    return 0.0


def scale(results):
    found = results.get("scale")
    if not found:
        return
    update = model.fit(found, rtnl_hold(results))
    rows = [("guests at once", "measured, s", "model, s", "guest stopped, ms")]
    for count, total in model.measured(found).items():
        stops = [move["run"] for point in found["points"][str(count)]
                 for move in point["moves"]]
        predicted = model.simulate(update, count, count, found["processors"])
        rows.append((str(count), f"{total:.2f}", f"{predicted:.2f}", ms(stops)))
    yield Table("Several guests at once", rows,
                f"{found['processors']} processors, {found['rounds']} rounds. The "
                "model knows the processor time and the first row.")
    rows = [("guests of the host", *(f"{k} at a time" for k in model.AT_ONCE))]
    for vms in model.VMS:
        rows.append((str(vms), *(
            f"{model.simulate(update, vms, min(k, vms), found['processors']):.0f} s"
            for k in model.AT_ONCE)))
    yield Table("Time to update all guests of a host, by the model", rows,
                f"An update takes {update.cpu:.2f} s of processor time, "
                f"{update.wait:.2f} s of waiting and {1000 * update.rtnl:.2f} ms of "
                "RTNL; its threads use "
                f"{update.width:.1f} processors at a time. Not in the model: the load of the guests, disks, and copies "
                "of private memory.")
    rows = [("at a time", "memory of the targets",
             *(f"fds in flight, {q} queues each" for q in (4, 64, 256)))]
    for k in model.AT_ONCE:
        rows.append((str(k), f"{k * model.memory(found) / 2 ** 20:.0f} MiB", *(
            str(q * k) + ("" if model.fits_in_flight(q, k) else " (too many)")
            for q in (4, 64, 256))))
    yield Table("Limits of a host", rows,
                "All fds of all guests in flight at the same time is the worst case. Too "
                "many: more than the usual RLIMIT_NOFILE of 1024 may be in "
                "flight of one user, so sendmsg() fails with ETOOMANYREFS.")


def tool(results):
    if lines := results.get("tool"):
        rows = [("command", "processor time, ms", "system calls", "memory, MiB")]
        rows += [(line["what"], f"{1000 * line['cpu']:.0f}", str(line["calls"]),
                  f"{line['memory'] / 2 ** 20:.1f}") for line in lines]
        yield Table("The tool", rows)


def ratio(values, base):
    return f"{median(values) / base:.1f}" if values else "-"


def summary(results):
    """Return a small table of ratios to the migration of a guest without a NIC."""
    for place, where in PLACES.items():
        found = results.get(f"hand_over-{place}")
        if not found or "b" not in found["runs"]:
            continue
        base = median(blackouts(found["runs"]["b"]))
        rows = [("way to another QEMU", "blackout", "longest gap", "lost")]
        for run in found["runs"].values():
            if each(run, "run"):
                rows.append((run["name"], ratio(blackouts(run), base),
                             ratio(gaps(run, "to_guest"), base),
                             str(fate(run, "lost")) if gaps(run, "to_guest")
                             else "-"))
        yield Table(f"Ratios to the downtime of a guest without a NIC, {where}",
                    rows, f"Lost: packets of {found['rounds']} rounds.")


def all_tables(results):
    return [targets(results), *summary(results), *hand_over(results),
            *queue_pairs(results), *downtime_calls(results),
            *instructions(results), *packet_path(results), *ratios(results),
            *scale(results), *tool(results)]
