"""The rows of annotation: fields, constraints, indexes and small facts.

Facts (votes, retractions, flags, guideline versions) are never edited; consensus is derived and can be rebuilt. The
project is in every unique constraint of slot, assignment and vote, so that these tables can be partitioned later.

The module is long because all rows of annotation stand in one place, where their constraints can be read together.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
import uuid
from datetime import datetime
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from annotation.feedback import Form, read_form


class UserManager(BaseUserManager["User"]):
    """Makes users; the e-mail address is the name to sign in with."""

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        """A user with a hashed password; without one, no password will work."""
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save()
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        """An operator of the site."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email=(username or "").lower())


class User(AbstractBaseUser, PermissionsMixin):
    """A person. `is_staff` is the site's operator; what a person may do in a project is their membership's role."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    email = models.EmailField(unique=True)
    name = models.CharField(max_length=120, blank=True)
    is_staff = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now)

    objects: ClassVar[UserManager] = UserManager()
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    def __str__(self) -> str:
        return self.name or self.email


class Role(models.TextChoices):
    """What a member may do in a project."""

    ANNOTATOR = "annotator"
    ADJUDICATOR = "adjudicator"
    VIEWER = "viewer"
    MANAGER = "manager"
    OWNER = "owner"

    @property
    def can_annotate(self) -> bool:
        return self is not Role.VIEWER

    @property
    def can_research(self) -> bool:
        """Reads the researcher's screens, and so learns what an annotator must not."""
        return self in {Role.VIEWER, Role.MANAGER, Role.OWNER}

    @property
    def can_manage(self) -> bool:
        return self in {Role.MANAGER, Role.OWNER}

    @property
    def can_adjudicate(self) -> bool:
        return self in {Role.ADJUDICATOR, Role.MANAGER, Role.OWNER}


class OverlapRule(models.TextChoices):
    """How many votes a comparison wants: always the same, or until its posterior is clear (STATISTICS 6.1)."""

    FIXED = "fixed"
    ADAPTIVE = "adaptive"


class Aggregator(models.TextChoices):
    """How votes become a label (STATISTICS 3): by Dawid and Skene's model of the people, or by counting."""

    DAWID_SKENE = "dawid_skene"
    MAJORITY = "majority"


class Project(models.Model):
    """One annotation task: what it asks, how many votes each comparison wants, and the rules of its quality."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    slug = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=120)
    question = models.CharField(max_length=200, default="Which response is better?")
    form = models.JSONField(default=dict, help_text="The feedback form, as `feedback.read_form` reads it.")
    form_number = models.PositiveIntegerField(default=1, help_text="Counts the forms; earlier ones are FormVersion.")
    lease_minutes = models.PositiveSmallIntegerField(default=15)
    aggregator = models.CharField(max_length=12, choices=Aggregator, default=Aggregator.DAWID_SKENE)
    dispute_below = models.FloatField(
        default=0.6,
        help_text="Disputed below this: the top share of votes, or by the model the posterior if it is more.",
    )
    flag_limit = models.PositiveSmallIntegerField(default=2, help_text="So many flags withdraw a comparison.")
    paused_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")

    overlap = models.PositiveSmallIntegerField(default=3, help_text="Votes wanted of each new comparison, if fixed.")
    overlap_rule = models.CharField(max_length=8, choices=OverlapRule, default=OverlapRule.FIXED)
    min_votes = models.PositiveSmallIntegerField(default=2, help_text="Adaptive: votes before it may stop.")
    max_votes = models.PositiveSmallIntegerField(default=7, help_text="Adaptive: votes at which it stops anyway.")
    stop_at = models.FloatField(default=0.95, help_text="Adaptive: posterior of the top class at which it stops.")
    full_share = models.FloatField(default=0.15, help_text="Adaptive: random share that gets all votes regardless.")
    expert_votes = models.PositiveSmallIntegerField(default=0, help_text="Votes of experts that a dispute adds.")
    finish_started = models.BooleanField(default=False, help_text="Comparisons that have a vote go first.")
    person_cap = models.PositiveIntegerField(null=True, blank=True, help_text="Most votes of one person.")
    vote_cap = models.PositiveIntegerField(null=True, blank=True, help_text="Most votes of the project.")

    gold_share = models.FloatField(default=0.0, help_text="Share of a person's tasks that are hidden gold.")
    repeat_share = models.FloatField(default=0.0, help_text="Share that repeat an earlier task with sides swapped.")
    repeat_after = models.PositiveSmallIntegerField(default=20, help_text="Own votes between a task and its repeat.")
    min_reading_seconds = models.PositiveSmallIntegerField(
        default=0, help_text="Attention before the page takes an answer; 0: none."
    )
    read_to_end = models.BooleanField(
        default=False, help_text="The page takes an answer when the end of every response was on the screen."
    )
    confirm_guideline = models.BooleanField(default=False, help_text="Work starts when the guideline is confirmed.")
    practice_items = models.PositiveSmallIntegerField(default=0, help_text="Explained gold before qualifying.")
    qualification_items = models.PositiveSmallIntegerField(default=0, help_text="Gold in an attempt; 0: none needed.")
    pass_mark = models.FloatField(default=0.8, help_text="Share of right answers that passes.")
    attempts_allowed = models.PositiveSmallIntegerField(default=2)
    retry_hours = models.PositiveSmallIntegerField(default=24)
    feedback_every = models.PositiveIntegerField(default=0, help_text="Votes between two feedbacks; 0: none.")
    pause_below = models.FloatField(null=True, blank=True, help_text="Gold accuracy that pauses, surely below it.")
    pause_min_gold = models.PositiveSmallIntegerField(default=10, help_text="Gold answers before that rule acts.")

    chat = models.JSONField(default=dict, help_text="Chatting with a model, as `conversations.read_chat` reads it.")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(overlap__gte=1, overlap__lte=99), name="project_overlap_range"),
            models.CheckConstraint(condition=Q(lease_minutes__gte=1), name="project_lease_positive"),
            models.CheckConstraint(
                condition=Q(dispute_below__gte=0, dispute_below__lte=1), name="project_dispute_share"
            ),
            models.CheckConstraint(
                condition=Q(min_votes__gte=1, min_votes__lte=F("max_votes"), max_votes__lte=99),
                name="project_adaptive_range",
            ),
            models.CheckConstraint(
                condition=Q(gold_share__gte=0, repeat_share__gte=0, gold_share__lte=0.5, repeat_share__lte=0.5),
                name="project_hidden_shares",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def feedback(self) -> Form:
        """What a task of this project asks."""
        return read_form(self.form)


class FormVersion(models.Model):
    """A feedback form that a project had before: answers to tasks that were shown with it are still read by it."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="forms")
    number = models.PositiveIntegerField()
    form = models.JSONField()
    replaced_at = models.DateTimeField(default=timezone.now)
    replaced_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="form_number")]


