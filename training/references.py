"""How a request names a further model of a job: by one of three.

{"model": id} is registered, {"job": id} is a promotion that may not have ended yet, {"name": name} is whichever of the
two has that name.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from annotation.errors import Invalid
from annotation.models import Project
from training import registry
from training.models import Job, JobStatus, ModelKind, ModelVersion, Round


def read_reference(
    project: Project, field: str, raw: object, kind: ModelKind
) -> tuple[dict[str, str], ModelVersion | None, Job | None]:
    """A reference as the job's row holds it, and the model or the promotion that it means.

    Args:
        field: where the request has it, for messages.
        kind: of the model that is needed.

    Raises:
        Invalid: it is none, or means a promotion of another kind. UnknownModel: the project has none such.
    """
    one = isinstance(raw, Mapping) and len(raw) == 1 and next(iter(raw.values()))
    if not isinstance(raw, Mapping) or not isinstance(one, str) or next(iter(raw)) not in ("model", "job", "name"):
        message = f'must be {{"model": id}}, {{"job": id of a promotion}} or {{"name": name}}, got {raw!r}'
        raise Invalid(f"{field}: {message}", details={field: [message]})
    by = next(iter(raw))
    if by == "model":
        model = registry.find(project, _id(field, one), kind=kind)
        return {"model": str(model.public_id)}, model, None
    if by == "name":
        known = next((model for model in registry.visible(project) if model.name == one), None)
        if known is not None:
            return read_reference(project, field, {"model": str(known.public_id)}, kind)
    rows = Job.objects.filter(project=project, method="convert").select_related("model", "checkpoint__run__job")
    wanted = (
        rows.filter(public_id=_id(field, one))
        if by == "job"
        else rows.filter(config__name=one, status__in=(JobStatus.QUEUED, JobStatus.RUNNING))
    )
    job = wanted.order_by("-pk").first()
    if job is None:
        message = (
            f"there is no promotion {one!r}" if by == "job" else f"there is no model and no promotion named {one!r}"
        )
        raise registry.UnknownModel(f"{field}: {message}", details={field: [message]})
    if promised_kind(job) is not kind:
        message = f"job {job.number} will make a {promised_kind(job).label.lower()} model, not a {kind.label.lower()}"
        raise Invalid(f"{field}: {message}", details={field: [message]})
    return {"job": str(job.public_id)}, None, job


def _id(field: str, text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        message = f"must be an id, got {text!r}"
        raise Invalid(f"{field}: {message}", details={field: [message]}) from None


def read_round(project: Project, raw: object) -> Round:
    """The round that `inputs.round` names.

    Raises:
        Invalid: the project has none such.
    """
    made = Round.objects.filter(project=project, public_id=_id("inputs.round", str(raw))).first()
    if made is None:
        message = f"there is no round {raw!r}"
        raise Invalid(f"inputs.round: {message}", details={"inputs.round": [message]})
    return made


def promised_kind(promotion: Job) -> ModelKind:
    """What a promotion will make."""
    trained = promotion.checkpoint.run.job if promotion.checkpoint is not None else promotion.depends_on.first()
    return ModelKind.REWARD if trained is not None and trained.method == "reward" else ModelKind.POLICY
