"""A gateway of our own, for what a real one does only under stress."""

import contextlib
from concurrent import futures

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2


@contextlib.contextmanager
def fake_gateway(api, chat=None, stream_chat=None):
    """Chat is `chat(request, context)`, StreamChat the generator `stream_chat(request, context)`. Its address."""
    handlers = {}
    if chat:
        handlers["Chat"] = grpc.unary_unary_rpc_method_handler(
            chat, request_deserializer=api.ChatRequest.FromString,
            response_serializer=api.ChatResponse.SerializeToString)
    if stream_chat:
        handlers["StreamChat"] = grpc.unary_stream_rpc_method_handler(
            stream_chat, request_deserializer=api.ChatRequest.FromString,
            response_serializer=api.StreamChatResponse.SerializeToString)
    server = grpc.server(futures.ThreadPoolExecutor(4),
                         handlers=[grpc.method_handlers_generic_handler("qwenserve.v1.Inference", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


def abort(context, code, message, reason=None, retry_ms=None):
    """Ends the call as our gateways do: with ErrorInfo (reason) and RetryInfo (retry_ms)."""
    status = status_pb2.Status(code=code.value[0], message=message)
    if reason:
        status.details.append(any_pb2.Any())
        status.details[-1].Pack(error_details_pb2.ErrorInfo(domain="qwenserve", reason=reason))
    if retry_ms:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(retry_ms)
        status.details.append(any_pb2.Any())
        status.details[-1].Pack(retry)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, message)


def answer(api, text):
    """The events of a short stream."""
    yield api.StreamChatResponse(started=api.Started(model="fake", seed=7))
    yield api.StreamChatResponse(delta=api.ChatDelta(token_ids=[1], text=text))
    yield api.StreamChatResponse(finished=api.Finished(
        choices=[api.ChoiceFinish(finish_reason=api.FINISH_REASON_STOP, completion_tokens=1)],
        usage=api.Usage(prompt_tokens=3, completion_tokens=1)))
