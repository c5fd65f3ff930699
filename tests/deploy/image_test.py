"""The images of docker/Dockerfile, built with buildah from the programs of this build, and run.

Skipped, with the reason, where images cannot be built: without root, buildah, mounts or a Debian mirror.
"""

import ctypes
import errno
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import stat
import subprocess
import tarfile
import tempfile

import jsonschema
import pytest

import server_process
from conftest import ROOT
from rendered import COMPONENTS

DOCKER = ROOT / "docker"
SIZES = {"gateway": 60, "tokenizer": 60, "generator-cpu": 90, "ctl": 60}  # MB, uncompressed sum of layers
CUDA_SIZES = {"generator-cuda": 950, "generator-cuda-slim": 350}
SERVERS = {"gateway": "gateway", "tokenizer": "tokenizer", "generator": "generator-cpu"}
DOC = "usr/share/doc/qwenserve"
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
NAMES = {"gateway": {"qwenserve-gateway", "qwenctl"}, "tokenizer": {"qwenserve-tokenizer", "qwenctl"},
         "generator-cpu": {"qwenserve-generator", "qwenctl"}}


def unable():
    """Why no image can be built here, or None."""
    if os.geteuid() != 0:
        return "not root"
    missing = [name for name in ("buildah", "debootstrap", "unshare") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if 'VERSION_CODENAME=bookworm' not in pathlib.Path("/etc/os-release").read_text():
        return "the programs of this build are linked for another distribution than Debian 12"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        return "mounts are not allowed"
    if os.environ.get("QWENSERVE_SANITIZE"):
        return "a build with sanitizers is not shipped"
    return None


pytestmark = pytest.mark.skipif(unable() is not None, reason=f"no images can be built: {unable()}")


def storage():
    """A new folder, in memory if there is plenty: a build writes and syncs a few gigabytes."""
    memory = pathlib.Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 8 << 30
    return pathlib.Path(tempfile.mkdtemp(prefix="qwenserve-images-", dir=memory if roomy else None))


class Images:
    """Images of qwenserve in a storage of their own."""

    def __init__(self, packages=None):
        folder = self.folder = storage()
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", **({"PACKAGES": packages} if packages else {})}
        done = subprocess.run([DOCKER / "build_from_tree", server_process.BIN.parent, folder, *SIZES],
                              env=environment, capture_output=True, text=True)
        self.options = subprocess.run([folder / "options"], check=True, capture_output=True, text=True).stdout.split()
        self._roots = {}
        if done.returncode != 0:
            self.remove()
        if done.returncode == 3:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    def buildah(self, *arguments):
        done = subprocess.run(["buildah", *self.options, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def container(self, target):
        return self.buildah("from", "--pull-never", f"localhost/qwenserve-{target}")

    def root(self, target):
        """The image's files; every call gives the same folder."""
        if target not in self._roots:
            self._roots[target] = pathlib.Path(self.buildah("mount", self.container(target)))
        return self._roots[target]

    def config(self, target):
        return json.loads(self.buildah("inspect", "--type", "image", f"localhost/qwenserve-{target}"))["OCIv1"]["config"]

    def pushed(self, target):
        """The digest of the image's manifest, and its layers: (digest, size uncompressed)."""
        archive = self.folder / f"{target}.tar"
        self.buildah("push", "--quiet", "--digestfile", self.folder / "digest", f"localhost/qwenserve-{target}",
                     f"oci-archive:{archive}")
        with tarfile.open(archive) as tar:
            def blob(digest):
                return tar.extractfile("blobs/sha256/" + digest.removeprefix("sha256:"))
            index = json.load(tar.extractfile("index.json"))
            manifest = json.load(blob(index["manifests"][0]["digest"]))
            layers = [(layer["digest"], unpacked_size(blob(layer["digest"]))) for layer in manifest["layers"]]
        archive.unlink()
        return (self.folder / "digest").read_text(), layers

    def remove(self):
        """Nothing stays mounted, also of a build that has failed, and no gigabyte behind for others to count."""
        subprocess.run(["umount", "--quiet", "--recursive", self.folder / "root" / "overlay"])
        shutil.rmtree(self.folder)


def unpacked_size(file):
    with tarfile.open(fileobj=file) as tar:
        end = max(member.offset_data + member.size for member in tar.getmembers())
    return end


@pytest.fixture(scope="module")
def images():
    made = Images()
    yield made
    made.remove()


@pytest.fixture(params=sorted(SIZES))
def target(request):
    return request.param


def sbom(images, target):
    return json.loads((images.root(target) / DOC / "sbom.spdx.json").read_text())


def test_sizes(images):
    for target, bound in SIZES.items():
        layers = images.pushed(target)[1]
        total = sum(size for _, size in layers) / 1e6
        print(f"{target}: {total:.1f} MB in layers of {', '.join(f'{size / 1e6:.1f}' for _, size in layers)}")
        assert 20 < total <= bound
        if target != "gateway":  # the libraries and qwenctl are one download for all
            assert layers[:2] == images.pushed("gateway")[1][:2]


def test_only_its_programs_can_be_executed(images):
    for target, names in NAMES.items():
        executable = {path for path in images.root(target).rglob("*")
                      if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o111}
        assert {path.name for path in executable} == {*names, "ld-linux-x86-64.so.2"} or platform.machine() != "x86_64"
        for shell in ("sh", "bash", "dash", "busybox"):
            assert not [path for path in images.root(target).rglob(shell) if "bin" in path.parts]


def test_no_file_belongs_to_the_user(images, target):
    """Nor can others write one, but in /tmp."""
    for path in images.root(target).rglob("*"):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (0, 0)
        if not stat.S_ISLNK(status.st_mode) and path.name != "tmp":
            assert not status.st_mode & 0o7022, path
            assert status.st_mode & 0o444 == 0o444, path


def test_every_program_says_its_version(images):
    """In buildah's own containers, as its user."""
    for target in SIZES:
        container = images.container(target)
        program = (images.config(target).get("Entrypoint") or ["/usr/bin/qwenctl"])[0]
        assert "0.1.0" in images.buildah("run", "--isolation", "chroot", "--user", "65532:65532", container, "--",
                                         program, "--version")
        assert images.config(target)["User"] == "65532:65532"
        images.buildah("rm", container)


def test_ctl_has_a_shell(images):
    container = images.container("ctl")
    command = ("set -e; id -u; qwenctl --version; for name in ls wget nslookup ps; do which $name; done; "
               "qwenctl status --timeout 1 || echo $?")
    lines = images.buildah("run", "--isolation", "chroot", container, "--", *images.config("ctl")["Cmd"], "-c",
                           command).splitlines()
    assert lines[0] == "65532" and "0.1.0" in lines[1] and lines[-1] == "3"
    assert lines[-5:-1] == ["/usr/bin/ls", "/usr/bin/wget", "/usr/bin/nslookup", "/usr/bin/ps"]


# Makes the root read-only and gives it what a container engine gives: /dev, /proc and a /tmp of its own. Then
# without privileges, as the image's user, the program; the process id stays the same.
RUN = """#!/bin/sh
exec unshare --mount --propagation private sh -c '
  set -e
  root=$1; shift
  mkdir -p "$root/dev" "$root/proc"
  mount --rbind "$root" "$root"
  mount --rbind /dev "$root/dev"
  mount --bind /proc "$root/proc"
  mount -t tmpfs tmpfs "$root/tmp"
  mount -o remount,bind,ro "$root"
  cd "$root"
  exec env -u LD_LIBRARY_PATH setpriv --no-new-privs chroot --userspec=65532:65532 "$root" "$@"
' sh {root} {program} "$@"
"""


@pytest.fixture
def contained(images, tmp_path, monkeypatch):
    """Programs of server_process run in their images."""
    for component, target in SERVERS.items():
        wrapper = tmp_path / f"qwenserve-{component}"
        program = images.config(target)["Entrypoint"][0]
        wrapper.write_text(RUN.format(root=images.root(target), program=program))
        wrapper.chmod(0o755)
    monkeypatch.setattr(server_process, "BIN", tmp_path)


def assert_confined(server, root):
    status = pathlib.Path(f"/proc/{server.pid}/status").read_text()
    assert re.search(r"^Uid:\t65532\t", status, re.MULTILINE) and "NoNewPrivs:\t1" in status
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    assert os.readlink(f"/proc/{server.pid}/root") == str(root)
    with pytest.raises(OSError) as refused:
        pathlib.Path(f"/proc/{server.pid}/root/usr/bin/new").touch()
    assert refused.value.errno == errno.EROFS


def qwenctl(root, *arguments):
    """In an image's root, as its user: what health checks of a container engine do."""
    return subprocess.run(["chroot", "--userspec=65532:65532", root, "/usr/bin/qwenctl", *arguments],
                          capture_output=True, text=True, timeout=60)


def test_the_images_serve_with_a_read_only_root(images, contained):
    model = ["--model", "/opt/qwenserve/models/demo"]
    servers = []
    try:
        for role, flags in (("tokenizer", model), ("generator", [*model, "--tp", "2", "--tp-mode", "processes"])):
            servers.append(server_process.ServerProcess(role, *flags))
        tokenizer, generator = servers
        servers.append(server_process.ServerProcess("gateway", "--tokenizers", tokenizer.address,
                                                    "--generators", generator.address))
        for server in servers:
            server.wait_ready()
            assert_confined(server, images.root(SERVERS[server.role]))
            assert qwenctl(images.root(SERVERS[server.role]), "status", "--address", server.address).returncode == 0
        done = qwenctl(images.root("gateway"), "chat", "--address", servers[-1].address, "--message", "What is qwenserve?")
        assert done.returncode == 0 and "gateway" in done.stdout.lower(), done
        assert [server.terminate() for server in reversed(servers)] == [0, 0, 0]
    finally:
        for server in servers:
            server.stop()


def test_public_authorities_are_known(images, target):
    """To a flag that names them: the server is not there, and that is all that is wrong."""
    root = images.root(target)
    assert (root / AUTHORITIES).read_text().count("BEGIN CERTIFICATE") > 50
    done = qwenctl(root, "status", "--address", "127.0.0.1:1", "--timeout", "5", "--tls-ca", f"/{AUTHORITIES}")
    assert done.returncode == 3, done


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_crash_in_an_image_names_functions(images, contained, component, tmp_path):
    model = ("--tokenizers", "127.0.0.1:1", "--generators", "127.0.0.1:1") if component == "gateway" else (
        "--model", "/opt/qwenserve/models/demo")
    with open(tmp_path / "log", "w+") as log:
        server = server_process.ServerProcess(component, *model, log=log)
        if component != "gateway":  # which would wait for others
            server.wait_ready()
        server.signals.append(signal.SIGSEGV)
        assert ctypes.CDLL(None).tgkill(server.pid, server.pid, signal.SIGSEGV) == 0  # the main thread, and no other
        assert server.wait() == -signal.SIGSEGV
        log.seek(0)
        text = log.read()
    assert "*** SIGSEGV received" in text and "qwenserve::RunServer()" in text, text


def test_sbom(images, target):
    document = sbom(images, target)
    jsonschema.validate(document, json.loads((ROOT / "third_party/spdx/spdx-schema-2.3.json").read_text()))
    assert document["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    names = [package["name"] for package in document["packages"]]
    assert names[0] == f"qwenserve-{target}" and len(set(names)) == len(names)
    for package in document["packages"]:
        assert package["versionInfo"] and package["downloadLocation"] and package["SPDXID"].startswith("SPDXRef-")
    assert {"libgrpc++1.51", "libssl3", "libc6", "libboost1.74-dev", "googleapis"} <= set(names)
    assert ("busybox-static" in names) == (target == "ctl")
    known = {e["SPDXID"] for e in [*document["packages"], *document["files"]]} | {"SPDXRef-DOCUMENT"}
    assert len(known) == len(document["packages"]) + len(document["files"]) + 1
    for relation in document["relationships"]:
        assert {relation["spdxElementId"], relation["relatedSpdxElement"]} <= known
    contained_packages = {r["relatedSpdxElement"] for r in document["relationships"]}
    assert known - contained_packages == {"SPDXRef-DOCUMENT"}
    # What the schema does not say: a package with files is one whose files were looked at.
    sums = {e["SPDXID"]: next(c["checksumValue"] for c in e["checksums"] if c["algorithm"] == "SHA1")
            for e in document["files"]}
    for package in document["packages"]:
        of_package = sorted(sums[r["relatedSpdxElement"]] for r in document["relationships"]
                            if r["spdxElementId"] == package["SPDXID"] and r["relatedSpdxElement"] in sums)
        assert package["filesAnalyzed"] == bool(of_package) == ("packageVerificationCode" in package)
        if of_package:
            code = hashlib.sha1("".join(of_package).encode()).hexdigest()
            assert package["packageVerificationCode"] == {"packageVerificationCodeValue": code}


def test_sbom_tells_every_program_and_library(images, target):
    root = images.root(target)
    entries = {entry["fileName"].removeprefix("./"): entry for entry in sbom(images, target)["files"]}
    for path, entry in entries.items():
        sums = {check["algorithm"]: check["checksumValue"] for check in entry["checksums"]}
        content = (root / path).read_bytes()
        assert sums == {"SHA1": hashlib.sha1(content).hexdigest(), "SHA256": hashlib.sha256(content).hexdigest()}
    present = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    untold = {path for path in present - set(entries) if not path.startswith((DOC, "var/lib/dpkg/status.d/"))}
    assert untold == {"etc/passwd", "etc/group", "etc/nsswitch.conf"}
    assert AUTHORITIES in entries
    # Scanners read these as those of a distribution.
    purls = {r["referenceLocator"] for package in sbom(images, target)["packages"]
             for r in package.get("externalRefs", [])}
    for path in (root / "var/lib/dpkg/status.d").iterdir():
        fields = dict(re.findall(r"^(\w+): (.*)$", path.read_text(), re.MULTILINE))
        assert any(f"/{fields['Package']}@{fields['Version'].replace('+', '%2B')}?" in purl for purl in purls)


def test_notices_have_every_licence(images, target):
    text = (images.root(target) / DOC / "THIRD_PARTY_NOTICES").read_text()
    sections = re.findall(r"^=+\n(\S+)(?: .*)?\n=+\n", text, re.MULTILINE)
    others = {p["name"] for p in sbom(images, target)["packages"][1:]} - {"qwenserve"}
    assert others <= set(sections) and len(others) > 20
    for name in re.findall(r"/usr/share/common-licenses/(\w[\w.+-]*\w)", text):
        assert f"/usr/share/common-licenses/{name}" in sections, name
    for word in ("Boost Software License", "Redistribution and use", "Apache License", "GCC Runtime Library"):
        assert word.lower() in re.sub(r"\s+", " ", text).lower(), word


def test_the_same_packages_make_the_same_images(images):
    """Built again elsewhere, from the list of what is in the first."""
    pinned = DOCKER / f"pinned-{os.getpid()}.txt"
    again = None
    try:
        pinned.write_text(subprocess.run([DOCKER / "package_list", images.root("ctl") / DOC / "sbom.spdx.json"],
                                         check=True, capture_output=True, text=True).stdout)
        assert re.search(r"^libgrpc\+\+1.51=\S+$", pinned.read_text(), re.MULTILINE)
        again = Images(packages=pinned.relative_to(ROOT))
        assert {t: again.pushed(t)[0] for t in SIZES} == {t: images.pushed(t)[0] for t in SIZES}
    finally:
        if again:
            again.remove()
        pinned.unlink(missing_ok=True)


def test_cuda_images_fit(images, tmp_path):
    """Collected as the Dockerfile does, from this machine's CUDA; not built, since copying takes so long."""
    generator = server_process.BIN / "qwenserve-generator"
    version = subprocess.run([generator, "--version"], check=True, capture_output=True, text=True).stdout
    if "GPU kernels: sm_" not in version:
        pytest.skip("this build has no GPU kernels")
    if not list(pathlib.Path("/usr/local").glob("cuda-*.*/lib*/libnccl.so.2")):
        pytest.skip("no CUDA with NCCL in /usr/local")
    subprocess.run([DOCKER / "collect_root", "--cuda", "/", "--model", ROOT / "models/demo", tmp_path / "roots",
                    images.folder / "programs", *CUDA_SIZES], check=True)
    dockerfile = (DOCKER / "Dockerfile").read_text()
    for target, bound in CUDA_SIZES.items():
        stage = dockerfile.split(f"AS {target}\n")[1].split("FROM ")[0]
        layers = [tmp_path / "roots" / name for name in re.findall(r"COPY --from=roots-cuda /roots/(\S+) /", stage)]
        total = sum(path.lstat().st_size for layer in layers for path in layer.rglob("*")) / 1e6
        assert 200 < total <= bound, target
        names = {path.name for layer in layers for path in layer.rglob("*")}
        assert {"qwenserve-generator", "libnccl.so.2"} <= names
        assert any(name.startswith("libcublasLt.so") for name in names) == (target == "generator-cuda")
        packages = {p["name"] for p in json.loads((layers[-1] / DOC / "sbom.spdx.json").read_text())["packages"]}
        assert {"nccl", "cuda-cudart"} <= packages and ("cublaslt" in packages) == (target == "generator-cuda")
    assert set(SERVERS) == set(COMPONENTS)
