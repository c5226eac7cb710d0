#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Move guests by all contenders in turn, under traffic. Write JSON.

Each contender has a guest of its own, which waits while the others move: so a change
of the machine's load meets all of them.
"""

import argparse
import functools
import json
import os
import sys
import time

from contenders import CONTENDERS
from workers import workers


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="hand_over.json", metavar="FILE",
                        help="name of the result in $LAB_OUT")
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--queues", type=int, default=4, metavar="N")
    parser.add_argument("--rate", type=int, default=1000, metavar="N",
                        help="numbered packets per second each way")
    parser.add_argument("--kind", default="measure",
                        choices=("measure", "measure_still", "measure_calls"),
                        help="with numbered packets, without, or system calls")
    parser.add_argument("runs", nargs="*", metavar="CONTENDER[@QUEUES]",
                        help=f"contenders: {' '.join(CONTENDERS)}")
    args = parser.parse_args()
    ground = "host" if os.environ["LAB_KERNEL"] == "host" else "lab"
    args.runs = args.runs or [key for key, kind in CONTENDERS.items()
                              if ground in kind.grounds]
    for run in args.runs:
        if key_of(run) not in CONTENDERS:
            parser.error(f"no contender {run}")
    return args


def key_of(run):
    return run.partition("@")[0]


def queues_of(args, run):
    return int(run.partition("@")[2] or args.queues)


def describe(args):
    """Return what the figures depend on."""
    return {"ground": os.environ["LAB_KERNEL"], "kernel": os.uname().release,
            "accelerator": os.environ["LAB_GUEST_ACCEL"],
            "processors": os.cpu_count(),
            "rate": args.rate, "rounds": args.rounds,
            "began": time.strftime("%Y-%m-%d %H:%M", time.gmtime())}


def maker(args, run):
    """Return a function that makes the bed of a run."""
    return functools.partial(CONTENDERS[key_of(run)], {
        "rate": args.rate, "queues": queues_of(args, run)})


def rounds(args, crew):
    """Yield the figures of each run and round."""
    for number in range(args.rounds):
        # Let each contender follow another one in each round.
        turn = number % len(args.runs)
        order = args.runs[turn:] + args.runs[:turn]
        if number % 2:
            order.reverse()
        for run in order:
            figures = crew[run].call(args.kind)
            print(f"# round {number + 1}: {run}: {json.dumps(figures)}", flush=True)
            yield run, figures


def main():
    args = parse()
    result = describe(args)
    result["runs"] = {
        run: {"name": CONTENDERS[key_of(run)].name, "contender": key_of(run),
              "queues": queues_of(args, run), "rounds": []} for run in args.runs}
    with workers([maker(args, run) for run in args.runs]) as crew:
        crew = dict(zip(args.runs, crew))
        for run, worker in crew.items():
            worker.call("boot")
            print(f"# {run}: {CONTENDERS[key_of(run)].name}: booted", flush=True)
        for run, figures in rounds(args, crew):
            result["runs"][run]["rounds"].append(figures)
    path = os.path.join(os.environ["LAB_OUT"], args.out)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
