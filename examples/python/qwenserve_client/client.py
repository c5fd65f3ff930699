"""Calls with a deadline, retries and streams that go on at another gateway."""

from __future__ import annotations

import random
import time
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple, TypeVar, Union

import grpc
from qwenserve.v1 import inference_pb2 as api
from qwenserve.v1 import inference_pb2_grpc as api_grpc

from .errors import may_retry, retry_delay
from .resume import StreamState

_Response = TypeVar("_Response")


class _Attempts:
    """The attempts of one call within its deadline."""

    def __init__(self, timeout: float, count: int) -> None:
        self._deadline = time.monotonic() + timeout
        self._left = count
        self._backoff = 0.1

    def remaining(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)

    def renew(self, count: int) -> None:
        """There was progress."""
        self._left = count
        self._backoff = 0.1

    def wait_after(self, error: grpc.RpcError) -> None:
        """Sleeps as long as the server asks, or longer each time; raises where another attempt is
        no use or comes too late."""
        self._left -= 1
        if self._left <= 0 or not may_retry(error):
            raise error
        delay = retry_delay(error)
        if delay is None:
            delay = self._backoff * random.uniform(0.5, 1.5)
            self._backoff = min(self._backoff * 2, 5.0)
        if time.monotonic() + delay >= self._deadline:
            raise error
        time.sleep(delay)


class Client:
    """Thread-safe. Calls go to one of `addresses` as long as it answers, then to the next.

    timeout: seconds for a call with all its attempts, unless the call says otherwise.
    attempts: how often a call is tried without progress.
    credentials: of gRPC; None: plaintext. api_key: sent as "authorization: Bearer ...".
    options: of the channels, such as ("grpc.service_config", ...).
    """

    def __init__(self, addresses: Union[str, Sequence[str]], *, timeout: float = 300.0, attempts: int = 5,
                 credentials: Optional[grpc.ChannelCredentials] = None, api_key: Optional[str] = None,
                 options: Sequence[Tuple[str, Any]] = ()) -> None:
        names = addresses.split(",") if isinstance(addresses, str) else list(addresses)
        if not names:
            raise ValueError("addresses: at least one is needed")
        self._timeout = timeout
        self._attempts = attempts
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._channels: List[grpc.Channel] = [
            grpc.secure_channel(name, credentials, options) if credentials
            else grpc.insecure_channel(name, options) for name in names]
        self._stubs = [api_grpc.InferenceStub(channel) for channel in self._channels]
        self._current = 0

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def chat(self, request: api.ChatRequest, timeout: Optional[float] = None) -> api.ChatResponse:
        return self._unary(lambda stub: stub.Chat, request, timeout)

    def complete(self, request: api.CompleteRequest, timeout: Optional[float] = None) -> api.CompleteResponse:
        return self._unary(lambda stub: stub.Complete, request, timeout)

    def list_models(self, timeout: Optional[float] = None) -> List[api.Model]:
        response: api.ListModelsResponse = self._unary(
            lambda stub: stub.ListModels, api.ListModelsRequest(), timeout)
        return list(response.models)

    def stream_chat(self, request: api.ChatRequest,
                    timeout: Optional[float] = None) -> Iterator[api.StreamChatResponse]:
        """Started, deltas, Finished: each token and each character once, in order, though the
        gateway may die on the way. ResumeError where the rest cannot be had token by token."""
        state = StreamState()
        attempts = _Attempts(self._timeout if timeout is None else timeout, self._attempts)
        while True:
            number, stub = self._stub()
            call = stub.StreamChat(state.begin_attempt(request), timeout=attempts.remaining(),
                                   metadata=self._metadata)
            try:
                for event in call:
                    new = state.take(event)
                    if new is not None:
                        attempts.renew(self._attempts)
                        yield new
                return
            except grpc.RpcError as error:
                self._leave(number, error)
                attempts.wait_after(error)
            finally:
                call.cancel()

    def _unary(self, method: Callable[[Any], Callable[..., _Response]], request: Any,
               timeout: Optional[float]) -> _Response:
        attempts = _Attempts(self._timeout if timeout is None else timeout, self._attempts)
        while True:
            number, stub = self._stub()
            try:
                return method(stub)(request, timeout=attempts.remaining(), metadata=self._metadata)
            except grpc.RpcError as error:
                self._leave(number, error)
                attempts.wait_after(error)

    def _stub(self) -> Tuple[int, Any]:
        number = self._current
        return number, self._stubs[number]

    def _leave(self, number: int, error: grpc.RpcError) -> None:
        # A gateway that is busy knows when it has room; another one may be there at once, but all
        # clients would move with us.
        if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED and self._current == number:
            self._current = (number + 1) % len(self._stubs)
