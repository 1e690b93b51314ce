"""The routes of the dashboard: the page, its files and its API. The API is for the page only and may change."""

import asyncio
import csv
import io
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from fedmq import __version__
from fedmq.dashboard.controls import ControlRequest, Controls
from fedmq.dashboard.page_model import Values
from fedmq.dashboard.run_catalog import BestModel, RunCatalog
from fedmq.dashboard.security_middleware import ServerSecrets, error_body
from fedmq.dashboard.server_sent_events import PageStream, PageStreams, TooManyStreams
from fedmq.dashboard.surface import surface_of
from fedmq.errors import BadConfiguration, FedmqError, NotAuthorized, Unreachable
from fedmq.names import NAME_PATTERN
from fedmq.runtime.malformed import MALFORMED

STATIC = Path(__file__).parent / "static"
SURFACES_KEPT_MAX = 512
JOBS_MAX, WAITING_MAX = 2, 16  # surfaces and exports computed at once, and in all
CONTROLS_MAX = 2  # control requests at once: each occupies one of the few threads
BODY_S = 5.0
PIECE_BYTES = 32 << 10  # sent at once; the next piece waits until the client has read this one

_control_request = msgspec.json.Decoder(ControlRequest)
_STATUS: dict[type[FedmqError], int] = {NotAuthorized: 403, Unreachable: 504, BadConfiguration: 409}


