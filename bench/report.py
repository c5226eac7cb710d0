#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Write report.html, report.txt, summary.md and results.json from measurements.

usage: report.py DIRECTORY
"""

import glob
import html
import json
import os
import sys

import plots
from tables import all_tables, summary

STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em;
       color: #222 }
table { border-collapse: collapse; margin: .5em 0 1.5em; font-size: 13px }
td, th { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: left;
         vertical-align: top }
th { background: #f3f3f3 } .bad { color: #b00020; font-weight: bold }
.good { color: #1b7a2f; font-weight: bold } svg { max-width: 100%; height: auto }
"""
LEAVE_OUT = "results.json"


def read(directory):
    """Return {name: content} of the measurements."""
    results = {}
    for path in sorted(glob.glob(os.path.join(directory, "*.json"))):
        if os.path.basename(path) != LEAVE_OUT:
            with open(path, encoding="utf-8") as file:
                name = os.path.splitext(os.path.basename(path))[0]
                results[name] = json.load(file)
    return results


def machine(results):
    """Return the sentences that say what the figures were measured on."""
    first = next((found for found in results.values() if "accelerator" in found),
                 None)
    if not first:
        return "Only parts were measured that need no guest."
    kind = {"kvm": "KVM runs the guests.",
            "tcg": "There is no KVM here: QEMU emulates the guests (TCG), so read "
                   "ratios, not milliseconds."}[first["accelerator"]]
    return (f"{first['began']} UTC, {first['processors']} processors, "
            f"Linux {first['kernel']}. {kind}")


def cell(tag, text):
    kind = {"met": ' class="good"', "NOT MET": ' class="bad"'}.get(text, "")
    return f"<{tag}{kind}>{html.escape(text)}</{tag}>"


def html_table(table):
    rows = ["".join(cell("th" if not i else "td", text) for text in row)
            for i, row in enumerate(table.rows)]
    return (f"<h2>{html.escape(table.title)}</h2><p>{html.escape(table.note)}</p>"
            "<table>" + "".join(f"<tr>{row}</tr>\n" for row in rows) + "</table>")


def page(results, tables):
    parts = [html_table(table) for table in tables]
    pictures = [f"<h2>{html.escape(plot.title)}</h2>"
                f"<p>{html.escape(plot.caption)}</p>{plot.svg}"
                for plot in plots.all_plots(results)]
    return ("<!doctype html><html lang=en><meta charset=utf-8>"
            "<title>tapstate: costs of a live update</title>"
            f"<style>{STYLE}</style><h1>Costs of a live update</h1>"
            f"<p>{html.escape(machine(results))}</p>" +
            parts[0] + "".join(pictures) + "".join(parts[1:]) + "</html>\n")


def write(directory, name, text):
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        file.write(text)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = sys.argv[1]
    results = read(directory)
    tables = all_tables(results)
    text = "\n\n".join([machine(results)] + [table.text() for table in tables])
    write(directory, "report.txt", text + "\n")
    write(directory, "summary.md", "\n\n".join(
        [machine(results)] + [table.markdown() for table in summary(results)]) + "\n")
    write(directory, LEAVE_OUT, json.dumps(results, indent=1))
    write(directory, "report.html", page(results, tables))
    print(text)


if __name__ == "__main__":
    main()
