"""Reads every hostile file in this process and notes what it did: run as a program.

Smaller files come first, so that the peak of the process so far is that of the file at hand.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import hostile

from oeft_jax._checks import InputError
from weights_convert.torch_file import open_torch_file

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def read(path):
    """("read" or "refused", its message, number of tensors)."""
    try:
        with open_torch_file(path) as content:
            count = _read_all(content)
    except InputError as error:
        return "refused", str(error), 0
    return "read", "", count


def _read_all(tree):
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return sum(map(_read_all, tree))
    if tree is None or isinstance(tree, str | int | float):
        return 0
    assert tree.read().shape == tree.shape
    return 1


def watch(path, events):
    """Notes every audited event but reading the file itself; returns what turns it on and off."""
    on = []

    def hook(event, arguments):
        reads = event == "open" and str(arguments[0]) == path and not arguments[2] & WRITES
        if on and not reads and event != "builtins.id":
            events.append(f"{event} {arguments!r}"[:200])

    sys.addaudithook(hook)
    return on


def main(folder, report):
    """Writes each file to `folder`, reads it, and writes the notes to `report` as JSON."""
    limit = 8 * 2**30  # the process may never take more than this, whatever a file says
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    results, events, path = [], [], Path(folder) / "file"
    watching = watch(str(path), events)
    made = sorted(hostile.files(), key=lambda item: len(item[1]))
    watching.append(True)
    compile("1", "a probe of the watch", "eval")
    watching.clear()
    probe = list(events)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for label, data in made:
        path.write_bytes(data)
        events.clear()
        start = time.process_time()
        watching.append(True)
        try:
            outcome, message, count = read(path)
        except BaseException as error:
            outcome, message, count = "escaped", repr(error)[:200], 0
        watching.clear()
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024
        results.append({
            "name": label, "size": len(data), "outcome": outcome, "message": message, "peak": peak,
            "tensors": count, "events": list(events), "seconds": time.process_time() - start,
        })  # fmt: skip
    Path(report).write_text(json.dumps({"probe": probe, "files": results}))


if __name__ == "__main__":
    main(*sys.argv[1:])
