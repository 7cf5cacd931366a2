"""What 0001 held in other columns: the tie setting goes into the form, a slot's priority counts double.

Every consensus becomes due, so that the next tick fills the new columns from the votes.
"""

from django.db import migrations
from django.db.models import F
from django.utils import timezone


def carry_over(apps, schema_editor):
    project = apps.get_model("annotation", "Project")
    for row in project.objects.all():
        row.form = {"kind": "choice", "allow_tie": row.allow_tie, **row.form}
        row.save(update_fields=["form"])
    apps.get_model("annotation", "Slot").objects.exclude(priority=0).update(priority=F("priority") * 2)
    apps.get_model("annotation", "Consensus").objects.update(due_at=timezone.now())


class Migration(migrations.Migration):
    dependencies = [("annotation", "0002_feedback_kinds_and_quality")]
    operations = [migrations.RunPython(carry_over, migrations.RunPython.noop)]
