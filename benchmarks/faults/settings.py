"""Winnow's own settings with the short leases of the fault programme."""

from __future__ import annotations

from benchmarks.faults.topology import HEARTBEAT_SECONDS, LEASE_SECONDS, TICK_EVERY_SECONDS
from winnow.settings import *  # noqa: F403

JOB_LEASE_SECONDS, JOB_HEARTBEAT_SECONDS, TICK_SECONDS = LEASE_SECONDS, HEARTBEAT_SECONDS, TICK_EVERY_SECONDS
