"""A client of qwenserve's gRPC API.

    from qwenserve_client import Client, api

    with Client(["gateway-1:50051", "gateway-2:50051"]) as client:
        request = api.ChatRequest(input=api.ChatInput(
            messages=[api.ChatMessage(role=api.ROLE_USER, content="Hello")]))
        for event in client.stream_chat(request):
            print(event.delta.text, end="", flush=True)

`api` has the messages of qwenserve/v1/inference.proto.
"""

from qwenserve.v1 import inference_pb2 as api

from .answer import Answer
from .client import Client
from .errors import error_info, retry_delay
from .resume import ResumeError

__all__ = ["Answer", "Client", "ResumeError", "api", "error_info", "retry_delay"]
