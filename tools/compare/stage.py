"""One measurement: a broker on an empty directory, the loads that it gets, and the figures that come of it."""

from machine import Failure

MB = 1e6
GB = 1e9
# what bounds the disk, on every topic that is written at full speed; both brokers get the same
BOUNDED = {"segment.bytes": 128 << 20, "retention.bytes": 256 << 20, "file.delete.delay.ms": 1000}

# records that were due and still waited when the load ended
TOO_SLOW = ("Unsent", "Unanswered")


class Plan:
    """How long, how often."""

    def __init__(self, quick, shorten, rounds):
        self.quick, self.shorten = quick, shorten
        self.rounds = rounds or (1 if quick or shorten else 3)
        self.seconds = shorten or 30
        self.short_seconds = shorten or (10 if quick else 30)  # of parts that nothing has to wrap or fill
        self.warmup_seconds = min(20, shorten) if shorten else 20
        self.warmup_seconds_max = self.warmup_seconds if shorten else 30 if quick else 60
        self.w1_rates = {}  # records/s of W1 by label, for the workloads that depend on them
        self.is_quotable = not quick and not shorten and self.rounds >= 3


class Stage:
    """A broker under measurement. Loads are kept in `parts`, word for word; `figures` is what the table shows.

    The settings of a load are flags of the load generator, and `topic_config` for the topic that is made for it.
    """

    def __init__(self, subject, load, plan):
        self.subject, self.load, self.plan = subject, load, plan
        self.parts, self.figures = {}, {}
        self.session = None

    def __enter__(self):
        self.session = self.subject.start()
        return self

    def __exit__(self, *_):
        if self.session and self.session.server:
            self.session.kill()
        self.subject.clear()

    def create(self, topic, settings):
        """A topic with what the subject's variant does to topics."""
        import topics

        config = {**settings.get("topic_config", {}), **self.subject.topic_config}
        topics.create(self.session.bootstrap, topic, settings["partitions"], config)

    def delete(self, topic):
        import topics

        topics.delete(self.session.bootstrap, topic)

    def warm_up(self, mode, settings):
        """The same load on a topic of its own, until the rate is stable; the topic goes."""
        self.create("warm-up", settings)
        part = self.load.warm_up(self.session, mode, flags(settings, "warm-up"), self.plan.warmup_seconds,
                                 self.plan.warmup_seconds_max)
        self.delete("warm-up")
        self.parts["warm_up"] = part
        self.figures["warm_up_is_stable"] = part["is_stable"]

    def run(self, part, mode, settings, seconds=None, keep=False):
        """A measured load on a topic of its own, which goes unless it is kept."""
        self.create(part, settings)
        result = self.load.run(self.session, mode, self.timed(flags(settings, part), seconds))
        if not keep or not self.subject.started_here:
            self.delete(part)
        return self.keep(part, result)

    def load_started(self, mode, settings, topic, times):
        """A load on a topic that exists; the caller waits for it."""
        return self.load.start(self.session, mode, {**flags(settings, topic), **times})

    def load_once(self, mode, settings, topic, times):
        """A load on a topic that exists, to its end; nothing is kept."""
        return self.load.run(self.session, mode, {**flags(settings, topic), **times})

    def check_deleted(self, topic):
        """Raises unless retention has deleted something of every partition."""
        import topics

        starts = topics.log_starts(self.session.bootstrap, topic)
        if not starts or min(starts) <= 0:
            raise Failure("retention deleted nothing: log starts %s" % starts)

    def timed(self, settings, seconds=None):
        return {"warmup": 3, "duration": seconds or self.plan.seconds, **settings}

    def keep(self, part, result):
        """A record that was refused is a failure; one that the broker was too slow for is a figure."""
        self.parts[part] = result
        for side in ("produce", "consume"):
            errors = (result.get(side) or {}).get("errors") or {}
            refused = {name: count for name, count in errors.items() if name not in TOO_SLOW}
            if refused:
                raise Failure("%s of %s: %s" % (part, self.subject.label, refused))
            if errors:
                self.figures["%s_too_late" % part] = sum(errors.values())
        return result

    def latency(self, side, prefix=""):
        """Keeps the percentiles of one side of a result."""
        for name in ("p50", "p99", "p99_9", "p99_99", "max"):
            self.figures["%s%s_ms" % (prefix, name)] = side["latency_us"][name] / 1000

    def usage(self):
        return self.session.usage()

    def counters(self):
        """The broker's own counters, where it has some."""
        return self.subject.counters()

    def stop(self):
        """Stops the broker: what waits in memory or journal goes to its place. Returns the seconds."""
        return self.session.stop()

    def restart_cold(self):
        """The same directory served by a new process, with nothing in the page cache."""
        self.session.stop()
        self.session = self.subject.start(fresh=False)


def flags(settings, topic):
    """The settings that the load generator gets: the topic exists already."""
    return {**{name: value for name, value in settings.items() if name != "topic_config"}, "topic": topic}


def cpu_per_gb(seconds, byte_count):
    return seconds / (byte_count / GB) if seconds is not None and byte_count else None