class WebApp:
    """Serves the runs of a catalog; without `controls`, it changes nothing."""

    def __init__(
        self, catalog: RunCatalog, streams: PageStreams, secrets: ServerSecrets, controls: Controls | None
    ) -> None:
        self._catalog, self._streams, self._secrets, self._controls = catalog, streams, secrets, controls
        self._jobs, self._waiting, self._controlling = asyncio.Semaphore(JOBS_MAX), 0, 0
        self._surfaces: OrderedDict[BestModel, bytes] = OrderedDict()

    def app(self) -> Starlette:
        run = "/api/runs/{run}"
        routes: list[Route | Mount] = [
            Route("/", self._page),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/api/session", self._session),
            Route("/api/runs", self._runs),
            Route("/api/stream", self._stream),
            Route(f"{run}/stream", self._stream),
            Route(f"{run}/surface", self._surface),
            Route(f"{run}/export.csv", self._export),
            Route(f"{run}/export.json", self._export),
        ]
        if self._controls is not None:
            routes.append(Route(f"{run}/control", self._control, methods=["POST"]))

        return Starlette(routes=routes, exception_handlers={HTTPException: _on_error, Exception: _on_failure})

    # --- routes ---------------------------------------------------------------------------------------------------

    async def _page(self, _request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    async def _session(self, _request: Request) -> Response:
        csrf = None if self._controls is None else self._secrets.csrf
        now = (await asyncio.to_thread(self._catalog.runs))["now"]
        return _json({"version": __version__, "control": csrf is not None, "csrf": csrf, "now": now})

    async def _runs(self, _request: Request) -> Response:
        return _json(await asyncio.to_thread(self._catalog.runs))

    async def _stream(self, request: Request) -> Response:
        run = _run(request) if "run" in request.path_params else ""
        known = request.headers.get("last-event-id") or request.query_params.get("after", "")
        return EventStreamResponse(self._streams, run, known)

    async def _surface(self, request: Request) -> Response:
        number, run = request.query_params.get("round"), _run(request)
        if number is not None and not re.fullmatch(r"\d{1,15}", number):
            raise HTTPException(400, f"expected the number of a round, got {number[:20]!r}")
        best = await asyncio.to_thread(self._catalog.best, run, None if number is None else int(number))
        if best is None:
            raise HTTPException(404, f"run {run} has no model at that round that can be drawn")
        if (known := self._surfaces.get(best)) is not None:
            self._surfaces.move_to_end(best)
            return _json(known)
        surface = await self._compute(lambda: _surface_json(best))
        self._surfaces[best] = surface
        if len(self._surfaces) > SURFACES_KEPT_MAX:
            self._surfaces.popitem(last=False)
        return _json(surface)

    async def _export(self, request: Request) -> Response:
        run, is_csv = _run(request), request.url.path.endswith(".csv")
        encode, kind = (_rounds_csv, "csv") if is_csv else (msgspec.json.encode, "json")

        def encoded() -> bytes:
            if (values := self._catalog.values(run)) is None:
                raise HTTPException(404, f"there is no run {run}")
            return encode(values)

        data = await self._compute(encoded)
        return _file(data, "text/csv" if is_csv else "application/json", f"{run}.{kind}")

    async def _control(self, request: Request) -> Response:
        assert self._controls is not None
        run, controls = _run(request), self._controls
        try:
            async with asyncio.timeout(BODY_S):
                control = _control_request.decode(await request.body())
        except TimeoutError as error:
            raise HTTPException(408, f"expected the body within {BODY_S:g} s") from error
        except (*MALFORMED, ClientDisconnect) as error:
            raise HTTPException(400, f"expected an action, with a trainer for some actions: {error}") from error
        if self._controlling >= CONTROLS_MAX:
            raise HTTPException(429, "too many control requests at once: try again")
        self._controlling += 1
        try:
            return _json({"done": await asyncio.to_thread(controls.send, run, control)})
        except FedmqError as error:
            raise HTTPException(_STATUS.get(type(error), 409), str(error)) from error
        finally:
            self._controlling -= 1

    async def _compute(self, job: Callable[[], bytes]) -> bytes:
        """Run `job` in a thread, at most JOBS_MAX at once, and return its result."""
        if self._waiting >= WAITING_MAX:
            raise HTTPException(429, "too many such requests at once: try again")
        self._waiting += 1
        try:
            async with self._jobs:
                return await asyncio.to_thread(job)
        finally:
            self._waiting -= 1


class EventStreamResponse(Response):
    """A stream of server-sent events, until the client disconnects or stops reading."""

    def __init__(self, streams: PageStreams, run: str, last_event_id: str) -> None:
        super().__init__(media_type="text/event-stream")
        self._streams, self._run, self._last_event_id = streams, run, last_event_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._streams.stream(self._run, self._last_event_id) as stream:
                headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                if scope["method"] != "HEAD":
                    await _send_all(stream, receive, send)
                await send({"type": "http.response.body", "body": b""})
        except TooManyStreams:
            await _error(503, "too many pages are open: close some")(scope, receive, send)


async def _send_all(stream: PageStream, receive: Receive, send: Send) -> None:
    closing = asyncio.create_task(_close_on_disconnect(stream, receive))
    try:
        async for chunk in stream.chunks():
            for first in range(0, len(chunk), PIECE_BYTES):
                piece = chunk[first : first + PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    finally:
        closing.cancel()


async def _close_on_disconnect(stream: PageStream, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.close()


def _run(request: Request) -> str:
    run: str = request.path_params["run"]
    if not re.fullmatch(NAME_PATTERN, run):
        raise HTTPException(404, "expected the name of a run: letters, digits and . _ -")
    return run


def _surface_json(best: BestModel) -> bytes:
    parameters = np.frombuffer(best.parameters, "<f8").astype(np.float64)
    try:
        return msgspec.json.encode(
            {"round": best.round, **surface_of(best.model, parameters, best.task, best.output_scale)}
        )
    except BadConfiguration as error:
        raise HTTPException(404, str(error)) from error


def _rounds_csv(values: Values) -> bytes:
    columns: dict[str, list[Any]] = values["rounds"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def _json(value: object) -> Response:
    return Response(value if isinstance(value, bytes) else msgspec.json.encode(value), media_type="application/json")


def _file(data: bytes, media_type: str, name: str) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for first in range(0, len(data), PIECE_BYTES):
            yield data[first : first + PIECE_BYTES]

    headers = {"content-disposition": f'attachment; filename="{name}"', "content-length": str(len(data))}
    return StreamingResponse(pieces(), media_type=media_type, headers=headers)


def _error(status: int, reason: str) -> Response:
    return Response(error_body(reason), status, media_type="application/json")


async def _on_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail)


async def _on_failure(_request: Request, _failure: Exception) -> Response:
    return _error(500, "unexpected error: see the log of fedmq dashboard")
