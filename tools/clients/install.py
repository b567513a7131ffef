"""Installs every client into target/clients, once: a step runs again when what it installs from has changed.

Each step is independent of the others and returns None, or one line that says what failed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from programs import CACHE, HERE, ROOT

PYTHON_PACKAGES = (HERE / "python" / "requirements.txt").read_text()


def command(*arguments, directory=None):
    """Runs a command; raises RuntimeError with its last words if it fails."""
    try:
        done = subprocess.run(arguments, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, text=True, timeout=900)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(str(error)) from error
    if done.returncode:
        words = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        raise RuntimeError("%s: %s" % (" ".join(arguments[:3]), " | ".join(words[-3:])))


def once(name, inputs, step):
    """Runs `step` unless it has succeeded before with the same inputs; None, or what failed."""
    mark = CACHE / ("%s.installed" % name)
    digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()
    if mark.exists() and mark.read_text() == digest:
        return None
    try:
        step()
    except (RuntimeError, OSError) as error:
        return str(error)
    mark.write_text(digest)
    return None


def apt(*packages):
    if os.geteuid():
        raise RuntimeError("as root: apt-get install %s" % " ".join(packages))
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    wait = ("-o", "DPkg::Lock::Timeout=600")
    command("apt-get", *wait, "update", "-q")
    command("apt-get", *wait, "install", "-q", "-y", "--no-install-recommends", *packages)


def debian():
    """kcat, and librdkafka for the C programs."""
    if shutil.which("kcat") and os.path.exists("/usr/include/librdkafka/rdkafka.h"):
        return None
    try:
        apt("kcat", "librdkafka-dev")
    except RuntimeError as error:
        return str(error)
    return None


def python():
    """confluent-kafka, kafka-python, and what the checks themselves need."""

    def step():
        venv = CACHE / "venv"
        try:
            command(sys.executable, "-m", "venv", "--clear", str(venv))
        except RuntimeError:
            apt("python3-venv")
            command(sys.executable, "-m", "venv", "--clear", str(venv))
        command(str(venv / "bin" / "pip"), "install", "-q", "-r", str(HERE / "python" / "requirements.txt"))

    return once("python", [PYTHON_PACKAGES, sys.version], step)


def java():
    """Kafka's jars, and our programs compiled."""

    def libraries():
        for tool, package in (("javac", "default-jdk-headless"), ("mvn", "maven")):
            if not shutil.which(tool):
                apt(package)
        shutil.rmtree(CACHE / "java" / "libs", ignore_errors=True)
        command("mvn", "-B", "-q", "-f", str(HERE / "java" / "pom.xml"), "dependency:copy-dependencies",
                "-DincludeScope=runtime", "-DoutputDirectory=%s" % (CACHE / "java" / "libs"))

    def programs():
        command("javac", "-Xlint:all", "-Werror", "-cp", "%s/*" % (CACHE / "java" / "libs"),
                "-d", str(CACHE / "java" / "classes"), *map(str, sources))

    sources = [HERE / "java" / "Client.java", HERE / "java" / "Admin.java"]
    return (once("java-libs", [(HERE / "java" / "pom.xml").read_text()], libraries)
            or once("java-programs", [source.read_text() for source in sources], programs))


def node():
    """kafkajs and its codecs."""

    def step():
        if not shutil.which("npm"):
            apt("nodejs", "npm")
        directory = CACHE / "node"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        shutil.copy(HERE / "node" / "package.json", directory)
        command("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", directory=directory)

    return once("node", [(HERE / "node" / "package.json").read_text()], step)


def c():
    """The C programs, with Debian's librdkafka."""

    def step():
        (CACHE / "c").mkdir(exist_ok=True)
        for name in ("client", "admin"):
            command("gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(CACHE / "c" / name),
                    str(HERE / "c" / (name + ".c")), "-lrdkafka")

    return once("c", [(HERE / "c" / (name + ".c")).read_text() for name in ("client", "admin")], step)


def rust():
    """The Rust programs and the broker, in the one build of the workspace."""
    try:
        command("cargo", "build", "--release", "--workspace", "--bins", directory=ROOT)
    except RuntimeError as error:
        return str(error)
    return None


def go_on_in_venv():
    """Starts this program again under the Python that has the modules of wire.py; or what failed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    failed = python()
    if failed:
        return failed
    interpreter = CACHE / "venv" / "bin" / "python"
    if Path(sys.prefix) != CACHE / "venv":
        os.execv(interpreter, [str(interpreter), *sys.argv])
    return None
