from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("annotation", "0003_carry_over")]
    operations = [migrations.RemoveField(model_name="project", name="allow_tie")]
