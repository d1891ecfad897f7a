"""The same program (see ../python/program.py) with the Python client of openapi-generator."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from uuid import UUID

from muster_client import (
    Action,
    ApiClient,
    ChangeDevice,
    Configuration,
    CreateToken,
    DevicesApi,
    DevicesTarget,
    Event,
    EventsApi,
    ExecAction,
    MetricsApi,
    OperationsApi,
    OperationStatus,
    RequestOperation,
    Role,
    Target,
    TokensApi,
    UploadAction,
    UploadsApi,
    UploadStatus,
)

DEVICE = "robot"
CLIENT = "openapi-generator-python"
ENDED = (OperationStatus.FINISHED, OperationStatus.ABORTED)


def connect(token: str) -> ApiClient:
    return ApiClient(
        Configuration(
            host=os.environ["MUSTER_URL"],
            access_token=token,
            ssl_ca_cert=os.environ["MUSTER_CA"],
        )
    )


def list_names(client: ApiClient, selector: str) -> list[str]:
    """Reads all pages of the list; a page has one device here."""
    names, cursor, api = [], None, DevicesApi(client)
    while True:
        page = api.list_devices(selector=selector, limit=1, cursor=cursor)
        names += [device.name for device in page.items]
        cursor = page.next
        if cursor is None:
            return names


def label(client: ApiClient) -> int:
    """Sets a label; returns the position of the event in the log."""
    change = ChangeDevice(labels={"client": CLIENT})
    return DevicesApi(client).change_device(DEVICE, change).updated_position


def request(client: ApiClient, action: ExecAction | UploadAction) -> UUID:
    """Requests an operation; returns its id."""
    target = Target(DevicesTarget(kind="devices", devices=[DEVICE]))
    body = RequestOperation(target=target, action=Action(action))
    return OperationsApi(client).request_operation(body).id


def execute(client: ApiClient, argv: list[str]) -> str:
    """Runs a program, waits for its end and returns its output."""
    api = OperationsApi(client)
    operation = request(client, ExecAction(kind="exec", argv=argv))
    while api.get_operation(operation).status not in ENDED:
        time.sleep(0.1)
    return api.get_run_output(operation, DEVICE, stream="stdout").decode()


def events(client: ApiClient, after: int) -> Iterator[Event]:
    """Follows the log. The generator has no server-sent events: the response is read as a stream,
    and the data is parsed with the generated class."""
    api = EventsApi(client)
    response = api.stream_events_without_preload_content(after=after, device=DEVICE)
    # urllib3's response, whose body has not been read.
    rest = b""
    for chunk in response.stream():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                event = Event.from_json(line.removeprefix(b"data:").decode())
                if event is not None:
                    yield event


def create_viewer(admin: ApiClient) -> str:
    """Creates a token, and returns the role that it has."""
    created = TokensApi(admin).create_token(CreateToken(name=CLIENT, role=Role.VIEWER))
    with connect(created.secret) as viewer:
        return str(TokensApi(viewer).get_whoami().role.value)


def fetch(client: ApiClient, path: str) -> bytes:
    """Has the device upload a file, and downloads it."""
    api = UploadsApi(client)
    operation = request(client, UploadAction(kind="upload", path=path))
    while api.get_upload(operation, DEVICE).status != UploadStatus.STORED:
        time.sleep(0.1)
    return api.get_upload_content(operation, DEVICE)


def main() -> None:
    with connect(os.environ["MUSTER_TOKEN"]) as client:
        devices = list_names(client, "env=test")
        position = label(client)
        output = execute(client, ["sh", "-c", "printf 'from %s' robot"])
        requested = next(events(client, position - 1))
        found = MetricsApi(client).query_metrics(DEVICE, "mem.used_percent", since="1h", fn="mean")
        result = {
            "devices": devices,
            "output": output,
            "event": requested.type,
            "points": sum(len(series.points) for series in found.series),
            "role": create_viewer(client),
            "sha256": hashlib.sha256(fetch(client, sys.argv[1])).hexdigest(),
        }
    print(json.dumps(result))


main()