class Membership(models.Model):
    """A person's role in a project, and the pseudonym that exports carry."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=12, choices=Role)
    pseudonym = models.CharField(max_length=60)
    languages = models.JSONField(default=list, help_text="What they read well: en, de, …")
    skills = models.JSONField(default=list, help_text="Tags such as medicine; `expert` gets the disputed ones.")
    cap = models.PositiveIntegerField(null=True, blank=True, help_text="Most votes; empty: the project's.")
    reliability = models.FloatField(null=True, help_text="Derived: P(a vote is right) by the last fit.")
    confusion = models.JSONField(null=True, help_text="Derived: P(vote | true class) by the last fit, a row a class.")
    rating_offset = models.FloatField(
        null=True, help_text="Derived: own mean rating less everybody's, in points; null below 20 ratings."
    )
    paused_at = models.DateTimeField(null=True, blank=True)
    pause_reason = models.CharField(max_length=300, blank=True)
    requalify_at = models.DateTimeField(
        null=True, blank=True, help_text="Attempts before it do not count; a pass after it lifts a pause before it."
    )
    judged_from = models.DateTimeField(null=True, blank=True, help_text="Gold answers before it pause nobody.")
    excluded_at = models.DateTimeField(null=True, blank=True, help_text="Their votes do not count.")
    left_at = models.DateTimeField(null=True, blank=True, help_text="Removed: no access, but the pseudonym stays.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="membership_once"),
            models.UniqueConstraint(fields=["project", "pseudonym"], name="membership_pseudonym"),
        ]


class GuidelineVersion(models.Model):
    """What annotators were told, as a fact: a change is a new version."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="guidelines")
    number = models.PositiveIntegerField()
    text = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="guideline_number")]


class GuidelineReading(models.Model):
    """A person confirmed that they read a guideline version: a fact."""

    guideline = models.ForeignKey(GuidelineVersion, on_delete=models.CASCADE, related_name="readings")
    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["guideline", "user"], name="guideline_read_once")]


class SourceKind(models.TextChoices):
    """Where completions come from."""

    POLICY = "policy"
    IMPORT = "import"
    HUMAN = "human"


