from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("annotation", "0009_mail"),
    ]

    operations = [
        migrations.AddField(
            model_name="completion",
            name="for_evaluation",
            field=models.BooleanField(
                default=False, help_text="Written to evaluate policies: no comparison with it becomes a preference."
            ),
        ),
        migrations.AddIndex(
            model_name="completion",
            index=models.Index(
                condition=models.Q(("for_evaluation", True)), fields=["project"], name="completion_evaluation"
            ),
        ),
    ]
