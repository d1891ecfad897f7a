"""A program that uses the client of openapi-python-client: what a first integration needs.

It takes the URL of a server, its CA certificate and a token from the environment, and the path of a
file on the device `robot` as its argument. It prints what it has read, as JSON.
"""

import hashlib
import json
import os
import ssl
import sys
import time
from collections.abc import Iterator
from typing import TypeVar
from uuid import UUID

from muster_client import AuthenticatedClient
from muster_client.api.devices import change_device, list_devices
from muster_client.api.metrics import query_metrics
from muster_client.api.operations import get_operation, get_run_output, request_operation
from muster_client.api.tokens import create_token, get_whoami
from muster_client.api.uploads import get_upload, get_upload_content
from muster_client.models.change_device import ChangeDevice
from muster_client.models.change_device_labels import ChangeDeviceLabels
from muster_client.models.create_token import CreateToken
from muster_client.models.devices_target import DevicesTarget
from muster_client.models.devices_target_kind import DevicesTargetKind
from muster_client.models.event import Event
from muster_client.models.exec_action import ExecAction
from muster_client.models.exec_action_kind import ExecActionKind
from muster_client.models.get_run_output_stream import GetRunOutputStream
from muster_client.models.operation_status import OperationStatus
from muster_client.models.problem import Problem
from muster_client.models.query_metrics_fn import QueryMetricsFn
from muster_client.models.request_operation import RequestOperation
from muster_client.models.role import Role
from muster_client.models.upload_action import UploadAction
from muster_client.models.upload_action_kind import UploadActionKind
from muster_client.models.upload_status import UploadStatus
from muster_client.types import Unset

T = TypeVar("T")
DEVICE = "robot"
CLIENT = "openapi-python-client"
ENDED = (OperationStatus.FINISHED, OperationStatus.ABORTED)


def ok(response: T | Problem | None) -> T:
    """Returns the response, unless it is a problem."""
    if response is None or isinstance(response, Problem):
        sys.exit(f"the request failed: {response}")
    return response


def connect(token: str) -> AuthenticatedClient:
    context = ssl.create_default_context(cafile=os.environ["MUSTER_CA"])
    return AuthenticatedClient(
        base_url=os.environ["MUSTER_URL"],
        token=token,
        verify_ssl=context,
        raise_on_unexpected_status=True,
    )


def list_names(client: AuthenticatedClient, selector: str) -> list[str]:
    """Reads all pages of the list; a page has one device here."""
    names = []
    page = ok(list_devices.sync(client=client, selector=selector, limit=1))
    names += [device.name for device in page.items]
    while not isinstance(page.next_, Unset):
        page = ok(list_devices.sync(client=client, selector=selector, limit=1, cursor=page.next_))
        names += [device.name for device in page.items]
    return names


def label(client: AuthenticatedClient) -> int:
    """Sets a label; returns the position of the event in the log."""
    labels = ChangeDeviceLabels()
    labels["client"] = CLIENT
    device = ok(change_device.sync(DEVICE, client=client, body=ChangeDevice(labels=labels)))
    return device.updated_position


def request(client: AuthenticatedClient, action: ExecAction | UploadAction) -> UUID:
    """Requests an operation; returns its id."""
    target = DevicesTarget(kind=DevicesTargetKind.DEVICES, devices=[DEVICE])
    body = RequestOperation(target=target, action=action)
    return ok(request_operation.sync(client=client, body=body)).id


def execute(client: AuthenticatedClient, argv: list[str]) -> str:
    """Runs a program, waits for its end and returns its output."""
    operation = request(client, ExecAction(kind=ExecActionKind.EXEC, argv=argv))
    while ok(get_operation.sync(operation, client=client)).status not in ENDED:
        time.sleep(0.1)
    stdout = GetRunOutputStream.STDOUT
    output = ok(get_run_output.sync(operation, DEVICE, client=client, stream=stdout))
    return output.payload.read().decode()


def events(client: AuthenticatedClient, after: int) -> Iterator[Event]:
    """Follows the log. The generated function reads a whole response, which does not end here: so
    the request is sent with the client's httpx, and the data is parsed with the generated class."""
    params: dict[str, str | int] = {"after": after, "device": DEVICE}
    http = client.get_httpx_client()
    with http.stream("GET", "/api/v1/events/stream", params=params) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data:"):
                yield Event.from_dict(json.loads(line.removeprefix("data:")))


def create_viewer(admin: AuthenticatedClient) -> str:
    """Creates a token, and returns the role that it has."""
    created = ok(create_token.sync(client=admin, body=CreateToken(name=CLIENT, role=Role.VIEWER)))
    with connect(created.secret) as viewer:
        return ok(get_whoami.sync(client=viewer)).role.value


def fetch(client: AuthenticatedClient, path: str) -> bytes:
    """Has the device upload a file, and downloads it."""
    operation = request(client, UploadAction(kind=UploadActionKind.UPLOAD, path=path))
    while ok(get_upload.sync(operation, DEVICE, client=client)).status != UploadStatus.STORED:
        time.sleep(0.1)
    return ok(get_upload_content.sync(operation, DEVICE, client=client)).payload.read()


def main() -> None:
    with connect(os.environ["MUSTER_TOKEN"]) as client:
        devices = list_names(client, "env=test")
        position = label(client)
        output = execute(client, ["sh", "-c", "printf 'from %s' robot"])
        requested = next(event for event in events(client, position - 1))
        field, mean = "mem.used_percent", QueryMetricsFn.MEAN
        found = ok(query_metrics.sync(DEVICE, client=client, field=field, since="1h", fn=mean))
        result = {
            "devices": devices,
            "output": output,
            "event": requested.type_,
            "points": sum(len(series.points) for series in found.series),
            "role": create_viewer(client),
            "sha256": hashlib.sha256(fetch(client, sys.argv[1])).hexdigest(),
        }
    print(json.dumps(result))


main()
