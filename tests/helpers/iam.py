"""What a policy allows, as AWS documents it, for requests to an S3 server: an independent reading of the package's."""

import fnmatch
import io
import re
import urllib.parse
from typing import Any


def refused(environ: dict[str, Any], policies: dict[str, Any]) -> str | None:
    """Why a request (WSGI) is refused; None: it is allowed, or its access key has no policy."""
    key = re.search(r"Credential=([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    if key is None or key[1] not in policies:
        return None
    for action, resource in _asked(environ):
        if not allows(policies[key[1]], action, resource, environ):
            return f"{key[1]} may not {action} {resource}"
    return None


def _asked(environ: dict[str, Any]) -> list[tuple[str, str]]:
    """Actions and resources of a request."""
    method, query = environ["REQUEST_METHOD"], dict(urllib.parse.parse_qsl(environ["QUERY_STRING"], True))
    bucket, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
    if method == "POST" and "delete" in query:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        environ["wsgi.input"] = io.BytesIO(body)
        return [("s3:DeleteObject", f"{bucket}/{name}") for name in re.findall(r"<Key>(.*?)</Key>", body.decode())]
    if not key:
        actions = {"GET": "s3:GetBucketLocation" if "location" in query else "s3:ListBucket", "HEAD": "s3:ListBucket"}
        return [(actions.get(method, "s3:CreateBucket"), bucket)]
    if "HTTP_X_AMZ_COPY_SOURCE" in environ:
        source = urllib.parse.unquote(environ["HTTP_X_AMZ_COPY_SOURCE"]).lstrip("/")
        return [("s3:GetObject", source), ("s3:PutObject", f"{bucket}/{key}")]
    if "uploadId" in query and method in ("GET", "DELETE"):
        action = "s3:ListMultipartUploadParts" if method == "GET" else "s3:AbortMultipartUpload"
    else:
        actions = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "DELETE": "s3:DeleteObject"}
        action = actions.get(method, "s3:PutObject")
    return [(action, f"{bucket}/{key}")]


def allows(policy: dict[str, Any], action: str, resource: str, environ: dict[str, Any]) -> bool:
    """Whether a statement allows the action on the resource; the package's policies deny nothing expressly."""
    for statement in policy["Statement"]:
        assert statement.keys() <= {"Effect", "Action", "Resource", "Condition"}
        assert statement["Effect"] == "Allow"
        named = any(_matches(pattern, f"arn:aws:s3:::{resource}") for pattern in statement["Resource"])
        if action in statement["Action"] and named and _holds(statement.get("Condition"), environ):
            return True
    return False


def _matches(pattern: str, text: str) -> bool:
    return re.fullmatch(fnmatch.translate(pattern.replace("[", "[[]")), text) is not None


def _holds(condition: dict[str, Any] | None, environ: dict[str, Any]) -> bool:
    if condition is None:
        return True
    assert condition == {"Null": {"s3:if-none-match": "false"}}, "the only one that this reads"
    return "HTTP_IF_NONE_MATCH" in environ
