"""The application: what can be asked, and by which address."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import mobilenets
from mobilenets import page
from mobilenets.errors import MobileNetsError
from mobilenets.serve import schema
from mobilenets.serve.documents import interface_page
from mobilenets.serve.guard import Guard, extra_headers
from mobilenets.serve.limits import RefusedError
from mobilenets.serve.model import Question
from mobilenets.serve.service import Service
from mobilenets.serve.upload import BINARY, FORM, body_of, check_type, uploads_of

log = logging.getLogger("mobilenets.serve")
router = APIRouter()

REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
)
"""A report has its styles, script and pictures inside, and needs nothing from here: it gets an origin of its own."""

_FILE = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": _FILE},
        BINARY: {"schema": _FILE},
        FORM: {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "array", "items": _FILE, "minItems": 1}},
                "required": ["image"],
            },
            "encoding": {"image": {"contentType": f"image/png, image/jpeg, {BINARY}"}},
        },
    },
}

Model = Annotated[str | None, Query(description="One of the served models; the first, where none is named.")]
Top = Annotated[int, Query(ge=1, le=1000, description="How many classes to name at most.")]
Threshold = Annotated[
    float | None,
    Query(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Leave out lower scores, of detectors by default those below 0.5; the best class always stays.",
    ),
]
Explain = Annotated[bool, Query(description="Tell where the network looked (classifiers, served as checkpoints).")]


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.post(
    "/v1/predict",
    summary="Say what is on pictures",
    response_model=schema.Answers,
    response_model_exclude_unset=True,
    responses=schema.problems(400, 401, 403, 404, 408, 413, 415, 421, 422, 503, 504),
    openapi_extra={"requestBody": _BODY},
)
async def predict(
    request: Request,
    model: Model = None,
    top: Top = 5,
    threshold: Threshold = None,
    explain: Explain = False,  # noqa: FBT002  # FastAPI passes it by name
) -> Response:
    """Send one picture as the body, or one or several as files of a form.

    A picture that cannot be read does not stop the others: its item says why. Only if none can be read is that an
    error.
    """
    service = _service(request)
    served = service.model(model)
    kind = request.headers.get("content-type", "")
    check_type(kind, request.headers.get("content-encoding", ""))
    service.check_room(served)
    async with body_of(request, service.limits, service.held) as content:
        if kind.lower().lstrip().startswith(FORM):
            uploads = await service.off_loop(uploads_of, content, kind, service.limits)
        else:
            uploads = uploads_of(content, kind, service.limits)
        items = await service.predict(served, uploads, Question(top, threshold, explain))
    return JSONResponse({"model": served.name, "items": items})


@router.get("/v1/models", summary="List the models", response_model=schema.Models, responses=schema.problems(401, 421))
async def models(request: Request) -> Response:
    """List what is served; the first answers where no model is named."""
    summaries = [model.summary() for model in _service(request).models.values()]
    return JSONResponse({"default": summaries[0]["name"], "models": summaries})


@router.get(
    "/v1/model",
    summary="Describe a model",
    response_model=schema.Described,
    responses=schema.problems(401, 404, 421, 422),
)
async def described(request: Request, model: Model = None) -> Response:
    """Return a model's card, what runs it, what can be asked of it, and the limits."""
    service = _service(request)
    limits = service.limits
    shown = {name: getattr(limits, name) for name in ("body_bytes", "pixels", "pictures", "deadline_s")}
    return JSONResponse({**service.model(model).described(), "limits": shown})


@router.get(
    "/v1/report",
    summary="Return the report of a model's training",
    response_model=dict[str, Any] | None,
    responses=schema.problems(401, 404, 421, 422),
)
async def report(request: Request, model: Model = None) -> Response:
    """Return the numbers of the report beside the checkpoint and the training's history; null where there is none."""
    served = _service(request).model(model)
    return JSONResponse(served.reports.numbers(f"v1/report.html?{urlencode({'model': served.name})}"))


