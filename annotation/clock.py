"""Lease times: the one place that adds minutes to a moment, and says what a live lease is in a query.

Votes and leases compare times that all come from the web's own clock (`now` is an argument everywhere); a skew between
web processes only shortens or lengthens a lease. Jobs, where a worker may be far away, use database time instead.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Q


def lease_end(now: datetime, minutes: int) -> datetime:
    """When a lease that starts now ends."""
    return now + timedelta(minutes=minutes)


def free_slot(now: datetime) -> Q:
    """Slots that nobody holds: open, or leased with the lease over."""
    return Q(state="open") | Q(state="leased", lease_expires_at__lt=now)
