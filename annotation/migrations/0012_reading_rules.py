from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("annotation", "0011_erasure"),
    ]

    operations = [
        migrations.AddField(
            model_name="project",
            name="min_reading_seconds",
            field=models.PositiveSmallIntegerField(
                default=0, help_text="Attention before the page takes an answer; 0: none."
            ),
        ),
        migrations.AddField(
            model_name="project",
            name="read_to_end",
            field=models.BooleanField(
                default=False, help_text="The page takes an answer when the end of every response was on the screen."
            ),
        ),
    ]
