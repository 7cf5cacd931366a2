"""Votes may be aggregated by a joint model of the people. Projects that are there keep the majority."""

import django.db.models.deletion
from django.db import migrations, models


def keep_the_majority(apps, schema_editor):
    apps.get_model("annotation", "Project").objects.update(aggregator="majority")


class Migration(migrations.Migration):

    dependencies = [
        ('annotation', '0007_chat'),
    ]

    operations = [
        migrations.AddField(
            model_name='comparison',
            name='arm',
            field=models.CharField(blank=True, choices=[('chosen', 'Chosen'), ('control', 'Control')], help_text='Empty: no choice by information.', max_length=7),
        ),
        migrations.AddField(
            model_name='membership',
            name='confusion',
            field=models.JSONField(help_text='Derived: P(vote | true class) by the last fit, a row a class.', null=True),
        ),
        migrations.AddField(
            model_name='membership',
            name='rating_offset',
            field=models.FloatField(help_text="Derived: own mean rating less everybody's, in points; null below 20 ratings.", null=True),
        ),
        migrations.AddField(
            model_name='project',
            name='aggregator',
            field=models.CharField(choices=[('dawid_skene', 'Dawid Skene'), ('majority', 'Majority')], default='dawid_skene', max_length=12),
        ),
        migrations.AlterField(
            model_name='membership',
            name='reliability',
            field=models.FloatField(help_text='Derived: P(a vote is right) by the last fit.', null=True),
        ),
        migrations.AlterField(
            model_name='project',
            name='dispute_below',
            field=models.FloatField(default=0.6, help_text='Disputed below this: the top share of votes, or by the model the posterior if it is more.'),
        ),
        migrations.CreateModel(
            name='AggregationFit',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.PositiveIntegerField(default=0, help_text='Counts the fits: 0 before the first.')),
                ('requests', models.PositiveIntegerField(default=0, help_text='Counts the times that one was asked for.')),
                ('requests_met', models.PositiveIntegerField(default=0, help_text='So many had been when this one began.')),
                ('classes', models.PositiveSmallIntegerField(default=3, help_text='3 with a tie, 2 without.')),
                ('shares', models.JSONField(default=list, help_text='P(class), from a to b.')),
                ('ballots', models.PositiveIntegerField(default=0, help_text='Votes of the project when it began, of every kind.')),
                ('last_vote', models.PositiveBigIntegerField(default=0, help_text='Key of the newest of them.')),
                ('votes', models.PositiveIntegerField(default=0, help_text='Votes on pairs that are in it.')),
                ('items', models.PositiveIntegerField(default=0)),
                ('annotators', models.PositiveIntegerField(default=0)),
                ('objective', models.FloatField(help_text='Log posterior, nats.', null=True)),
                ('steps', models.PositiveIntegerField(default=0)),
                ('converged', models.BooleanField(default=False)),
                ('is_warm', models.BooleanField(default=False, help_text='It went on from the fit before.')),
                ('held_out', models.JSONField(default=dict, help_text='Log-loss of hidden votes, nats, by method.')),
                ('seconds', models.FloatField(default=0.0)),
                ('fitted_at', models.DateTimeField(null=True)),
                ('owner', models.UUIDField(null=True)),
                ('lease_expires_at', models.DateTimeField(null=True)),
                ('project', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='fit', to='annotation.project')),
            ],
        ),
        migrations.AlterField(
            model_name='consensus',
            name='method',
            field=models.CharField(blank=True, default='', help_text='Empty: nothing was computed yet.', max_length=40),
        ),
        migrations.RunPython(keep_the_majority, migrations.RunPython.noop),
    ]