class Source(models.Model):
    """Who wrote a completion: a registered policy, an imported system, a person. Never shown to annotators."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="sources")
    kind = models.CharField(max_length=8, choices=SourceKind)
    name = models.CharField(max_length=200)
    model_id = models.UUIDField(null=True, blank=True, help_text="Public id of the registered model, for a policy.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "kind", "name"], name="source_name")]


def content_hash(*parts: str) -> str:
    """sha256 of the texts, NFC-normalised and length-framed, so that no two lists of parts share a hash by joining."""
    digest = hashlib.sha256()
    for part in parts:
        data = unicodedata.normalize("NFC", part).encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def messages_hash(messages: list[dict[str, str]]) -> str:
    """The content hash of a conversation."""
    return content_hash(*(part for turn in messages for part in (turn["role"], turn["content"])))


class ImportState(models.TextChoices):
    """Where an import stands. `refused`: rows were bad and skipping them was not asked for, so nothing came in."""

    QUEUED = "queued"
    CHECKING = "checking"
    LOADING = "loading"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


class ImportBatch(models.Model):
    """One import: how far it is, what came in, and what was refused by line.

    A large file is a task: the row says that work is due, a worker claims it by compare-and-set under a lease, and one
    that dies is claimed again and goes on, because loading a row twice adds nothing.
    """

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="imports")
    kind = models.CharField(max_length=20)
    format = models.CharField(max_length=8, default="jsonl")
    name = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=8, choices=ImportState, default=ImportState.DONE)
    skip_bad_rows = models.BooleanField(default=False)
    file = models.CharField(max_length=300, blank=True, help_text="Below the data directory, while it is needed.")
    size_bytes = models.PositiveBigIntegerField(default=0)
    rows = models.PositiveIntegerField(default=0)
    rows_done = models.PositiveIntegerField(default=0, help_text="Rows checked, then rows loaded.")
    imported = models.PositiveIntegerField(default=0)
    duplicates = models.PositiveIntegerField(default=0)
    skipped = models.PositiveIntegerField(default=0)
    errors = models.JSONField(default=list, help_text="The first refused rows; the report file has them all.")
    reason = models.CharField(max_length=300, blank=True)
    owner = models.UUIDField(null=True)
    lease_expires_at = models.DateTimeField(null=True)
    nudged_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")

    class Meta:
        indexes = [
            models.Index(
                fields=["lease_expires_at"],
                condition=Q(state__in=["queued", "checking", "loading"]),
                name="import_unfinished",
            )
        ]


class Prompt(models.Model):
    """x: a conversation whose last turn is the user's. One row a project and content."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="prompts")
    messages = models.JSONField(help_text='[{"role": "user", "content": "…"}, …]')
    content_hash = models.CharField(max_length=64)
    category = models.CharField(max_length=80, blank=True)
    language = models.CharField(max_length=12, blank=True, help_text="en, de, …; empty: anybody may judge it.")
    external_id = models.CharField(max_length=200, blank=True)
    meta = models.JSONField(default=dict, help_text="What an import brought beside: licence, tags, …")
    author = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    batch = models.ForeignKey(ImportBatch, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "content_hash"], name="prompt_content")]
        indexes = [models.Index(fields=["project", "external_id"], name="prompt_external")]


class Finish(models.TextChoices):
    """How a completion ended: by itself, or cut at the token limit."""

    END = "end"
    LENGTH = "length"


class Completion(models.Model):
    """y: what a source wrote for a prompt, with how it was sampled. `origin` and `index` make a repeat harmless."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="completions")
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="completions")
    source = models.ForeignKey(Source, on_delete=models.PROTECT, related_name="completions")
    text = models.TextField()
    content_hash = models.CharField(max_length=64)
    finish = models.CharField(max_length=6, choices=Finish, default=Finish.END)
    sampling = models.JSONField(default=dict, help_text="temperature, top_p, max_new_tokens, seed of the sampler.")
    tokens = models.PositiveIntegerField(null=True)
    logprob = models.FloatField(null=True, help_text="Σ log π(y | x) of its own policy, nats.")
    origin = models.UUIDField(help_text="Public id of the round or import that brought it.")
    index = models.PositiveIntegerField(default=0)
    external_id = models.CharField(max_length=200, blank=True)
    author = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    for_evaluation = models.BooleanField(
        default=False, help_text="Written to evaluate policies: no comparison with it becomes a preference."
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["origin", "prompt", "source", "index"], name="completion_once_an_origin")
        ]
        indexes = [
            models.Index(fields=["project"], condition=Q(for_evaluation=True), name="completion_evaluation"),
            models.Index(fields=["prompt", "content_hash"], name="completion_content"),
            models.Index(fields=["project", "external_id"], name="completion_external"),
        ]


class CompletionScore(models.Model):
    """What a reward model (or another scorer) said of a completion. Never shown to annotators."""

    completion = models.ForeignKey(Completion, on_delete=models.CASCADE, related_name="scores")
    scorer = models.CharField(max_length=200, help_text="Public id of the reward model, or a name from an import.")
    value = models.FloatField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["completion", "scorer"], name="score_once_a_scorer")]


class Audience(models.Model):
    """Who may judge some comparisons, as tags that a person must all have: `lang:de skill:medicine`.

    The row is here so that a claim knows which audiences a project has without looking through its slots. Everybody is
    the empty key, which needs no row.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="audiences")
    key = models.CharField(max_length=120)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "key"], name="audience_once")]


