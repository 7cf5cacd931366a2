"""A worker process for tests: `worker_process.py DATABASE RUNS_DIR TOY` claims and runs jobs until SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    os.environ["DJANGO_SETTINGS_MODULE"] = "winnow.settings"
    import django
    from django.conf import settings

    settings.DATABASES["default"]["NAME"] = sys.argv[1]
    django.setup()

    from tests.training.rows import TIMING, toy_hooks
    from training import jobs, runner

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    runs_dir, toy = Path(sys.argv[2]), json.loads(sys.argv[3])
    runner.kill_orphans(runs_dir)
    while not stop.is_set():
        claim = jobs.claim(queue="gpu", host="worker", lease_seconds=TIMING.lease_seconds)
        if claim is None:
            time.sleep(0.1)
            continue
        runner.run_claimed(claim, hooks=toy_hooks(toy), timing=TIMING, runs_dir=runs_dir, threads=1, stop_event=stop)
