"""What each workload has to reach, and whether it did. Pure: computed from the JSON alone, every time anew."""

from results import CORELOG, KAFKA, TWO_CORES

GB, MB = 1e9, 1e6


class Target:
    """One line of the verdict. `is_met` is None when nothing was measured that could tell."""

    def __init__(self, what, value, is_met, mark=""):
        self.what, self.value, self.is_met, self.mark = what, value, is_met, mark


def at_least(what, value, wanted, mark=""):
    return Target(what, value, None if value is None or wanted is None else value >= wanted, mark)


def at_most(what, value, wanted, mark=""):
    return Target(what, value, None if value is None or wanted is None else value <= wanted, mark)


def either(what, value, *verdicts):
    """Met when one of them is; unknown when none is met and one is unknown."""
    met = True if True in verdicts else None if None in verdicts else False
    return Target(what, value, met)


def below(value, limit):
    return None if value is None or limit is None else value < limit


def product(*factors):
    found = 1.0
    for factor in factors:
        if factor is None:
            return None
        found *= factor
    return found


def divided(above, under):
    return None if above is None or not under else above / under


def w1(results):
    reached = results.median("W1", CORELOG, "records_per_second")
    ratio = results.ratio("W1", "records_per_second")
    per_record = results.median("W1", CORELOG, "wire_bytes_per_record")
    amplification = results.median("W1", CORELOG, "write_amplification")
    device = divided(results.rate("durable_write"), product(per_record, amplification))
    kafka = results.median("W1", KAFKA, "records_per_second")
    sustained = results.median("W1", CORELOG, "ring_wraps")
    wanted = max(8e6, 5 * kafka) if kafka else 8e6
    found = [at_least("the journal ring wrapped twice", sustained, 2)]
    if device is not None and device < wanted:
        share = divided(reached, device)
        what = "at least 90 %% of the device's bound, %s records/s" % count(device)
        return found + [at_least(what, share, 0.9, "bound by the device")]
    return found + [at_least("at least 5 x Kafka's records/s", ratio, 5),
                    at_least("above 8 million records/s on one core", reached, 8e6)]


def w2(results):
    reached = results.median("W2", CORELOG, "wire_mb_per_second")
    amplification = results.median("W2", CORELOG, "write_amplification")
    bounds = [results.rate("loopback"), divided(results.rate("durable_write"), amplification)]
    bound = None if None in bounds else min(bounds) / MB
    what = "at least 70 % of the lower of loopback and durable rate / write amplification"
    if bound:
        what += ", %.0f MB/s" % bound
    return [
        at_least("the journal ring wrapped twice", results.median("W2", CORELOG, "ring_wraps"), 2),
        at_least("at least 3 x Kafka's MB/s", results.ratio("W2", "mb_per_second"), 3),
        at_least(what, divided(reached, bound), 0.7),
        at_most("write amplification at most 2.1", amplification, 2.1),
    ]


def w3(results):
    p99, ratio = results.median("W3", CORELOG, "p99_ms"), results.ratio("W3", "p99_ms")
    at_tail = results.median("W3", CORELOG, "p99_9_ms")
    return [
        either("p99 at most 1/5 of Kafka's, or below 2 ms", p99, below(p99, 2.0),
               None if ratio is None else ratio <= 0.2),
        Target("p99.9 below 10 ms", at_tail, below(at_tail, 10.0)),
    ]


def w4(results):
    p99 = results.median("W4", CORELOG, "p99_ms")
    return [
        Target("p99 below 3 ms, every ack durable", p99, below(p99, 3.0)),
        at_least("at the rate asked for, 30,000 records/s", results.median("W4", CORELOG, "records_per_second"), 29_700),
    ]


def w5(results):
    ratio = results.median("W5", CORELOG, "p99_ratio")
    return [
        at_most("p99 of 2,000 partitions at most 1.5 x that of 10", ratio, 1.5),
        at_least("at the rate asked for, 20,000 records/s", results.median("W5", CORELOG, "records_per_second"), 19_800),
    ]


