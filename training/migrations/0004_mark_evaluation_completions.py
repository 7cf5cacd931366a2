from django.db import migrations


def mark(apps, schema_editor):
    """The completions of evaluations that are there already."""
    evaluations = apps.get_model("training", "Round").objects.filter(purpose="evaluation").values("public_id")
    apps.get_model("annotation", "Completion").objects.filter(origin__in=evaluations).update(for_evaluation=True)


class Migration(migrations.Migration):
    dependencies = [
        ("annotation", "0010_evaluation_completions"),
        ("training", "0003_training_service"),
    ]

    operations = [migrations.RunPython(mark, migrations.RunPython.noop)]
