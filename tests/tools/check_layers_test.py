"""The layer check finds what it is for, and this tree passes it."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import check_layers  # noqa: E402


def tree(tmp_path, files):
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_this_tree_is_clean():
    assert check_layers.check(ROOT) == []


def test_this_tree_was_really_read():
    libraries = [name for file in ROOT.glob("kernels/**/CMakeLists.txt")
                 for name, _ in check_layers.parse_libraries(file.read_text())]
    assert "kernels" in libraries


@pytest.mark.parametrize("path, line", [
    ("kernels/a.cc", '#include "engine/base/json_reader.h"'),
    ("kernels/a.h", '#include "services/common/metrics/metrics.h"'),
    ("kernels/cpu/a.cc", '#  include "tests/kernels/reference.h"'),
    ("kernels/cpu/a.cc", '#include <cuda_runtime.h>'),
    ("kernels/cpu/a.cc", '#include "cublasLt.h"'),
    ("kernels/cuda/gemm.cu", '#include <nccl.h>'),
    ("kernels/cuda/a.cc", '#include "../backend.h"'),
    ("engine/base/a.cc", '#include "services/common/shutdown.h"'),
    ("engine/base/a.cc", '#include "qwenserve/v1/generator.pb.h"'),
    ("engine/base/a.cc", '#include "proto/a.h"'),
    ("engine/runtime/a.cc", '#include <grpcpp/grpcpp.h>'),
    ("engine/runtime/a.cc", '#include "prometheus/counter.h"'),
    ("engine/runtime/a.cc", '#include "kernels/cuda/cuda_backend.h"'),
    ("tools/qwenctl/a.cc", '#include "kernels/cuda/runtime/gpu_device.h"'),
    ("engine/loader/a.cc", '#include "nlohmann/json.hpp"'),
    ("services/gateway/a.cc", '#include "tools/qwenctl/client.h"'),
    ("services/gateway/a.cc", '#include "nlohmann/json.hpp"'),
    ("services/gateway/call/a.cc", '#include "services/gateway/workers/session_pool.h"'),
    ("services/gateway/routing/a.cc", '#include "services/gateway/gateway.h"'),
    ("tools/qwenctl/a.cc", '#include "tests/e2e/cluster.h"'),
])
def test_upward_include_is_found(tmp_path, path, line):
    violations = check_layers.check(tree(tmp_path, {path: line + "\n"}))
    assert len(violations) == 1 and violations[0].startswith(path + ":")


@pytest.mark.parametrize("path, line", [
    ("kernels/cuda/gemm.cu", '#include <cuda_runtime.h>'),
    ("kernels/cuda/comm/ring.cc", '#include <nccl.h>'),
    ("tools/bench/a.cc", '#include "kernels/cuda/runtime/gpu_device.h"'),
    ("engine/base/json_reader.cc", '#include "nlohmann/json.hpp"'),
    ("engine/model/a.cc", '#include "kernels/backend.h"'),
    ("services/gateway/call/a.cc", '#include "services/gateway/auth/authenticator.h"'),
    ("services/gateway/gateway.cc", '#include "services/gateway/workers/session_pool.h"'),
    ("services/generator/a.cc", '#include "engine/runtime/engine.h"'),
    ("services/generator/a.cc", '#include "qwenserve/v1/generator.grpc.pb.h"'),
    ("tools/qwenctl/a.cc", '#include "services/common/errors/status_mapping.h"'),
    ("tools/qwenctl/a.cc", '#include <grpcpp/grpcpp.h>'),
])
def test_downward_include_passes(tmp_path, path, line):
    assert check_layers.check(tree(tmp_path, {path: line + "\n"})) == []


def test_upward_dependency_is_found(tmp_path):
    violations = check_layers.check(tree(tmp_path, {
        "kernels/CMakeLists.txt": "qs_library(NAME kernels\n  SRCS a.cc\n  DEPS engine_base absl::status)",
        "engine/base/CMakeLists.txt": "qs_library(NAME engine_base DEPS gRPC::grpc++)  # DEPS kernels",
        "proto/CMakeLists.txt": "add_library(wire STATIC a.cc)",
        "engine/run/CMakeLists.txt": "qs_library(NAME engine_run DEPS wire kernels)",
    }))
    assert sorted(v.split(": ", 1)[1].split(":")[0] for v in violations) == [
        "engine_base depends on gRPC", "engine_run depends on wire", "kernels depends on engine_base"]


def test_command_line_exit_codes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["check_layers.py", str(tmp_path)])
    assert check_layers.main() == 0
    tree(tmp_path, {"kernels/a.h": '#include "engine/a.h"\n'})
    assert check_layers.main() == 1
    assert "kernels/a.h:1: includes engine/a.h: kernels may not use engine" in capsys.readouterr().out