class Arm(models.TextChoices):
    """How a comparison came to be asked, where pairs are chosen by information: by the choice, or as its control."""

    CHOSEN = "chosen"
    CONTROL = "control"


class Comparison(models.Model):
    """A prompt and two or more completions in stored order a, b, …; `rank` is its random place in the queue."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="comparisons")
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="comparisons")
    origin = models.UUIDField(db_index=True, help_text="Public id of the round or import that made it.")
    pair_hash = models.CharField(max_length=64, help_text="Of the prompt and the set of texts: the same pair once.")
    overlap = models.PositiveSmallIntegerField(help_text="Votes wanted now; the adaptive rule may raise it.")
    full_overlap = models.BooleanField(default=False, help_text="In the random share that the adaptive rule leaves.")
    arm = models.CharField(max_length=7, choices=Arm, blank=True, help_text="Empty: no choice by information.")
    audience = models.CharField(max_length=120, blank=True, default="")
    priority = models.SmallIntegerField(default=0)
    rank = models.PositiveIntegerField()
    external_id = models.CharField(max_length=200, blank=True)
    frozen_at = models.DateTimeField(null=True, blank=True, help_text="Taken into a snapshot: votes stay as they are.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "pair_hash"], name="comparison_pair")]
        indexes = [models.Index(fields=["project", "external_id"], name="comparison_external")]


class ComparisonCompletion(models.Model):
    """A completion's place in the stored order of a comparison: position 0 is a, 1 is b, …"""

    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="places")
    completion = models.ForeignKey(Completion, on_delete=models.PROTECT, related_name="places")
    position = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["comparison", "position"], name="place_position"),
            models.UniqueConstraint(fields=["comparison", "completion"], name="place_completion"),
        ]


class AssignmentState(models.TextChoices):
    """What became of a lease."""

    LEASED = "leased"
    VOTED = "voted"
    SKIPPED = "skipped"
    FLAGGED = "flagged"
    EXPIRED = "expired"
    RELEASED = "released"


class Purpose(models.TextChoices):
    """Why a person has a comparison. Only `wanted` has a slot and counts; to the annotator all look the same."""

    WANTED = "wanted"
    GOLD = "gold"
    REPEAT = "repeat"
    PRACTICE = "practice"
    QUALIFICATION = "qualification"
    REFERENCE = "reference"


# A person who is through with a comparison does not get it again; an expired or released lease is no such mark.
GIVEN_BACK = (AssignmentState.EXPIRED, AssignmentState.RELEASED)


class Assignment(models.Model):
    """The lease of a comparison to a person, with the sides that the server drew.

    `sides` are the stored letters from left to right (`ba`: b on the left). `repetition` is 0, or counts planned
    repeats.
    """

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="assignments")
    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="assignments")
    annotator = models.ForeignKey(User, on_delete=models.PROTECT, related_name="assignments")
    tab = models.CharField(max_length=64)
    sides = models.CharField(max_length=9)
    repetition = models.PositiveSmallIntegerField(default=0)
    purpose = models.CharField(max_length=13, choices=Purpose, default=Purpose.WANTED)
    form_number = models.PositiveIntegerField(default=1, help_text="The form that the person sees.")
    state = models.CharField(max_length=8, choices=AssignmentState, default=AssignmentState.LEASED)
    lease_expires_at = models.DateTimeField()
    reason = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "comparison", "annotator", "repetition"],
                condition=~Q(state__in=GIVEN_BACK),
                name="assignment_one_live_a_person",
            )
        ]
        indexes = [
            models.Index(fields=["annotator", "state"], name="assignment_person_state"),
            models.Index(fields=["project", "comparison", "annotator"], name="assignment_seen"),
            models.Index(fields=["lease_expires_at"], condition=Q(state="leased"), name="assignment_lease"),
        ]

    def form(self) -> Form:
        """The form that this task was shown with, which the project may have changed since."""
        if self.form_number == self.project.form_number:
            return self.project.feedback
        return read_form(FormVersion.objects.get(project_id=self.project_id, number=self.form_number).form)

    def side_of(self, letter: str) -> str:
        """`left` or `right` for a stored letter of a pair."""
        return "left" if self.sides[0] == letter else "right"

    def letter_of(self, side: str) -> str:
        """The stored letter of a displayed side of a pair."""
        return self.sides[0] if side == "left" else self.sides[1]


class Choice(models.TextChoices):
    """The answer of a pairwise vote, in stored order."""

    A = "a"
    TIE = "tie"
    B = "b"


