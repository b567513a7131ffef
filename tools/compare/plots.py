"""Plain SVG: a few lines over a logarithmic scale, readable in a README. Pure."""

import math

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 50
COLORS = ["#1b6ca8", "#c23b22", "#e08e0b", "#4f8a3d", "#6b4fa0", "#555555"]


class Scale:
    """Maps values to pixels, logarithmically when `is_log`."""

    def __init__(self, values, start, end, is_log):
        self.start, self.end, self.is_log = start, end, is_log
        low, high = min(values), max(values)
        if is_log:
            low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
            if low == high:
                high = low * 10
        else:
            low, high = 0, high * 1.05 or 1
        self.low, self.high = low, high

    def at(self, value):
        def position(number):
            return math.log10(number) if self.is_log else number

        share = (position(value) - position(self.low)) / (position(self.high) - position(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self):
        if self.is_log:
            decades = round(math.log10(self.high / self.low))
            return [self.low * 10 ** power for power in range(decades + 1)]
        step = 10 ** math.floor(math.log10(self.high))
        step = step / 2 if self.high / step < 4 else step
        return [step * number for number in range(int(self.high / step) + 1)]


def line_chart(title, x_title, y_title, series, names=None, x_log=True, y_log=True):
    """An SVG of `series` {label: [(x, y)]}; with `names` the x values are places in that list."""
    points = [point for line in series.values() for point in line]
    if not points:
        return None
    if names:
        x_scale = Scale([0, len(names) - 1], LEFT, WIDTH - RIGHT, False)
        x_scale.high = len(names) - 1
        x_ticks = list(enumerate(names))
    else:
        x_scale = Scale([x for x, _ in points], LEFT, WIDTH - RIGHT, x_log)
        x_ticks = [(value, short(value)) for value in x_scale.ticks()]
    y_scale = Scale([y for _, y in points], HEIGHT - BOTTOM, TOP, y_log)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">' % (WIDTH, HEIGHT),
        '<rect width="%d" height="%d" fill="white"/>' % (WIDTH, HEIGHT),
        text(LEFT, 20, escape(title), "start", 'font-size="14"'),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, escape(x_title)),
        text(LEFT - 8, TOP - 8, escape(y_title), "middle"),
    ]
    for value in y_scale.ticks():
        y = y_scale.at(value)
        parts.append('<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#dddddd"/>' % (LEFT, y, WIDTH - RIGHT, y))
        parts.append(text(LEFT - 6, y + 4, short(value), "end"))
    for value, name in x_ticks:
        parts.append(text(x_scale.at(value), HEIGHT - BOTTOM + 18, escape(name)))
    for number, (label, line) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        path = " ".join("%.1f,%.1f" % (x_scale.at(x), y_scale.at(y)) for x, y in line)
        parts.append('<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>' % (path, color))
        parts += ['<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>' % (x_scale.at(x), y_scale.at(y), color) for x, y in line]
        parts.append(text(WIDTH - RIGHT + 12, TOP + 18 * number, escape(label), "start", 'fill="%s"' % color))
    return "\n".join(parts + ["</svg>", ""])


def text(x, y, content, anchor="middle", more=""):
    return '<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>' % (x, y, anchor, more, content)


def short(value):
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return "%g%s" % (value / factor, unit)
    return "%g" % value


def escape(content):
    return content.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def percentiles(results, workload):
    """What waits how long, one line a broker, of the last round; None when nothing is there."""
    names = ["p50", "p90", "p99", "p99_9", "p99_99", "max"]
    series = {}
    for part, side in workload.parts_with_percentiles:
        for label in results.labels(workload.name):
            latency = results.runs(workload.name, label)[-1]["parts"][part][side]["latency_us"]
            series[label] = [(place, max(latency[name], 1) / 1000) for place, name in enumerate(names)]
    shown = [name.replace("_", ".") for name in names]
    return line_chart("%s: %s" % (workload.name, workload.title), "", "ms", series, shown)
