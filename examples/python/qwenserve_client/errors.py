"""What an error of the server says beyond its code."""

from __future__ import annotations

from typing import Optional, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

# Codes with which a connection breaks; the server's own errors of these codes carry an ErrorInfo.
_BROKEN = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)

_Detail = TypeVar("_Detail", bound=Message)


def _detail(error: grpc.RpcError, detail: _Detail) -> Optional[_Detail]:
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for packed in status_pb2.Status.FromString(value).details:
            if packed.Unpack(detail):
                return detail
    return None


def error_info(error: grpc.RpcError) -> Optional[error_details_pb2.ErrorInfo]:
    """Reason and metadata; None for an error that is not the server's own."""
    return _detail(error, error_details_pb2.ErrorInfo())


def retry_delay(error: grpc.RpcError) -> Optional[float]:
    """Seconds after which the server asks to try again; None where it does not."""
    info = _detail(error, error_details_pb2.RetryInfo())
    return info.retry_delay.ToTimedelta().total_seconds() if info else None


def may_retry(error: grpc.RpcError) -> bool:
    """Whether the same request may succeed later or elsewhere: the gateway is gone, or it is too
    busy and says for how long. Other refusals would only be repeated."""
    code = error.code()
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return retry_delay(error) is not None
    return code == grpc.StatusCode.UNAVAILABLE or (code in _BROKEN and error_info(error) is None)