class Vote(models.Model):
    """A person's answer: a fact, keyed by the browser's idempotency key. `body` speaks of a and b, never of sides."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="votes")
    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="votes")
    assignment = models.ForeignKey(Assignment, on_delete=models.PROTECT, null=True, related_name="votes")
    annotator = models.ForeignKey(User, on_delete=models.PROTECT, related_name="votes")
    repetition = models.PositiveSmallIntegerField(default=0)
    purpose = models.CharField(max_length=13, choices=Purpose, default=Purpose.WANTED)
    key = models.UUIDField()
    choice = models.CharField(max_length=3, choices=Choice, blank=True, help_text="Empty unless there are two.")
    body = models.JSONField(default=dict, help_text="The rest of the answer in stored order, as `feedback.store` says.")
    body_hash = models.CharField(max_length=64)
    active_ms = models.PositiveIntegerField(null=True)
    guideline = models.ForeignKey(GuidelineVersion, on_delete=models.PROTECT, null=True, related_name="+")
    replaces = models.ForeignKey("Retraction", on_delete=models.PROTECT, null=True, related_name="replacements")
    external_id = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "key"], name="vote_key"),
            models.UniqueConstraint(
                fields=["project", "comparison", "annotator", "repetition"],
                condition=Q(replaces__isnull=True),
                name="vote_once_a_person",
            ),
            models.UniqueConstraint(fields=["project", "replaces"], name="vote_one_replacement"),
        ]
        indexes = [
            models.Index(fields=["annotator", "created_at"], name="vote_person_time"),
            models.Index(fields=["project", "id"], name="vote_project"),
            models.Index(fields=["project", "external_id"], name="vote_external"),
        ]


class Retraction(models.Model):
    """A vote taken back: a fact of its own, the vote stays."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="retractions")
    vote = models.ForeignKey(Vote, on_delete=models.PROTECT, related_name="retractions")
    by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    reason = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "vote"], name="retraction_once")]


class SlotState(models.TextChoices):
    """Whether a wanted vote is still wanted."""

    OPEN = "open"
    LEASED = "leased"
    DONE = "done"


class Slot(models.Model):
    """One wanted vote of a comparison. There is no row k + 1, so more than k counted votes cannot exist."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="slots")
    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="slots")
    number = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=6, choices=SlotState, default=SlotState.OPEN)
    assignment = models.ForeignKey(Assignment, on_delete=models.PROTECT, null=True, related_name="slots")
    vote = models.ForeignKey(Vote, on_delete=models.PROTECT, null=True, related_name="slots")
    lease_expires_at = models.DateTimeField(null=True)
    audience = models.CharField(max_length=120, blank=True, default="")
    priority = models.SmallIntegerField(default=0, help_text="Twice the comparison's, and 1 more once it is started.")
    rank = models.PositiveIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "comparison", "number"], name="slot_number"),
            models.UniqueConstraint(fields=["project", "assignment"], name="slot_assignment"),
            models.UniqueConstraint(fields=["project", "vote"], name="slot_vote"),
            models.CheckConstraint(
                condition=Q(state="open", assignment__isnull=True, vote__isnull=True)
                | Q(state="leased", assignment__isnull=False, vote__isnull=True, lease_expires_at__isnull=False)
                | Q(state="done", vote__isnull=False),
                name="slot_state_matches",
            ),
        ]
        indexes = [
            models.Index(
                F("project"),
                F("audience"),
                F("priority").desc(),
                F("rank"),
                condition=~Q(state="done"),
                name="slot_queue",
            ),
            models.Index(fields=["comparison"], name="slot_comparison"),
        ]


class FlagKind(models.TextChoices):
    """What is wrong with a comparison."""

    PERSONAL_DATA = "personal_data"
    HARMFUL = "harmful"
    WRONG_LANGUAGE = "wrong_language"
    BROKEN = "broken"
    OTHER = "other"


class Flag(models.Model):
    """A person's warning about a comparison; at the project's limit the comparison is withdrawn."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="flags")
    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="flags")
    assignment = models.ForeignKey(Assignment, on_delete=models.PROTECT, related_name="flags")
    by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    kind = models.CharField(max_length=16, choices=FlagKind)
    note = models.CharField(max_length=1000, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["assignment", "kind"], name="flag_once")]


class ConsensusState(models.TextChoices):
    """Where a comparison stands; the same words in API and screen."""

    OPEN = "open"
    SETTLED = "settled"
    DISPUTED = "disputed"
    ADJUDICATED = "adjudicated"
    WITHDRAWN = "withdrawn"


