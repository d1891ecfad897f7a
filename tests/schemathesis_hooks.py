"""Hooks of schemathesis (tests/schemathesis.toml): what a valid request needs and OpenAPI cannot
describe. Requests that are meant to be invalid are not changed."""

import base64
import json
import os
from typing import Any
from urllib.parse import quote

import schemathesis

# Parameters that exclude each other.
EXCLUSIVE = {"at": "position", "since": "from"}
# Texts in a language of their own, and times: in the past, and a range that is not empty.
VALUES = {
    "selector": "env=prod,!retired",
    "type": "DeviceConnected,DeviceDisconnected",
    "field": "cpu.usage_user",
    "since": "1h",
    "step": "1m",
    "group_by": "cpu",
    "at": "2026-11-23T08:00:00Z",
    "from": "2026-11-23T07:00:00Z",
    "to": "2026-11-23T08:00:00Z",
}
# Fields of actions whose rules the server explains in words, which patterns in the document would
# replace: programs have names, folders are absolute, names of variables are words, no text has a NUL.
ACTION = {
    "argv": ["uname", "-a"],
    "command": "uname -a",
    "cwd": "/",
    "env": {"LANG": "C"},
    "level": "debug",
    "path": "/var/log/app.log",
    "stdin_base64": "aGVsbG8=",
    "user": "robot",
}


# The device that operations are for, which has enrolled: its name and its id.
ENROLLED = ("robot-9", os.environ["MUSTER_TEST_DEVICE"])


# Operations with target devices.
WITH_TARGET = ("request_operation", "change_devices", "delete_devices")

# Maximum length of a parameter, encoded: hyper refuses a path of more than 64 KiB without a body.
MAX_PARAMETER = 50_000


def shortened(value: Any) -> Any:
    """Keeps the number of characters, which a rule may be about."""
    is_long = isinstance(value, str) and len(quote(value)) > MAX_PARAMETER
    return "a" * len(value) if is_long else value


def is_cursor(text: str) -> bool:
    """Only the server makes cursors: those that links take from a response are sent, generated ones
    are not."""
    try:
        json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError:
        return False
    return True


def with_integers(value: Any) -> Any:
    """JSON Schema takes 3.0 for an integer; the server accepts only 3, which clients write."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [with_integers(item) for item in value]
    if isinstance(value, dict):
        return {key: with_integers(item) for key, item in value.items()}
    return value


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    path = case.path_parameters
    if case.query:
        case.query.update({name: shortened(value) for name, value in case.query.items()})
    if case.method != "GET" and path and path.get("device") in ENROLLED:
        # It must not be renamed, revoked or deleted.
        path["device"] = "robot-7"
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.headers and "If-None-Match" in case.headers:
        # The only value that the document allows.
        case.headers["If-None-Match"] = "*"
    query = case.query
    if query:
        is_linked = case.meta.phase.name.value == "stateful"
        if not is_linked or not is_cursor(query.get("cursor", "")):
            query.pop("cursor", None)
        for name, other in EXCLUSIVE.items():
            if name in query and other in query:
                del query[other]
        query.update({name: text for name, text in VALUES.items() if name in query})
    if isinstance(case.body, dict):
        case.body = with_integers(case.body)
        operation = case.operation.definition.raw.get("operationId")
        if operation in WITH_TARGET:
            # The target devices exist in the project.
            case.body["target"] = {"kind": "devices", "devices": [ENROLLED[0]]}
            if query:
                query.pop("project", None)
        if operation == "register_devices":
            # Each device of a request has another name.
            for number, device in enumerate(case.body["devices"]):
                device["name"] = f"bulk-{number}"
        if operation == "delete_devices":
            case.body["dry_run"] = True
        if operation == "request_operation":
            action = case.body["action"]
            action.update({name: value for name, value in ACTION.items() if name in action})
            # The first argument is the program, which has a name.
            argv = case.body["action"].get("argv")
            if argv and isinstance(argv[0], str) and not argv[0].strip():
                argv[0] = "true"
            # The maximum depends on the action: this is the smaller one.
            if case.body.get("timeout_seconds"):
                case.body["timeout_seconds"] = min(case.body["timeout_seconds"], 24 * 3600)
