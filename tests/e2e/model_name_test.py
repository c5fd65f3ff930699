"""The served name that every process makes from its own --model."""

import contextlib

import grpc

from server_process import DEMO_MODEL, ServerProcess


def test_a_symlinked_model_has_one_name_everywhere(api, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(DEMO_MODEL)
    with contextlib.ExitStack() as stack:
        def start(role, *flags):
            process = ServerProcess(role, *flags)
            stack.callback(process.stop)
            return process
        tokenizer = start("tokenizer", "--model", link)
        generator = start("generator", "--model", link, "--kv-cache-memory", "64M")
        gateway = start("gateway", "--tokenizers", tokenizer.address, "--generators", generator.address)
        gateway.wait_ready()
        with grpc.insecure_channel(gateway.address) as channel:
            models = api.InferenceStub(channel).ListModels(api.ListModelsRequest()).models
    assert [(model.id, model.ready_replicas) for model in models] == [("current", 1)]
