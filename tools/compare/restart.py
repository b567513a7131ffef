"""W9: how long after kill -9 until every partition is written and read again."""

import time

from machine import GIB
from reading import FILLING, fill
from stage import GB
from workload import Workload


class Restart(Workload):
    """Serving means that a Produce and a Fetch were answered on every partition."""

    name, title = "W9", "serving again after kill -9, 2,000 partitions, 10 GiB"
    columns = [("serving_seconds", "serving after s"), ("first_answer_seconds", "first answer after s"), ("held_gb", "GB")]
    ratio = "serving_seconds"
    needs_process = True
    partitions, held_bytes = 2_000, 10 * GIB

    def measure(self, stage):
        import serving

        wanted = self.held_bytes if not stage.plan.shorten else GIB
        held = fill(stage, "held", {**FILLING, "partitions": self.partitions}, wanted)
        stage.figures["held_gb"] = held / GB
        stage.session.kill()
        started, stage.session = stage.subject.launch_again()
        answered, served = serving.await_all(stage.session, "held", self.partitions, started)
        stage.figures["first_answer_seconds"] = answered
        stage.figures["serving_seconds"] = served
        stage.parts["serving"] = {"started_unix_s": int(time.time()), "partitions": self.partitions}


W9 = Restart()
