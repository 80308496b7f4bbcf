#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the figures of a benchmark as SVG: how near each case comes to the limit, over the bytes of a call. There is a
panel for each phase, with destinations out of the cache above and in the cache below. With --peers, it draws what
peers.py measured beside the library: bars, with a panel for each file."""

import argparse
import json
import math
import re
from xml.sax.saxutils import escape

PHASES = ("decode", "speculative", "prefill", "gather")
PANEL_WIDTH, PANEL_HEIGHT = 330, 250
LEFT, TOP, GAP_X, GAP_Y, BOTTOM = 64, 78, 26, 56, 60
# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d1f", "#7f3fbf", "#777777")


def bytes_text(count):
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:g} {name}"
    return f"{count:g} B"


class Plot:
    def __init__(self, cases, ratio):
        self.cases, self.ratio = cases, ratio
        self.phases = [phase for phase in PHASES if any(c["phase"] == phase for c in cases)]
        low = min(c["bytes"] for c in cases)
        high = max(c["bytes"] for c in cases)
        self.low, self.high = math.log2(low) - 0.8, math.log2(high) + 0.8
        # What is above is drawn at the upper edge.
        self.top = min(2.0, max(1.2, math.ceil(max(c[ratio]["median"] for c in cases) * 5) / 5))
        self.layouts = list(dict.fromkeys(c["layout"] for c in cases))
        self.parts = []

    def add(self, text):
        self.parts.append(text)

    def text(self, x, y, text, anchor="middle", size=12, extra=""):
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {extra}>'
                 f'{escape(text)}</text>')

    def panel(self, x0, y0, title, cases, first_column):
        def x(count):
            return x0 + (math.log2(count) - self.low) / (self.high - self.low) * PANEL_WIDTH

        def y(ratio):
            return y0 + PANEL_HEIGHT * (1 - min(ratio, self.top) / self.top)

        self.add(f'<rect x="{x0}" y="{y0}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}" fill="#fafafa" '
                 'stroke="#888"/>')
        self.text(x0 + PANEL_WIDTH / 2, y0 - 8, title, size=13, extra='font-weight="bold"')
        for exponent in range(math.ceil(self.low), math.floor(self.high) + 1):
            if exponent % 4 == 0:
                at = x(2 ** exponent)
                self.add(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y0}" y2="{y0 + PANEL_HEIGHT}" stroke="#ddd"/>')
                self.text(at, y0 + PANEL_HEIGHT + 16, bytes_text(2 ** exponent), size=11)
        for fifth in range(round(self.top * 5) + 1):
            at = y(fifth / 5)
            self.add(f'<line x1="{x0}" x2="{x0 + PANEL_WIDTH}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
            if first_column:
                self.text(x0 - 8, at + 4, f"{fifth / 5:.1f}", anchor="end", size=11)
        self.add(f'<line x1="{x0}" x2="{x0 + PANEL_WIDTH}" y1="{y(1):.1f}" y2="{y(1):.1f}" stroke="#222" '
                 'stroke-width="1.5" stroke-dasharray="6 3"/>')
        for case in cases:
            number = self.layouts.index(case["layout"])
            ratio, colour = case[self.ratio], COLOURS[number % len(COLOURS)]
            # Layouts beside each other, as many cases have equally many bytes.
            at = x(case["bytes"]) + (number - (len(self.layouts) - 1) / 2) * 2.5
            fill = colour if case["aligned"] else "#fff"
            self.add(f'<g stroke="{colour}"><title>{escape(case["name"])}: {ratio["median"]:.2f}</title>'
                     f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(ratio["max"]):.1f}" y2="{y(ratio["min"]):.1f}" '
                     'stroke-opacity="0.4"/>'
                     f'<circle cx="{at:.1f}" cy="{y(ratio["median"]):.1f}" r="3" fill="{fill}" '
                     'fill-opacity="0.8"/></g>')

    def draw(self, title, subtitle):
        width = LEFT + len(self.phases) * (PANEL_WIDTH + GAP_X)
        rows = -(-(len(self.layouts) + 1) // 6)
        height = TOP + 2 * (PANEL_HEIGHT + GAP_Y) + BOTTOM + rows * 18 - 36
        self.add(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                 f'viewBox="0 0 {width} {height}" font-family="sans-serif" fill="#222">')
        self.add(f'<rect width="{width}" height="{height}" fill="#fff"/>')
        self.text(LEFT, 26, title, anchor="start", size=17, extra='font-weight="bold"')
        self.text(LEFT, 45, subtitle, anchor="start", size=11)
        for row, cold in enumerate((True, False)):
            y0 = TOP + row * (PANEL_HEIGHT + GAP_Y)
            for column, phase in enumerate(self.phases):
                cases = [c for c in self.cases if c["phase"] == phase and c["cold"] == cold]
                self.panel(LEFT + column * (PANEL_WIDTH + GAP_X), y0,
                           f"{phase}, {'cold' if cold else 'warm'} destination", cases, column == 0)
            middle = y0 + PANEL_HEIGHT / 2
            self.text(22, middle, "ratio to the limit", extra=f'transform="rotate(-90 22 {middle})"')
        legend = TOP + 2 * (PANEL_HEIGHT + GAP_Y)
        self.text(LEFT + (width - LEFT - GAP_X) / 2, legend - 16, "bytes of a call")
        for i, name in enumerate(self.layouts + ["not aligned"]):
            x, y = LEFT + i % 6 * 175, legend + 10 + i // 6 * 18
            colour, fill = ("#222", "#fff") if i == len(self.layouts) else (COLOURS[i % len(COLOURS)],) * 2
            self.add(f'<circle cx="{x + 5}" cy="{y - 4}" r="4" stroke="{colour}" fill="{fill}"/>')
            self.text(x + 15, y, name, anchor="start")
        self.add("</svg>")
        return "\n".join(self.parts) + "\n"


class Peers:
    """Bars from 1 to the time of another by the library's, on a logarithmic scale."""

    LABEL, WIDTH, BAR, SPACE, HEAD = 318, 380, 11, 12, 62
    SHADES = ("#9ecae1", "#6baed6", "#3182bd", "#1061ab")
    STYLE = """
  .panel { fill: #ffffff; stroke: #c8ccd2; }
  text { fill: #1c2430; font: 12px system-ui, sans-serif; }
  .title { font-weight: 600; font-size: 14px; }
  .quiet { fill: #59636e; }
  .value { font-size: 10px; }
  line { stroke: #dde1e6; }
  .one { stroke: #1c2430; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    .panel { fill: #161b22; stroke: #3d444d; }
    text { fill: #e6edf3; }
    .quiet { fill: #9ba5b0; }
    line { stroke: #30363d; }
    .one { stroke: #e6edf3; }
  }
"""

    def __init__(self, results):
        self.results, self.parts = results, []
        medians = [ratio["median"] for result in results for case in result["peers"]
                   for ratio in case["ratios"].values()]
        self.low = min(-1, math.floor(math.log2(min(medians))))
        self.high = math.ceil(math.log2(max(medians)) + 0.2)

    def text(self, x, y, text, kind="", anchor="start"):
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>')

    def x(self, ratio):
        return round(self.LABEL + (math.log2(ratio) - self.low) / (self.high - self.low) * self.WIDTH, 1)

    def panel(self, y, result):
        """Gives the lower edge."""
        self.text(20, y + 26, result["machine"]["processor"], "title")
        self.text(20, y + 44, result["machine"].get("setting") or result["machine"]["caches"], "quiet")
        cases = result["peers"]
        names = list(dict.fromkeys(name for case in cases for name in case["ratios"]))
        top, height = y + self.HEAD, len(names) * (len(cases) * self.BAR + self.SPACE)
        for exponent in range(self.low, self.high + 1):
            at, kind = self.x(2 ** exponent), "one" if exponent == 0 else ""
            self.parts.append(f'<line x1="{at}" x2="{at}" y1="{top}" y2="{top + height}" class="{kind}"/>')
            self.text(at, top + height + 16, f"{2 ** exponent:g}", "quiet", "middle")
        for row, name in enumerate(names):
            begin = top + row * (len(cases) * self.BAR + self.SPACE) + self.SPACE / 2
            self.text(self.LABEL - 10, begin + len(cases) * self.BAR / 2 + 4, name, "", "end")
            for number, case in enumerate(cases):
                if name in case["ratios"]:
                    self.bar(begin + number * self.BAR, number, case["ratios"][name]["median"])
        self.text(self.LABEL + self.WIDTH / 2, top + height + 36,
                  "time of the other / time of libkvappend: more is better for libkvappend", "quiet", "middle")
        return self.legend(top + height + 62, cases)

    def legend(self, y, cases):
        """Gives the lower edge."""
        left = x = self.LABEL - 20
        for number, case in enumerate(cases):
            width = 38 + 7 * len(case["name"])
            if x != left and x + width > self.LABEL + self.WIDTH + 20:
                x, y = left, y + 18
            self.parts.append(f'<rect x="{x}" y="{y - 10}" width="14" height="11" '
                              f'fill="{self.SHADES[number % len(self.SHADES)]}"/>')
            self.text(x + 20, y, case["name"], "quiet")
            x += width
        return y + 10

    def bar(self, y, number, ratio):
        left, right = sorted((self.x(ratio), self.x(1)))
        self.parts.append(f'<rect x="{left}" y="{y:g}" width="{right - left:.1f}" height="{self.BAR - 2}" '
                          f'fill="{self.SHADES[number % len(self.SHADES)]}"/>')
        self.text(right + 4, y + 8, f"{ratio:.2f}", "value")

    def draw(self):
        bottom = 0
        for result in self.results:
            bottom = self.panel(bottom, result)
        width, height = self.LABEL + self.WIDTH + 40, bottom + 12
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" role="img" aria-label="libkvappend beside others">\n'
                f"<!-- SPDX-License-Identifier: Apache-2.0 -->\n<style>{self.STYLE}</style>\n"
                f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6" class="panel"/>\n'
                + "\n".join(self.parts) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", nargs="+", help="what the benchmark wrote; with --peers, one file or more")
    parser.add_argument("svg", help="the file to write")
    parser.add_argument("--ratio", default="library to memcpy", help="which ratio to draw (default: %(default)s)")
    parser.add_argument("--format", default="", help="the storage format, such as f32-to-f16 (default: plain copies)")
    parser.add_argument("--peers", action="store_true", help="draw what peers.py added to the files")
    parser.add_argument("--filter", default="", help="with --peers, a regular expression for names of cases")
    options = parser.parse_args()
    files = []
    for name in options.json:
        with open(name, encoding="utf-8") as file:
            files.append(json.load(file))
    if options.peers:
        for results in files:
            results["peers"] = [case for case in results["peers"] if re.search(options.filter, case["name"])]
        with open(options.svg, "w", encoding="utf-8") as file:
            file.write(Peers(files).draw())
        return
    if len(files) != 1:
        parser.error("more than one file, but not --peers")
    results = files[0]
    cases = [c for c in results["cases"] if options.ratio in c and c["format"] == options.format]
    if not cases:
        parser.error(f"{options.json[0]} has no case with a ratio \"{options.ratio}\" and this format")
    subtitle = ", ".join(results["machine"][name] for name in ("processor", "caches") if name in results["machine"])
    title = f"libkvappend: {options.ratio}" + " (1 is as fast, more is faster; median, bars from min to max)"
    with open(options.svg, "w", encoding="utf-8") as file:
        file.write(Plot(cases, options.ratio).draw(title, subtitle))


if __name__ == "__main__":
    main()
