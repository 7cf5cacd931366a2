"""Forms of the methods: every setting of the engine's configs, with the bounds that the engine really has."""

from __future__ import annotations

import dataclasses
import re
from uuid import uuid4

import pytest

from tests import world
from training import form_texts, forms
from training.engine.config import METHODS as CONFIGS
from training.engine.config import parse_config
from training.engine.errors import ConfigError
from training.engine.presets import PRESETS, merge
from training.forms import INPUT_PATHS, METHODS, value_at
from training.launching import flat

ADDRESS = "/api/v1/projects/helpful/methods"
JUDGE = {"model": "m", "server": {"url": "http://127.0.0.1/v1"}}
FREE = {"missing_end_score", "epsilon", "gamma", "samples"}  # no bound holds, or one that depends on another setting
DEPENDING = {"batch.completions", "batch.per_prompt", "batch.minibatch", "kl.horizon"}  # on each other as well


def complete(method, path, value):
    """A config of the method with one setting changed."""
    config = merge({**forms.defaults(method, parameters=None), "method": method}, forms.stand_ins(method))
    if path.startswith("online_dpo.judge."):
        config = merge(config, {"online_dpo": {"labeller": "judge", "judge": JUDGE}})
    nested = value
    for part in reversed(path.split(".")):
        nested = {part: nested}
    return merge(config, nested)


def refused(method, path, value):
    """The key that the engine names when the setting has this value, None if it takes it."""
    try:
        parse_config(complete(method, path, value))
    except ConfigError as error:
        return error.key
    return None


@pytest.mark.parametrize("method", METHODS)
def test_a_form_has_every_setting_of_the_config_and_no_path_of_the_server(method):
    fields = {field.path: field for field in METHODS[method].fields}
    assert len(fields) == len(METHODS[method].fields)
    default = forms.defaults(method, parameters=None)
    settings = {path for path in flat(default) if path != "method"}
    assert settings - INPUT_PATHS <= set(fields)
    assert not INPUT_PATHS & set(fields) and not any(
        path.startswith("models.") for path in set(fields) - {"models.combine"}
    )
    inside_sections = {path for path in fields if path.startswith("online_dpo.judge.")} | {"adapter"}
    assert set(fields) - inside_sections <= settings


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_says_what_it_is(method):
    for field in METHODS[method].fields:
        assert field.label and field.help, field.path
        assert field.section == (
            "run" if "." not in field.path and field.type != "section" else field.path.split(".")[0]
        )
        assert (field.type == "choice") == bool(field.choices)


def test_labels_units_and_main_settings_are_of_settings_that_exist():
    fields = {field.path: field for method in METHODS.values() for field in method.fields}
    names = {path.rpartition(".")[2] for path in fields}
    for by_path in (form_texts.LABELS, form_texts.MAIN, form_texts.HELPS, form_texts.CHOICES):
        assert set(by_path) <= set(fields)
    assert set(form_texts.UNITS) <= set(fields) | names
    for path, choices in form_texts.CHOICES.items():
        assert set(choices) <= set(fields[path].choices)


def test_no_help_speaks_of_json_or_of_the_source():
    shorthand = re.compile(r"\bnull\b|\.py\b|\.jsonl\b|\bq\b|exit \d|ENGINE|π|y_w|c_v|ε_")
    fields = [field for method in METHODS.values() for field in method.fields]
    told = {field.path: field.help for field in fields}
    for field in fields:
        told |= {f"{field.path}={name}": text for name, text in zip(field.choices, field.choice_help, strict=True)}
    assert {path: text for path, text in told.items() if shorthand.search(text) or not text} == {}


def test_every_config_of_the_engine_that_trains_has_a_form():
    trained = {
        name for name, config in CONFIGS.items() if "optim" in {item.name for item in dataclasses.fields(config)}
    }
    assert trained == {method.name for method in METHODS.values() if method.trains}