class Consensus(models.Model):
    """What the votes say together: derived, one row a comparison, rebuilt from the facts with the same result."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="consensuses")
    comparison = models.OneToOneField(Comparison, on_delete=models.CASCADE, related_name="consensus")
    state = models.CharField(max_length=12, choices=ConsensusState, default=ConsensusState.OPEN)
    label = models.CharField(max_length=3, choices=Choice, blank=True, help_text="Empty: no unique top, or not a pair.")
    prob = models.FloatField(null=True, help_text="P(a wins) + ½ P(tie) by the method.")
    share = models.FloatField(null=True, help_text="Smoothed share of a, ties half.")
    votes_a = models.PositiveSmallIntegerField(default=0)
    votes_tie = models.PositiveSmallIntegerField(default=0)
    votes_b = models.PositiveSmallIntegerField(default=0)
    votes = models.PositiveSmallIntegerField(default=0, help_text="Counted votes, whatever the kind.")
    both_bad = models.PositiveSmallIntegerField(default=0, help_text="Of the ties.")
    top_share = models.FloatField(null=True, help_text="Share of the leading class; of several pairs the mean.")
    posterior = models.FloatField(null=True, help_text="P(leading class), by the annotators' reliability.")
    details = models.JSONField(
        default=dict, help_text="pairs and ranking of several completions, strength, ratings, criteria."
    )
    stopped = models.CharField(max_length=12, blank=True, help_text="Adaptive: confident, cap or full.")
    method = models.CharField(max_length=40, blank=True, default="", help_text="Empty: nothing was computed yet.")
    due_at = models.DateTimeField(null=True, blank=True, help_text="Set by each change of the facts; null: up to date.")
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["project", "state"], name="consensus_state"),
            models.Index(fields=["due_at"], condition=Q(due_at__isnull=False), name="consensus_due"),
        ]


class AggregationFit(models.Model):
    """The last joint fit of a project's votes: derived, and replaced by the next. Each person's part is on Membership.

    A worker claims it by compare-and-set under a lease (`owner`), so that two never fit one project at once.
    """

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="fit")
    number = models.PositiveIntegerField(default=0, help_text="Counts the fits: 0 before the first.")
    requests = models.PositiveIntegerField(default=0, help_text="Counts the times that one was asked for.")
    requests_met = models.PositiveIntegerField(default=0, help_text="So many had been when this one began.")
    classes = models.PositiveSmallIntegerField(default=3, help_text="3 with a tie, 2 without.")
    shares = models.JSONField(default=list, help_text="P(class), from a to b.")
    ballots = models.PositiveIntegerField(default=0, help_text="Votes of the project when it began, of every kind.")
    last_vote = models.PositiveBigIntegerField(default=0, help_text="Key of the newest of them.")
    votes = models.PositiveIntegerField(default=0, help_text="Votes on pairs that are in it.")
    items = models.PositiveIntegerField(default=0)
    annotators = models.PositiveIntegerField(default=0)
    objective = models.FloatField(null=True, help_text="Log posterior, nats.")
    steps = models.PositiveIntegerField(default=0)
    converged = models.BooleanField(default=False)
    is_warm = models.BooleanField(default=False, help_text="It went on from the fit before.")
    held_out = models.JSONField(default=dict, help_text="Log-loss of hidden votes, nats, by method.")
    seconds = models.FloatField(default=0.0)
    fitted_at = models.DateTimeField(null=True)
    owner = models.UUIDField(null=True)
    lease_expires_at = models.DateTimeField(null=True)


class GoldOrigin(models.TextChoices):
    """How a gold comparison came to be."""

    GIVEN = "given"
    CONSTRUCTED = "constructed"
    PROMOTED = "promoted"


class GoldUse(models.TextChoices):
    """What a gold comparison is for; one is never used for two things, or practice would give a test away."""

    HIDDEN = "hidden"
    PRACTICE = "practice"
    QUALIFICATION = "qualification"


class Gold(models.Model):
    """A comparison whose answer is known. Never shown as such; `answer` is in stored order."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="gold")
    comparison = models.OneToOneField(Comparison, on_delete=models.CASCADE, related_name="gold")
    use = models.CharField(max_length=13, choices=GoldUse, default=GoldUse.HIDDEN)
    origin = models.CharField(max_length=11, choices=GoldOrigin)
    answer = models.JSONField(help_text='{"choice": "a"} or {"ranking": [["b"], ["a", "c"]]}.')
    explanation = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["project", "use"], condition=Q(retired_at__isnull=True), name="gold_live"),
        ]


class QualificationAttempt(models.Model):
    """A person's try at the qualification; closed once, with its score."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="attempts")
    annotator = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    number = models.PositiveSmallIntegerField()
    guideline = models.ForeignKey(GuidelineVersion, on_delete=models.PROTECT, null=True, related_name="+")
    items = models.PositiveSmallIntegerField(help_text="Gold comparisons in it.")
    right = models.PositiveSmallIntegerField(null=True)
    passed = models.BooleanField(null=True)
    started_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "annotator", "number"], name="attempt_number")]


class FeedbackGiven(models.Model):
    """What a person was told of their own work, and when: a fact, so that it is told once."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="feedback_given")
    annotator = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    votes = models.PositiveIntegerField(help_text="Own votes at that moment.")
    body = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=timezone.now)
    read_at = models.DateTimeField(null=True)


