"""Who may judge what: an audience is a set of tags, and a person serves it who has them all.

The key of an audience is its sorted tags joined by blanks: "" is everybody, `lang:de skill:medicine` is whoever reads
German and knows medicine, `person:17` is one person (their own chat). A comparison has one, and so have its slots.
"""

from __future__ import annotations

from collections.abc import Callable

from django.db.models import Q

from annotation.models import Audience, Membership

EVERYBODY = ""
PERSON = "person:"
_LANGUAGE = "lang:"
_SKILL = "skill:"


def may_serve(membership: Membership) -> Callable[[str], bool]:
    """Whether this person may judge what has a given audience key; who names no languages may judge any language."""
    tags = {f"{_LANGUAGE}{name}" for name in membership.languages}
    tags |= {f"{_SKILL}{name}" for name in membership.skills}
    tags.add(f"{PERSON}{membership.user_id}")
    reads_all = not membership.languages

    def serves(key: str) -> bool:
        return all(tag in tags or (reads_all and tag.startswith(_LANGUAGE)) for tag in key.split())

    return serves


def served(membership: Membership) -> list[str]:
    """The audiences that this person serves among those that the project uses, the narrowest first; one query.

    Fewer people can do what is narrow, so at equal priority it goes first.
    """
    serves = may_serve(membership)
    others = Q(key__startswith=PERSON) & ~Q(key=f"{PERSON}{membership.user_id}")
    keys = Audience.objects.filter(project_id=membership.project_id).exclude(others).values_list("key", flat=True)
    found = [key for key in keys if key != EVERYBODY and serves(key)]
    return [*sorted(found, key=lambda key: (-len(key.split()), key)), EVERYBODY]
