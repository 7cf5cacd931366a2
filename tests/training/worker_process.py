"""A worker process for tests: `worker_process.py DATABASE RUNS_DIR TOY` claims and runs jobs until SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    os.environ["DJANGO_SETTINGS_MODULE"] = "winnow.settings"
    import django
    from django.conf import settings

    settings.DATABASES["default"]["NAME"] = sys.argv[1]
    settings.RUNS_DIR = Path(sys.argv[2])
    django.setup()

    from tests.training.rows import TIMING, toy_hooks
    from training import runner, tasks
    from training.workers import Presence

    runner.production_hooks = lambda: toy_hooks(json.loads(sys.argv[3]))
    runner.production_timing = lambda: TIMING
    signal.signal(signal.SIGTERM, lambda *_: tasks.STOPPING.set())
    runner.kill_orphans(settings.RUNS_DIR)
    # Below the runs, where two workers of one machine meet.
    presence = Presence({"gpu": 1}, period_seconds=TIMING.heartbeat_seconds, data_dir=settings.RUNS_DIR.parent)
    presence.start()
    tasks._presences.append(presence)
    while not tasks.STOPPING.is_set():
        tasks.work("gpu")
        time.sleep(0.1)
    presence.end()
