# SPDX-License-Identifier: GPL-2.0-or-later
"""A model of an update of all guests of a host, some at a time.

An update takes processor time, which all that run share; it waits for something
else, such as timers of QEMU; and its target takes RTNL, one at a time. The processor
time is measured; the waits are what else one guest took that moved alone. The other
points check the model.
"""

import dataclasses

from figures import median

# Kernel's limit of file descriptors that one user has in flight in sockets: the
# sender's RLIMIT_NOFILE, which is this much by default
NOFILE = 1024
VMS = 1, 10, 100, 1000
AT_ONCE = 1, 2, 4, 8, 16, 32


@dataclasses.dataclass
class Update:
    """What one update costs, in seconds"""
    cpu: float
    width: float    # processors that its threads can use at a time
    wait: float
    rtnl: float


class Job:
    """An update that is under way: phases in this order"""

    def __init__(self, update):
        self.width = update.width
        self.left = [["cpu", update.cpu], ["wait", update.wait],
                     ["rtnl", update.rtnl]]


def rates(jobs, cpus):
    """Return how fast the phase of each job goes on."""
    computing = sum(job.left[0][0] == "cpu" for job in jobs)
    result, free = [], True
    for job in jobs:
        kind = job.left[0][0]
        if kind == "cpu":
            result.append(min(job.width, cpus / computing))
        elif kind == "wait":
            result.append(1)
        else:
            result.append(1 if free else 0)
            free = False
    return result


def simulate(update, vms, at_once, cpus):
    """Return the seconds that all updates take."""
    now, waiting, jobs = 0.0, vms, []
    while waiting or jobs:
        while waiting and len(jobs) < at_once:
            jobs.append(Job(update))
            waiting -= 1
        speed = rates(jobs, cpus)
        step = min(job.left[0][1] / rate
                   for job, rate in zip(jobs, speed) if rate)
        now += step
        for job, rate in zip(jobs, speed):
            job.left[0][1] -= step * rate
            if job.left[0][1] < 1e-9:
                job.left.pop(0)
        jobs = [job for job in jobs if job.left]
    return now


def measured(scale):
    """Return {guests at once: median seconds}."""
    return {int(count): median(point["total"] for point in points)
            for count, points in scale["points"].items()}


def fit(scale, rtnl):
    """Return the costs of an update."""
    alone = measured(scale)[1]
    cpu = median(point["cpu"] / int(count) for count, points in scale["points"].items()
                 for point in points)
    width = min(max(cpu / alone, 1), scale["processors"])
    return Update(cpu, width, max(alone - cpu / width - rtnl, 0), rtnl)


def memory(scale):
    """Return the private memory of a QEMU in bytes."""
    return median(move["memory"] for points in scale["points"].values()
                  for point in points for move in point["moves"])


def fits_in_flight(queues, at_once):
    """Tell if all queues may be in flight at the same time."""
    return queues * at_once <= NOFILE
