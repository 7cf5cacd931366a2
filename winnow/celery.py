"""The Celery app. A message says only “there is work, such as job 17”; the job row is the truth.

Every setting here is a decision of the reliability design: messages are acknowledged early and may be lost or doubled,
nothing is retried by the broker, no result is kept, no worker can be told to do anything by remote control.
"""

from __future__ import annotations

import os

from celery import Celery
from django.conf import settings

import winnow.broker  # noqa: F401  (makes directory:// known to kombu)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "winnow.settings")

app = Celery("winnow")


def _configure() -> None:
    redis_url = settings.ENV.redis_url
    app.conf.update(
        broker_url=redis_url or "directory://localhost/",
        broker_transport_options=(
            {"socket_connect_timeout": 2, "socket_timeout": 5, "max_retries": 1, "interval_start": 0}
            if redis_url
            else {"directory": str(settings.DATA_DIR / "broker")}
        ),
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=bool(redis_url),
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_default_queue="cpu",
        task_create_missing_queues=True,
        timezone="UTC",
    )


_configure()
app.autodiscover_tasks(["annotation", "training"])