class Objection(models.Model):
    """A person's word that the answer of a gold comparison, which they were told, is wrong: a fact, one a vote."""

    gold = models.ForeignKey(Gold, on_delete=models.CASCADE, related_name="objections")
    vote = models.OneToOneField(Vote, on_delete=models.CASCADE, related_name="objection")
    text = models.CharField(max_length=1000)
    created_at = models.DateTimeField(default=timezone.now)


class AdjudicationKind(models.TextChoices):
    """What an adjudicator did. The newest fact of a comparison says where it stands."""

    REQUEST = "request"
    RULING = "ruling"
    REOPENING = "reopening"
    ESCALATION = "escalation"


class Adjudication(models.Model):
    """A named person's decision about a comparison: a fact. A later one supersedes an earlier."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="adjudications")
    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="adjudications")
    kind = models.CharField(max_length=10, choices=AdjudicationKind)
    by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    answer = models.JSONField(null=True, help_text='Of a ruling: {"choice": "a"}, {"ranking": …} or {"invalid": true}.')
    first_answer = models.JSONField(null=True, help_text="What the adjudicator said before seeing the votes.")
    reason = models.CharField(max_length=2000, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["comparison", "id"], name="adjudication_newest")]


class Exclusion(models.Model):
    """A person's votes stop counting, or count again (`lifted`): a fact each time."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="exclusions")
    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    lifted = models.BooleanField(default=False)
    reason = models.CharField(max_length=300)
    by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)


class Erasure(models.Model):
    """A prompt whose texts were erased for privacy: a fact, the tombstone. Its rows stay, without their texts.

    `finished_at` is set once no file that we know of holds them either.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="erasures")
    prompt = models.OneToOneField(Prompt, on_delete=models.CASCADE, related_name="erasure")
    reason = models.CharField(max_length=300)
    completions = models.PositiveIntegerField(help_text="Of it, whose texts are gone.")
    comparisons = models.PositiveIntegerField()
    by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["id"], condition=Q(finished_at__isnull=True), name="erasure_due")]


class Conversation(models.Model):
    """A person writes prompts by chatting: at each turn two fresh completions are compared, the better one goes on."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="conversations")
    annotator = models.ForeignKey(User, on_delete=models.PROTECT, related_name="conversations")
    system = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)
    rating = models.PositiveSmallIntegerField(null=True, help_text="Of the whole, when it ended: 1 to 7.")


class TurnState(models.TextChoices):
    """Where a turn stands."""

    WAITING = "waiting"
    READY = "ready"
    FAILED = "failed"
    VOTED = "voted"


class ConversationTurn(models.Model):
    """A message of the person, and the comparison of two completions that answer it.

    `origin` names the sampling: the round of a worker, or an id of its own where an outside server answers. A turn
    that waits is claimed by compare-and-set, so that it is sampled once though its message be doubled.
    """

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="turns")
    number = models.PositiveSmallIntegerField()
    prompt = models.ForeignKey(Prompt, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(max_length=7, choices=TurnState, default=TurnState.WAITING)
    origin = models.UUIDField(null=True)
    comparison = models.ForeignKey(Comparison, on_delete=models.PROTECT, null=True, related_name="turns")
    chosen = models.ForeignKey(Completion, on_delete=models.PROTECT, null=True, related_name="+")
    error = models.CharField(max_length=300, blank=True)
    tries = models.PositiveSmallIntegerField(default=0)
    owner = models.UUIDField(null=True)
    lease_expires_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)
    ready_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["conversation", "number"], name="turn_number")]
        indexes = [models.Index(fields=["state"], condition=Q(state="waiting"), name="turn_waiting")]


class Invitation(models.Model):
    """A link that makes one person a member; single use, and only the sha256 of its secret is kept."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=12, choices=Role, default=Role.ANNOTATOR)
    email = models.EmailField(blank=True, help_text="If given, only this address may accept.")
    languages = models.JSONField(default=list)
    skills = models.JSONField(default=list)
    secret_hash = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True)
    accepted_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    revoked_at = models.DateTimeField(null=True)


class Webhook(models.Model):
    """Where a project's events go. The secret signs each delivery; it is shown once."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="webhooks")
    url = models.URLField(max_length=500)
    events = models.JSONField(default=list)
    secret = models.CharField(max_length=80)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    paused_at = models.DateTimeField(null=True)
    pause_reason = models.CharField(max_length=300, blank=True)
    removed_at = models.DateTimeField(null=True)


class Delivery(models.Model):
    """An event on its way to a webhook, written in the transaction of the event; the tick sends and repeats it."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=40)
    body = models.JSONField()
    tries = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(null=True, help_text="Null: delivered or given up.")
    delivered_at = models.DateTimeField(null=True)
    status = models.PositiveSmallIntegerField(null=True, help_text="HTTP status of the last try.")
    error = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["next_at"], condition=Q(next_at__isnull=False), name="delivery_due")]


class Mail(models.Model):
    """An e-mail on its way to a person, written in the transaction of what it tells; the tick sends and repeats it."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="mails")
    to = models.ForeignKey(User, on_delete=models.CASCADE, related_name="mails")
    subject = models.CharField(max_length=200)
    text = models.TextField()
    tries = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(null=True, help_text="Null: sent or given up.")
    sent_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["next_at"], condition=Q(next_at__isnull=False), name="mail_due")]


