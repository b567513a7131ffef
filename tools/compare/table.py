"""One table for all workloads: a row a broker, its medians, the ratio to Kafka, and the targets. Pure."""

from results import KAFKA
from targets import judge

VERDICTS = {True: "met", False: "MISSED", None: "UNKNOWN"}


def number(value):
    """Three digits that matter, thousands apart."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if abs(value) >= 100:
        return "{:,.0f}".format(value)
    return "%.1f" % value if abs(value) >= 10 else "%.2f" % value if abs(value) >= 1 else "%.3f" % value


def rows(results, workload):
    """[[broker, figure, ...]] under the workload's headings; a last column for the ratio, pair by pair."""
    found = []
    for label in results.labels(workload.name):
        row = [label] + [number(results.median(workload.name, label, figure)) for figure, _ in workload.columns]
        if workload.ratio:
            ratios = results.ratios(workload.name, workload.ratio, label) if label != KAFKA else []
            row.append(" ".join(number(ratio) for ratio in ratios) or "-")
        found.append(row)
    return found


def headings(workload):
    found = ["broker"] + [heading for _, heading in workload.columns]
    if workload.ratio:
        found.append("/ kafka (%s)" % dict(workload.columns)[workload.ratio])
    return found


def verdicts(results, workload):
    """[(verdict, what, value)] of the workload's targets."""
    return [(VERDICTS[target.is_met] + (", %s" % target.mark if target.mark else ""), target.what, number(target.value))
            for target in judge(results, workload.name)]


def limits(results):
    """[(what, figure)] of what the machine gives."""
    found = results.limits
    if not found:
        return []
    lines = [("durable overwrite, fio", rate(found["durable_write"])), ("loopback, iperf3", rate(found["loopback"]))]
    names = {"durable_loop": "receive + CRC-32C + durable write", "sendfile_loop": "cold sendfile",
             "direct_loop": "direct read + send", "memory_loop": "send from memory"}
    for key, name in names.items():
        cpu = "%s CPU s/GB" % number(found[key]["cpu_seconds_per_gb"])
        lines.append(("one core: " + name, "%s, %s" % (rate(found[key]), cpu)))
    return lines


def rate(limit):
    return "%s MB/s" % number(limit["bytes_per_second"] / 1e6)


def text(results, workloads):
    """Everything, for a terminal."""
    lines = ["the machine: " + "; ".join("%s %s" % line for line in limits(results))] if limits(results) else []
    for name in results.workloads():
        workload = workloads[name]
        lines += ["", "%s: %s" % (name, workload.title)]
        cells = [headings(workload)] + rows(results, workload)
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        for row in cells:
            lines.append("  " + "  ".join(cell.rjust(width) if column else cell.ljust(width)
                                          for column, (cell, width) in enumerate(zip(row, widths))))
        lines += ["  %-8s %s: %s" % verdict for verdict in verdicts(results, workload)]
    lines += ["", *("FAILED   %(workload)s, %(label)s, round %(round)d: %(why)s" % failure for failure in results.failures())]
    if not results.document["is_quotable"]:
        lines.append("not for quoting: a short run; `tools/compare/run` without --quick measures for the record")
    return "\n".join(lines)
