"""Makes the stubs of inference.proto a part of the wheel. It needs this folder inside the repository."""

import pathlib
from importlib.metadata import version

from setuptools import setup
from setuptools.command.build_py import build_py

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"


class BuildWithStubs(build_py):
    def run(self):
        super().run()
        from grpc_tools import protoc

        if not (PROTO / "qwenserve/v1/inference.proto").is_file():
            raise FileNotFoundError(f"{PROTO}: build the wheel inside a copy of the repository")
        code = protoc.main(["protoc", f"-I{PROTO}", f"--python_out={self.build_lib}", f"--pyi_out={self.build_lib}",
                            f"--grpc_python_out={self.build_lib}", "qwenserve/v1/inference.proto"])
        if code != 0:
            raise RuntimeError(f"protoc ended with status {code}")


setup(
    cmdclass={"build_py": BuildWithStubs},
    install_requires=[f"grpcio>={version('grpcio-tools')}", f"protobuf>={version('protobuf')}",
                      "googleapis-common-protos>=1.56"])
