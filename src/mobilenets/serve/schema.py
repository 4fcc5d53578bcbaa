"""The shapes of answers, for the description of the interface (OpenAPI)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Problem(BaseModel):
    """Why there is no answer, in one line."""

    error: str


class NamedClass(BaseModel):
    """A class of a picture, its place among the model's labels, and a softmax score in 0..1."""

    label: str
    index: int
    score: float | None


class Box(BaseModel):
    """Something in a box, (x1, y1, x2, y2) in pixels of the upright picture."""

    label: str
    index: int
    score: float | None
    box: list[float | None]


class Item(BaseModel):
    """What a model says of one picture; a picture that could not be read has an `error` and nothing else to say.

    `heat` has rows of values 0..1 over what the network sees: where its best class was seen. `ms` is the time inside
    the service, `model_ms` that of the computation of the batch the picture was in.
    """

    image: str
    predictions: list[NamedClass] | None = None
    detections: list[Box] | None = None
    error: str | None = None
    width: int | None = None
    height: int | None = None
    heat: list[list[float]] | None = None
    ms: float | None = None
    model_ms: float | None = None


class Answers(BaseModel):
    """One item for each picture, in the order they were sent."""

    model: str
    items: list[Item]


class Summary(BaseModel):
    """A model in few words."""

    name: str
    task: str
    architecture: str
    runtime: str
    precision: str
    resolution: list[int]
    classes: int


class Models(BaseModel):
    """The models that are served; `default` answers where none is named."""

    default: str
    models: list[Summary]


class Described(BaseModel):
    """A model's card, what runs it, and what can be asked of it."""

    model_config = ConfigDict(extra="allow")

    name: str
    task: str
    labels: list[str]
    runtime: str
    threads: int | None
    parameters: int
    multiply_adds: int
    bytes: int | None
    machine: dict[str, str]
    report: bool
    explain: bool
    limits: dict[str, float]


class Confusion(BaseModel):
    """How often pictures of a class, a row, were taken for another, a column."""

    labels: list[str]
    confusion: list[list[int]]


class Health(BaseModel):
    """Whether the service is there, and takes work."""

    status: str


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of answers that are none."""
    return {status: {"model": Problem, "description": MEANINGS[status]} for status in statuses}


MEANINGS = {
    400: "The body ended early.",
    401: "The service asks for its key.",
    403: "A page of another origin asks.",
    404: "There is no such model, or nothing here.",
    408: "The body took too long.",
    413: "The body is too large, or has too many pictures.",
    415: "The body is of a type that cannot be a picture.",
    421: "The service is not asked by that name.",
    422: "A value is out of its range, or no picture could be read.",
    503: "Too much is waiting: try again after the time in Retry-After.",
    504: "The answer took longer than the deadline.",
}
"""What each status means here."""
