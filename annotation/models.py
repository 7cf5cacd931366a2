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


class Project(models.Model):
    """One annotation task: its question, how many votes each comparison wants, and its rules."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    slug = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=120)
    question = models.CharField(max_length=200, default="Which response is better?")
    overlap = models.PositiveSmallIntegerField(default=3, help_text="Votes wanted of each new comparison.")
    lease_minutes = models.PositiveSmallIntegerField(default=15)
    allow_tie = models.BooleanField(default=True)
    dispute_below = models.FloatField(default=0.6, help_text="A top share below this is disputed.")
    flag_limit = models.PositiveSmallIntegerField(default=2, help_text="So many flags withdraw a comparison.")
    paused_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(overlap__gte=1, overlap__lte=99), name="project_overlap_range"),
            models.CheckConstraint(condition=Q(lease_minutes__gte=1), name="project_lease_positive"),
            models.CheckConstraint(
                condition=Q(dispute_below__gte=0, dispute_below__lte=1), name="project_dispute_share"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    """A person's role in a project, and the pseudonym that exports carry."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=12, choices=Role)
    pseudonym = models.CharField(max_length=60)
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


class ImportBatch(models.Model):
    """One import: what came in, and what was refused by line."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="imports")
    kind = models.CharField(max_length=12)
    name = models.CharField(max_length=200, blank=True)
    rows = models.PositiveIntegerField(default=0)
    imported = models.PositiveIntegerField(default=0)
    duplicates = models.PositiveIntegerField(default=0)
    skipped = models.PositiveIntegerField(default=0)
    errors = models.JSONField(default=list)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")


class Prompt(models.Model):
    """x: a conversation whose last turn is the user's. One row a project and content."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="prompts")
    messages = models.JSONField(help_text='[{"role": "user", "content": "…"}, …]')
    content_hash = models.CharField(max_length=64)
    category = models.CharField(max_length=80, blank=True)
    external_id = models.CharField(max_length=200, blank=True)
    batch = models.ForeignKey(ImportBatch, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "content_hash"], name="prompt_content")]


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
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["origin", "prompt", "source", "index"], name="completion_once_an_origin")
        ]


class Comparison(models.Model):
    """A prompt and two or more completions in stored order a, b, …; `rank` is its random place in the queue."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="comparisons")
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="comparisons")
    origin = models.UUIDField(db_index=True, help_text="Public id of the round or import that made it.")
    pair_hash = models.CharField(max_length=64, help_text="Of the prompt and the set of texts: the same pair once.")
    overlap = models.PositiveSmallIntegerField()
    priority = models.SmallIntegerField(default=0)
    rank = models.PositiveIntegerField()
    frozen_at = models.DateTimeField(null=True, blank=True, help_text="Taken into a snapshot: votes stay as they are.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "pair_hash"], name="comparison_pair")]


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
    key = models.UUIDField()
    choice = models.CharField(max_length=3, choices=Choice)
    body = models.JSONField(default=dict, help_text="rationale, strength and what else was answered.")
    body_hash = models.CharField(max_length=64)
    active_ms = models.PositiveIntegerField(null=True)
    guideline = models.ForeignKey(GuidelineVersion, on_delete=models.PROTECT, null=True, related_name="+")
    replaces = models.ForeignKey("Retraction", on_delete=models.PROTECT, null=True, related_name="replacements")
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
    priority = models.SmallIntegerField(default=0)
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
            models.Index(F("project"), F("priority").desc(), F("rank"), condition=~Q(state="done"), name="slot_queue"),
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
    label = models.CharField(max_length=3, choices=Choice, blank=True, help_text="Empty: no unique top class.")
    prob = models.FloatField(null=True, help_text="P(a wins) + ½ P(tie) by the method.")
    share = models.FloatField(null=True, help_text="Smoothed share of a, ties half.")
    votes_a = models.PositiveSmallIntegerField(default=0)
    votes_tie = models.PositiveSmallIntegerField(default=0)
    votes_b = models.PositiveSmallIntegerField(default=0)
    method = models.CharField(max_length=40, default="majority/1")
    due_at = models.DateTimeField(null=True, blank=True, help_text="Set by each change of the facts; null: up to date.")
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["project", "state"], name="consensus_state"),
            models.Index(fields=["due_at"], condition=Q(due_at__isnull=False), name="consensus_due"),
        ]


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


class AuditEvent(models.Model):
    """Who did what to which row, as a fact."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, null=True, related_name="audit")
    by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    action = models.CharField(max_length=60)
    target = models.CharField(max_length=120, blank=True)
    details = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=timezone.now)