def loop_cpu(results, name):
    found = results.limits.get(name) if results.limits else None
    return found["cpu_seconds_per_gb"] if found else None


def w6(results):
    """The bare loop takes a byte in once and sends it five times."""
    cost = results.median("W6", CORELOG, "cpu_seconds_per_gb_delivered")
    taken, sent = loop_cpu(results, "durable_loop"), loop_cpu(results, "memory_loop")
    bare = None if None in (taken, sent) else taken / 5 + sent
    share = divided(cost, bare)
    ratio = results.ratio("W6", "cpu_seconds_per_gb_delivered")
    return [
        at_most("broker CPU per GB delivered at most 1.5 x the bare loop's", share, 1.5),
        Target("and below Kafka's (ratio)", ratio, below(ratio, 1.0)),
    ]


def w7(results):
    bare = [results.rate("sendfile_loop"), results.rate("direct_loop")]
    bare = None if None in bare else max(bare) / MB
    drain = results.median("W7", CORELOG, "drain_mb_per_second")
    p99 = results.median("W7", CORELOG, "p99_ms")
    undisturbed = results.median("W7", CORELOG, "undisturbed_p99_ms")
    what = "drain at 80 % of the better bare loop"
    return [
        at_least(what + (", %.0f MB/s" % bare if bare else ""), divided(drain, bare), 0.8),
        either("the producer's p99 at most 2 x undisturbed, or below 3 ms", p99, below(p99, 3.0),
               None if None in (p99, undisturbed) else p99 <= 2 * undisturbed),
    ]


def w8(results):
    produced = divided(results.median("W8", CORELOG, "produce_cpu_seconds_per_gb"), loop_cpu(results, "durable_loop"))
    bare = [loop_cpu(results, "sendfile_loop"), loop_cpu(results, "direct_loop")]
    consumed = divided(results.median("W8", CORELOG, "consume_cpu_seconds_per_gb"), None if None in bare else min(bare))
    idle = results.median("W8", CORELOG, "idle_cpu_percent")
    return [
        at_most("CPU per GB produced at most 1.5 x the bare loop's", produced, 1.5),
        at_most("CPU per GB consumed at most 1.5 x the bare loop's", consumed, 1.5),
        Target("idle below 0.5 % of a core", idle, below(idle, 0.5)),
    ]


def w9(results):
    return [at_most("serving within 2 s after kill -9", results.median("W9", CORELOG, "serving_seconds"), 2.0)]


def w10(results):
    """Flat is within a fifth of the first point."""
    found = []
    for sweep, what in (("partitions", "1 to 10,000 partitions"), ("connections", "1 to 10,000 connections"),
                        ("record_size", "10 B to 1 MiB records, per byte")):
        found.append(at_most("cost flat or falling: " + what, results.median("W10", CORELOG, "%s_worst" % sweep), 1.2))
    two = results.median("W10", "%s, %s" % (CORELOG, TWO_CORES), "batched_cpu_us")
    one = results.median("W10", CORELOG, "batched_cpu_us")
    return found + [at_most("cost flat or falling: 1 to 2 shards", divided(two, one), 1.2)]


def w11(results):
    return [at_most("p99 at most 1.5 x that before the first deletion", results.median("W11", CORELOG, "p99_ratio"), 1.5)]


JUDGES = {"W1": w1, "W2": w2, "W3": w3, "W4": w4, "W5": w5, "W6": w6, "W7": w7, "W8": w8, "W9": w9, "W10": w10,
          "W11": w11}


def judge(results, workload):
    """The targets of one workload; [] where there is none."""
    return JUDGES[workload](results) if workload in JUDGES else []


def is_missed(results):
    """Whether a target was missed, could not be judged, or a measurement failed."""
    verdicts = [target.is_met for workload in results.workloads() for target in judge(results, workload)]
    return bool(results.failures()) or not all(verdicts)


def count(number):
    return "{:,.0f}".format(number)
