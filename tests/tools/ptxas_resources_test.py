"""tools/ptxas_resources: a spill or a stack frame that is not committed fails the build's tests."""

import importlib.machinery
import importlib.util
import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).parent.parent.parent / "tools/ptxas_resources"
LOADER = importlib.machinery.SourceFileLoader("ptxas_resources", str(SCRIPT))
SPEC = importlib.util.spec_from_loader("ptxas_resources", LOADER)
ptxas_resources = importlib.util.module_from_spec(SPEC)
LOADER.exec_module(ptxas_resources)

NAME = ("_ZN9qwenserve7on_cuda5EntryINS0_47_GLOBAL__N__1750a62d_14_copy_kernel_cu_745b370b4CopyEEEv"
        "NT_4ArgsE")


def output(architecture, stack, stores, loads, extra=""):
    return f"""ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{NAME}' for '{architecture}'
ptxas info    : Function properties for {NAME}
    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used 36 registers, used 1 barriers, 128 bytes smem, 376 bytes cmem[0]
ptxas info    : Compile time = 29.697 ms
{extra}"""


def write_object(folder, text):
    path = folder / "kernels_cuda.dir" / "runtime" / "copy_kernel.cu.o"
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / (path.name + ".ptxas")).write_text(text)
    return str(path)


def test_reads_resources(tmp_path):
    path = write_object(tmp_path, output("sm_80", 0, 0, 0) + output("sm_90a", 16, 4, 8))
    found, complaints = ptxas_resources.read_objects([path])
    assert complaints == []
    assert found == {"runtime/copy_kernel.cu Copy": {
        "sm_80": {"registers": 36, "shared": 128, "stack": 0, "spills": 0},
        "sm_90a": {"registers": 36, "shared": 128, "stack": 16, "spills": 12}}}


def test_complains_of_more_than_is_committed():
    kernel = {"registers": 255, "stack": 8, "spills": 12}
    found = {"a.cu A": {"sm_80": kernel}}
    assert list(ptxas_resources.complaints_about(found, {})) == [
        "a.cu A, sm_80: 8 bytes of stack, 0 allowed (255 registers)",
        "a.cu A, sm_80: 12 bytes of spills, 0 allowed (255 registers)"]
    assert not list(ptxas_resources.complaints_about(found, {"a.cu A": {"sm_80": kernel}}))
    less = {"a.cu A": {"sm_80": {"stack": 8, "spills": 11}}}
    assert len(list(ptxas_resources.complaints_about(found, less))) == 1
    assert len(list(ptxas_resources.complaints_about(found, {"a.cu A": {"sm_90a": kernel}}))) == 2


def test_fails_as_a_program(tmp_path):
    def run(text):
        path = write_object(tmp_path, text)
        return subprocess.run([sys.executable, str(SCRIPT), path, "host.cc.o"], text=True,
                              capture_output=True, check=False)

    good = run(output("sm_80", 0, 0, 0))
    assert good.returncode == 0, good.stdout
    bad = run(output("sm_80", 0, 4, 4))
    assert bad.returncode == 1
    assert "Copy, sm_80: 8 bytes of spills" in bad.stdout
    loss = run(output("sm_80", 0, 0, 0, "ptxas info : (C7510) Potential Performance Loss: slow"))
    assert loss.returncode == 1
    assert "Potential Performance Loss: slow" in loss.stdout
    missing = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / "x.cu.o")], text=True,
                             capture_output=True, check=False)
    assert missing.returncode == 1
    assert "no output of ptxas" in missing.stdout


def test_short_names():
    long_name = ("void qwenserve::on_cuda::Entry<qwenserve::on_cuda::(anonymous namespace)::"
                 "Skinny<(qwenserve::WeightFormat)2, 4> >(qwenserve::on_cuda::(anonymous "
                 "namespace)::Skinny<(qwenserve::WeightFormat)2, 4>::Args)")
    assert ptxas_resources.short_name(long_name) == "Skinny<(WeightFormat)2, 4>"


def test_the_file_is_as_it_would_be_written():
    if ptxas_resources.COMMITTED.exists():
        text = ptxas_resources.COMMITTED.read_text()
        assert ptxas_resources.dump(ptxas_resources.json.loads(text)) == text
