"""manage.py check_worker: whether a worker of this machine is alive, for the health check of its container."""

from __future__ import annotations

import socket
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from training import workers


class Command(BaseCommand):
    """Fails unless a worker of this host was heard of within a lease."""

    help = "Exit 0 if a worker of this host (in a container: its own) was heard of within a lease, else 1."

    def handle(self, *args: Any, **options: Any) -> None:
        host = socket.gethostname()
        if not workers.alive().filter(host=host).exists():
            raise CommandError(f"no worker of {host} was heard of lately")
