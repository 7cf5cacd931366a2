import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("annotation", "0010_evaluation_completions"),
        ("training", "0004_mark_evaluation_completions"),
    ]

    operations = [
        migrations.CreateModel(
            name="LabelWatch",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("fit_number", models.PositiveIntegerField(default=0)),
                ("lease_expires_at", models.DateTimeField(null=True)),
                (
                    "project",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="label_watch",
                        to="annotation.project",
                    ),
                ),
            ],
        ),
    ]
