"""A client that knows nothing of us but the address: reflection, health, ops port."""

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def test_reflection_lists_the_services_and_is_enough_to_call_them(shared_cluster):
    with shared_cluster.channel() as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert {"qwenserve.v1.Inference", "grpc.health.v1.Health"} <= services
        pool = descriptor_pool.DescriptorPool(database)
        method = pool.FindServiceByName("qwenserve.v1.Inference").FindMethodByName("Complete")
        request_class = message_factory.GetMessageClass(method.input_type)
        response_class = message_factory.GetMessageClass(method.output_type)
        call = channel.unary_unary("/qwenserve.v1.Inference/Complete",
                                   request_serializer=request_class.SerializeToString,
                                   response_deserializer=response_class.FromString)
        request = request_class(text="hello")
        request.options.max_tokens = 4
        request.options.ignore_eos = True
        assert len(call(request).choices[0].token_ids) == 4


def test_health_knows_the_process_and_the_model(shared_cluster):
    serving = health_pb2.HealthCheckResponse.SERVING
    for process in (shared_cluster.gateway, shared_cluster.tokenizers[0], shared_cluster.generators[0]):
        with grpc.insecure_channel(process.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for name in ("", "demo"):
                reply = stub.Check(health_pb2.HealthCheckRequest(service=name))
                assert reply.status == serving, (process.role, name)


def test_ops_port_answers_probes_and_metrics(shared_cluster):
    for process in (shared_cluster.gateway, shared_cluster.tokenizers[0], shared_cluster.generators[0]):
        assert process.http("/livez")[0] == 200, process.role
        assert process.http("/readyz")[0] == 200, process.role
        status, text = process.http("/metrics")
        assert status == 200
        assert f'role="{process.role}"' in text or "qwenserve_build_info" in text
        assert process.http("/nothing")[0] == 404
    _, text = shared_cluster.generators[0].http("/metrics")
    assert 'weights="bf16"' in text and 'kv="bf16"' in text and 'device="cpu (' in text


def test_no_prompt_reaches_the_metrics(shared_cluster, api, stub):
    canary = "xylophonecanary"
    stub.Chat(api.ChatRequest(
        input=api.ChatInput(messages=[api.ChatMessage(role=2, content=canary)]),
        options=api.GenerationOptions(max_tokens=4), request_id="r-" + canary))
    for process in (shared_cluster.gateway, shared_cluster.tokenizers[0], shared_cluster.generators[0]):
        assert canary not in process.http("/metrics")[1]