class TokenScope(models.TextChoices):
    """What a program may do with a token."""

    READ = "read"
    WRITE = "write"
    JOBS = "jobs"


class Token(models.Model):
    """An API token. Only the sha256 of the secret is kept; it acts as its user, within its scopes and project."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="tokens")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, null=True, related_name="tokens")
    name = models.CharField(max_length=80)
    scopes = models.JSONField(default=list)
    secret_hash = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    @staticmethod
    def new_secret() -> str:
        return "wnw_" + secrets.token_urlsafe(32)

    @staticmethod
    def hash_secret(secret: str) -> str:
        return hashlib.sha256(secret.encode()).hexdigest()

    def is_live(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)


class AuditAction(models.TextChoices):
    """What the log knows, as thing.verbed: a closed list, since the browser says each in words.

    Older rows may hold actions that are not written any more, so the column is free of it.
    """

    PROJECT_CREATED = "project.created"
    PROJECT_CHANGED = "project.changed"
    GUIDELINE_ADDED = "guideline.added"
    CHAT_CHANGED = "chat.changed"
    QUOTA_CHANGED = "quota.changed"
    SCHEDULE_CHANGED = "schedule.changed"
    MEMBER_ADDED = "member.added"
    MEMBER_CHANGED = "member.changed"
    MEMBER_PAUSED = "member.paused"
    MEMBER_RESUMED = "member.resumed"
    MEMBER_ASKED_TO_REQUALIFY = "member.asked_to_requalify"
    MEMBER_REMOVED = "member.removed"
    PERSON_EXCLUDED = "person.excluded"
    PERSON_READMITTED = "person.readmitted"
    PASSWORD_RESET = "password.reset"  # noqa: S105
    INVITATION_CREATED = "invitation.created"
    INVITATION_ACCEPTED = "invitation.accepted"
    INVITATION_REVOKED = "invitation.revoked"
    TOKEN_CREATED = "token.created"  # noqa: S105
    TOKEN_REVOKED = "token.revoked"  # noqa: S105
    WEBHOOK_CREATED = "webhook.created"
    WEBHOOK_CHANGED = "webhook.changed"
    WEBHOOK_PINGED = "webhook.pinged"
    WEBHOOK_PAUSED = "webhook.paused"
    WEBHOOK_RESUMED = "webhook.resumed"
    WEBHOOK_REDELIVERED = "webhook.redelivered"
    WEBHOOK_REMOVED = "webhook.removed"
    IMPORT_CREATED = "import.created"
    IMPORT_DONE = "import.done"
    IMPORT_REFUSED = "import.refused"
    IMPORT_FAILED = "import.failed"
    PROMPT_ERASED = "prompt.erased"
    COMPARISONS_MADE = "comparisons.made"
    COMPARISONS_PRIORITISED = "comparisons.prioritised"
    GOLD_GIVEN = "gold.given"
    GOLD_CONSTRUCTED = "gold.constructed"
    GOLD_PROMOTED = "gold.promoted"
    GOLD_EXPLAINED = "gold.explained"
    GOLD_RETIRED = "gold.retired"
    REFERENCE_GIVEN = "reference.given"
    ADJUDICATION_REQUESTED = "adjudication.requested"
    ADJUDICATION_RULING = "adjudication.ruling"
    ADJUDICATION_REOPENING = "adjudication.reopening"
    ADJUDICATION_ESCALATION = "adjudication.escalation"
    SNAPSHOT_FROZEN = "snapshot.frozen"
    ROUND_STARTED = "round.started"
    EVALUATION_STARTED = "evaluation.started"
    PLAYGROUND_SENT = "playground.sent"
    JOB_SUBMITTED = "job.submitted"
    JOB_REPRIORITISED = "job.reprioritised"
    JOB_CANCELLED = "job.cancelled"
    JOB_RETRIED = "job.retried"
    MODEL_REGISTERED = "model.registered"
    MODEL_CHANGED = "model.changed"
    MODEL_VERIFIED = "model.verified"
    MODEL_NOT_VERIFIED = "model.not_verified"
    ALARM_ACKNOWLEDGED = "alarm.acknowledged"
    ALARM_ACTED = "alarm.acted"


class AuditEvent(models.Model):
    """Who did what to which row, as a fact."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, null=True, related_name="audit")
    by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    action = models.CharField(max_length=60)
    target = models.CharField(max_length=120, blank=True)
    details = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["project", "-id"], name="audit_project")]