@router.get(
    "/v1/confusion",
    summary="Return the confusion matrix",
    response_model=schema.Confusion | None,
    responses=schema.problems(401, 404, 421, 422),
)
async def confusion(request: Request, model: Model = None) -> Response:
    """Return the confusion matrix of the report beside the checkpoint; null where there is none."""
    numbers = _service(request).model(model).reports.numbers("")
    there = numbers is not None and "confusion" in numbers and "labels" in numbers
    return JSONResponse({name: numbers[name] for name in ("labels", "confusion")} if there and numbers else None)


@router.get(
    "/v1/report.html",
    summary="Show the report of a model's training",
    response_class=Response,
    responses={200: {"content": {"text/html": {}}}, **schema.problems(401, 404, 421, 422)},
)
async def report_page(request: Request, model: Model = None) -> Response:
    """Return the page that the training wrote beside the checkpoint."""
    content = _service(request).model(model).reports.page()
    if content is None:
        raise RefusedError(404, "no report lies beside this model's checkpoint")
    headers = {"Content-Security-Policy": REPORT_POLICY, "Content-Type": "text/html; charset=utf-8"}
    return Response(content, headers=headers)


@router.get("/healthz", summary="Say that the process lives", response_model=schema.Health)
async def healthz() -> Response:
    """Answer as long as the process does."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/readyz",
    summary="Say whether work is taken",
    response_model=schema.Health,
    responses={503: {"model": schema.Health}},
)
async def readyz(request: Request) -> Response:
    """Answer 200 while requests are taken, 503 once the service is about to end."""
    draining = _service(request).state.draining
    return JSONResponse({"status": "ending" if draining else "ok"}, status_code=503 if draining else 200)


@router.get(
    "/metrics",
    summary="Count for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **schema.problems(401, 421)},
)
async def metrics(request: Request) -> Response:
    """Return requests, pictures, queues and times in Prometheus' text format."""
    text = _service(request).metrics.text()
    return Response(text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def create_app(service: Service, *, api_key: str | None = None, hosts: Collection[str] | None = None) -> ASGIApp:
    """Return the application around a service; it closes the service when it ends.

    Args:
        service: models, queues and limits.
        api_key: what requests must carry; None asks for nothing.
        hosts: the names that the service may be asked by; None takes any.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="mobilenets",
        version=mobilenets.__version__,
        description="Pictures in, classes or boxes out.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.service = service
    app.include_router(router)
    paths = {route.path for route in router.routes} | {"/", "/docs", "/openapi.json"}  # type: ignore[attr-defined]
    for name, content in page.files().items():
        if name not in page.BROWSER_ONLY:
            _add_file(app, f"/{name}", page.media_type(name), content)
            if name == "index.html":
                _add_file(app, "/", page.media_type(name), content)
    _add_file(app, "/docs", "text/html; charset=utf-8", interface_page(app.openapi()))
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(MobileNetsError, _failed)
    return Guard(
        app,
        state=service.state,
        metrics=service.metrics,
        paths=paths,
        api_key=api_key,
        hosts=hosts,
        header_bytes=service.limits.header_bytes,
    )


def _add_file(app: FastAPI, path: str, media_type: str, content: bytes) -> None:
    """Answer a path with a file, or with 304 to who has it."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    app.router.add_route(path, partial(_file, media_type=media_type, content=content, tag=tag), methods=["GET"])


async def _file(request: Request, *, media_type: str, content: bytes, tag: str) -> Response:
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if tag in known:
        return Response(status_code=304, headers=headers)
    return Response(content, headers={**headers, "Content-Type": media_type})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return JSONResponse({"error": error.reason}, status_code=error.status, headers=extra_headers(error))


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, status_code=422)


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, status_code=error.status_code, headers=error.headers)


async def _failed(_: Request, error: Exception) -> Response:
    log.error("%s", error)
    return JSONResponse({"error": str(error)}, status_code=500)
