"""docs/benchmarks.md, and its plots, from the JSON of a run. Pure: the same JSON gives the same bytes."""

import time

import plots
import table
import workloads
from results import Results

HEAD = """# Benchmarks

<!-- Generated from docs/results/benchmarks.json. Do not edit: `tools/compare/page` -->

Apache Kafka and Corelog, the same workloads on the same machine, side by side. `tools/compare/run` installs Kafka
from Maven Central and repeats all of it; what stands here is one run of it, misses included.
"""

RULES = """## How it is measured

- One broker at a time, alone on its core, the load generator on another one. Each measurement starts a broker on an
  empty directory and a cold page cache, and warms it up with the same load until its rate is stable.
- Kafka 4.3.1 has its defaults and the JVM flags of its documentation (6 GiB of heap). It acknowledges from memory and
  leaves flushing to the kernel. *kafka, flushed* is the same broker with `flush.messages=1` on the topic. Corelog has
  its defaults, and every acknowledgement is durable.
- Both look for segments to delete every second (`log.retention.check.interval.ms`), and topics at full speed keep
  256 MiB a partition, so that the disk is bounded. Nothing else is set but cores, addresses and directory.
- Latency counts from the moment a record was due, whether or not the broker kept up.
- *Sustained* counts the time that a durable broker needs, after the load, to bring everything into its place. Kafka's
  time for that is not counted.
- Figures are medians over the rounds; the last column has the ratio to Kafka of each round.
"""


def page(document):
    """{file name below docs/: content}"""
    results = Results(document)
    files, lines = {}, [HEAD]
    if not document["is_quotable"]:
        lines.append("**Not for quoting:** a short run (%s of %d s), made to see that the tool works.\n"
                     % ("one round" if document["rounds"] == 1 else "%d rounds" % document["rounds"], document["seconds"]))
    lines += [machine(document), RULES]
    if table.limits(results):
        lines += ["## What the machine gives\n", markdown([["", "best of %d" % results.limits["tries"]],
                  *map(list, table.limits(results))])]
    for name in results.workloads():
        lines += workload(results, workloads.ALL[name], files)
    if results.failures():
        lines += ["## What failed\n", *("- %(workload)s, %(label)s, round %(round)d: %(why)s" % failure
                                         for failure in results.failures()), ""]
    lines.append(configurations(document))
    files["benchmarks.md"] = "\n".join(lines)
    return files


def machine(document):
    found = document["machine"]
    disk = found["filesystem"]
    day = time.strftime("%Y-%m-%d", time.gmtime(document["started_unix_s"]))
    commit = (found["commit"] or "unknown")[:12] + (" with local changes" if found["changed_files"] else "")
    cpu = found["cpu"] + (", virtual" if found["virtual"] else "")
    return markdown([
        ["machine", "%d cores, %s, %.0f GiB of memory" % (found["cores"], cpu, found["memory_bytes"] / 2**30)],
        ["kernel", found["kernel"]],
        ["file system", "%s on %s (%s)" % (disk["type"], disk["device"], disk["options"])],
        ["Java", found["java"]],
        ["Corelog", "commit %s" % commit],
        ["cores", "broker %s, load %s" % (document["broker_cores"], document["client_cores"])],
        ["page cache", "emptied before each broker" if document["cache_is_dropped"] else "not emptied: that takes root"],
        ["command", "`%s`, %s, %d s" % (" ".join(document["command"]), day, document.get("seconds_in_all", 0))],
    ], head=["", ""])


def workload(results, workload, files):
    lines = ["## %s: %s\n" % (workload.name, workload.title)]
    lines.append(markdown([table.headings(workload), *table.rows(results, workload)]))
    verdicts = table.verdicts(results, workload)
    if verdicts:
        lines.append(markdown([["target", "reached", ""]] + [[what, value, verdict] for verdict, what, value in verdicts]))
    for suffix, svg in workload.plots(results).items():
        name = "plots/%s%s.svg" % (workload.name.lower(), suffix)
        files[name] = svg
        lines.append("![%s](%s)\n" % (workload.title, name))
    return lines


def configurations(document):
    lines = ["## Configurations and commands\n",
             "Every setting of both brokers, every flag of every load and all histograms are in",
             "`results/benchmarks.json`. The brokers were started with\n", "```sh"]
    for label, command in document["commands"].items():
        lines.append("# %s" % label)
        lines.append(" ".join(command) if command else "# started elsewhere")
    return "\n".join(lines + ["```", ""])


def markdown(rows, head=None):
    rows = ([head] if head is not None else []) + rows
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| %s |" % " | ".join(row) for row in cells]
    lines.insert(1, "|" + "---|" * len(cells[0]))
    return "\n".join(lines) + "\n"
