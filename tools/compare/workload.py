"""What every workload has; each one says what differs."""


import plots


class Workload:
    """`measure` runs the loads on one broker and fills `figures`; columns, ratio and title are for the table."""

    name = title = ""
    columns = []  # (figure, heading)
    ratio = None  # the figure that is set in relation to Kafka's, pair by pair
    has_flushed = has_flushed_when_quick = False  # Kafka also runs with flush.messages=1
    has_two_cores = False  # both also run on the load's cores besides their own
    needs_w1 = ()  # labels whose W1 rate must be known first
    needs_process = False  # cannot be run against a broker that was started elsewhere
    held_bytes = 0  # what it keeps on the disk, besides what every workload needs
    parts_with_percentiles = ()  # (part, side) whose latencies are drawn

    def measure(self, stage):
        raise NotImplementedError

    def plots(self, results):
        """{suffix of the file name: SVG}"""
        drawn = {"": plots.percentiles(results, self)} if self.parts_with_percentiles else {}
        return {suffix: svg for suffix, svg in drawn.items() if svg}