@pytest.mark.parametrize("method", METHODS)
def test_bounds_are_where_the_engine_begins_to_refuse(method):
    wrong = []
    for field in METHODS[method].fields:
        if field.type not in ("number", "integer"):
            continue
        bounds, step = field.bounds, 1 if field.type == "integer" else 1e-6
        whole = int if field.type == "integer" else float
        if bounds.low is None and bounds.high is None and field.path.rpartition(".")[2] not in FREE:
            wrong.append(f"{field.path} has no bounds")
        for bound, excluded, inwards in (
            (bounds.low, bounds.low_excluded, step),
            (bounds.high, bounds.high_excluded, -step),
        ):
            if bound is None:
                continue
            outside = whole(bound) if excluded else whole(bound) - inwards
            inside = whole(bound) + inwards if excluded else whole(bound)
            if refused(method, field.path, outside) != field.path:
                wrong.append(f"{field.path} takes {outside}")
            if field.path not in DEPENDING and refused(method, field.path, inside) is not None:
                wrong.append(f"{field.path} refuses {inside}")
    assert wrong == []


def test_bounds_help_and_choices_are_those_of_the_source():
    fields = {field.path: field for field in METHODS["dpo"].fields}
    rate = fields["optim.warmup_share"].bounds
    assert (rate.low, rate.low_excluded, rate.high, rate.high_excluded) == (0, False, 1, True)
    assert fields["stop.max_steps"].bounds.low == 1 and fields["stop.max_steps"].optional
    assert fields["optim.beta1"].bounds.high == 1  # required in a loop over both
    assert fields["seed"].bounds.high == 2**31  # required in a function that all configs share
    assert fields["dpo.epsilon"].bounds == forms.NO_BOUNDS  # depends on the link
    link = fields["dpo.link"]
    assert link.choices == ("nll", "smoothed", "robust", "ipo", "hinge", "margin")
    assert link.help == form_texts.HELPS["dpo.link"]  # the engine's own points at its source
    assert fields["optim.learning_rate"].help == "Highest learning rate."
    assert fields["adapter"].type == "section" and fields["adapter"].help.endswith("Off: all weights are trained.")
    assert fields["data.max_tokens"].unit == fields["eval.max_new_tokens"].unit == "tokens"


def test_presets_and_machines_change_the_defaults_and_nothing_else():
    for preset in PRESETS.values():
        made = flat(forms.defaults(preset.method, parameters=None, preset=preset.name))
        plain = flat(forms.defaults(preset.method, parameters=None))
        changed = {path for path in made if made[path] != plain[path]}
        assert changed <= set(flat(preset.overrides))
    on_gpu = forms.defaults("dpo", parameters=None, machine="one GPU")
    assert (on_gpu["precision"]["dtype"], on_gpu["memory"]["micro_tokens"]) == ("bf16", 16_384)
    assert forms.defaults("serve", parameters=None, machine="one GPU") == forms.defaults("serve", parameters=None)


@pytest.mark.django_db
def test_the_api_gives_every_method_with_its_settings_for_a_model():
    scene = world.build()
    olga = world.client(scene.people["olga"])
    answer = olga.get(f"{ADDRESS}?model={scene.policy.public_id}").json()
    assert [item["name"] for item in answer["items"]] == list(METHODS)
    assert {machine["name"] for machine in answer["machines"]} == {"laptop CPU", "one GPU", "many GPUs"}
    for item in answer["items"]:
        for shown in item["fields_shown"] + item["fields_more"]:
            value = value_at(item["defaults"], shown["path"])
            assert shown["default"] == (value is not None if shown["type"] == "section" else value)
    methods = {item["name"]: item for item in answer["items"]}
    assert methods["ppo"]["roles"] == [
        {"role": "rewards", "kind": "reward", "least": 1, "most": 8},
        {"role": "held_out", "kind": "reward", "least": 0, "most": 8},
    ]
    assert {preset["name"] for preset in methods["grpo"]["presets"]} == {"dr_grpo"}
    assert methods["sft"]["kinds"] == ["demonstrations"] and not methods["score"]["needs_model"]
    shown = {field["path"]: field for field in methods["dpo"]["fields_shown"]}
    rate = shown["optim.learning_rate"]
    assert (rate["low"], rate["low_excluded"], rate["default"]) == (0, True, 5e-05)  # ×10 for LoRA, ×5 for its size
    assert olga.get(f"{ADDRESS}?model={uuid4()}").json()["code"] == "unknown_model"
    assert world.client(scene.people["stan"]).get(ADDRESS).status_code == 404
    assert world.client(scene.people["ann"]).get(ADDRESS).status_code == 403
