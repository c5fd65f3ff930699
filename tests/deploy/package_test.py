"""The Debian packages of this build: lintian, the units, and installing, serving and purging in a chroot.

What this machine cannot do is skipped, with the reason.
"""

import configparser
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import time

import pytest

import server_process
from conftest import ROOT
from rendered import COMPONENTS

BUILD = server_process.BIN.parent
PACKAGING = ROOT / "packaging"
BASE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "qwenserve" / "debian-12.tar"
NAMES = {*(f"qwenserve-{component}" for component in COMPONENTS), "qwenctl", "qwenserve"}
# The kernel's number of systemd's user for a service is one of these.
DYNAMIC_USER = "61234"
QUESTION = ["chat", "--address", "127.0.0.1:50051", "--message", "What is qwenserve?"]
PATIENCE = 60
PATH = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def run(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


def unit(component):
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read_string((PACKAGING / f"qwenserve-{component}.service").read_text())
    return {name: dict(parser[name]) for name in parser.sections()}


def configuration(component):
    return json.loads((PACKAGING / f"{component}.json").read_text())


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """{name: file}"""
    missing = [name for name in ("cpack", "help2man", "dpkg-shlibdeps") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no packages can be made: not installed: {', '.join(missing)}")
    if os.environ.get("QWENSERVE_SANITIZE"):
        pytest.skip("a build with sanitizers is not packaged")
    folder = tmp_path_factory.mktemp("packages")
    done = run("cpack", "-G", "DEB", "-B", folder, "-D", "CPACK_DEBIAN_COMPRESSION_TYPE=gzip", cwd=BUILD)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name.split("_")[0]: path for path in folder.glob("*.deb")}


def test_every_package_is_made(packages):
    assert set(packages) == NAMES
    for name, path in packages.items():
        fields = run("dpkg-deb", "--field", path).stdout
        assert "\nMaintainer: qwenserve maintainers <" in fields and f"Package: {name}\n" in fields
        listing = run("dpkg-deb", "--contents", path).stdout
        assert f"./usr/share/doc/{name}/copyright\n" in listing
        if name == "qwenserve":
            assert all(f"{other} (>= 0.1.0)" in fields for other in NAMES - {name})
        else:
            assert f"./usr/bin/{name}\n" in listing and f"./usr/share/man/man1/{name}.1.gz\n" in listing
            assert "libgrpc++1" in fields and "libc6" in fields  # found by looking into the program
        assert ("/etc/qwenserve/" in listing) == (name.removeprefix("qwenserve-") in COMPONENTS)


def test_lintian_has_nothing_to_say(packages):
    if shutil.which("lintian") is None:
        pytest.skip("no lintian")
    done = run("lintian", "--fail-on", "error,warning", "--no-tag-display-limit", *packages.values())
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("component", COMPONENTS)
def test_unit_fits_its_configuration(component):
    service, config = unit(component)["Service"], configuration(component)
    program, option, path = service["ExecStart"].split()
    assert (program, option) == (f"/usr/bin/qwenserve-{component}", "--config")
    assert path == f"/etc/qwenserve/{component}.json"
    assert float(service["TimeoutStopSec"]) == config["drain-delay"] + config["drain-timeout"] + 15
    assert service["KillSignal"] == "SIGTERM" and service["Restart"] == "on-failure"
    assert int(service["LimitNOFILE"]) > 2 * 10000  # --max-connections, of gRPC and of HTTP
    for name, value in {"DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict",
                        "CapabilityBoundingSet": "", "PrivateTmp": "yes", "LimitCORE": "0",
                        "SystemCallErrorNumber": "EPERM"}.items():
        assert service[name] == value
    # A folder with a model may be in a home; nothing else is looked for there.
    assert service["ProtectHome"] == ("read-only" if "model" in config else "yes")


def test_configurations_are_taken_and_fit_together():
    configs = {}
    for component in COMPONENTS:
        done = run(server_process.BIN / f"qwenserve-{component}", "--config", PACKAGING / f"{component}.json",
                   "--print-config")
        assert done.returncode == 0, done.stderr
        configs[component] = json.loads(done.stdout)
    assert configs["gateway"]["tokenizers"] == [configs["tokenizer"]["listen"]]
    assert configs["gateway"]["generators"] == [configs["generator"]["listen"]]
    # The Admin service needs no port of its own on loopback, and has none.
    listens = [value for config in configs.values() for name, value in config.items() if name.endswith("listen") and value]
    assert len(set(listens)) == len(listens) == 7
    assert all(value.startswith("127.0.0.1:") for value in listens)


class Chroot:
    """A Debian 12 with a network of its own, in which nothing but its loopback is there to reach."""

    def __init__(self, folder):
        self.root = folder / "debian"
        self.root.mkdir()
        subprocess.run(["tar", "-xf", BASE, "-C", self.root], check=True)
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + PATIENCE
        while os.readlink(f"/proc/{self._holder.pid}/ns/net") == own:
            assert time.monotonic() < deadline and self._holder.poll() is None
            time.sleep(0.01)
        # The loopback is down in a new network: SIOCSIFFLAGS, IFF_UP | IFF_RUNNING.
        subprocess.run([*self._inside(), "python3", "-c", "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), "
                        "0x8914, struct.pack('16sh22x', b'lo', 0x41))"], check=True)

    def _inside(self):
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--"]

    def run(self, *command, **environment):
        """As root, with the machine's own network: for packages."""
        done = run("chroot", self.root, *command, env={**PATH, "DEBIAN_FRONTEND": "noninteractive", **environment})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def popen(self, *command, **environment):
        return subprocess.Popen(self.command(*command), stdout=subprocess.PIPE, text=True, env={**PATH, **environment})

    def command(self, *command):
        """As a user without rights, on the network of its own."""
        with_proc = 'mount --bind /proc "$1/proc" && exec setpriv --no-new-privs chroot --userspec="$0:$0" "$@"'
        return [*self._inside(), "unshare", "--mount", "--propagation", "private", "sh", "-c", with_proc, DYNAMIC_USER,
                str(self.root), *command]

    def paths(self):
        """Every path, but for caches and logs of the package manager."""
        left_out = ("var/cache", "var/log", "var/lib/apt", "var/lib/dpkg", "tmp")
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")
                if not str(path.relative_to(self.root)).startswith(left_out)}

    def close(self):
        self._holder.kill()
        self._holder.wait()
        shutil.rmtree(self.root)


@pytest.fixture(scope="module")
def debian(packages, tmp_path_factory):
    """The chroot with all packages installed by apt, which also brings what they depend on."""
    if os.geteuid() != 0:
        pytest.skip("no chroot: not root")
    if shutil.which("debootstrap") is None:
        pytest.skip("no chroot: no debootstrap")
    if "VERSION_CODENAME=bookworm" not in pathlib.Path("/etc/os-release").read_text():
        pytest.skip("no chroot: the packages of this build are for another distribution than Debian 12")
    if run("unshare", "--net", "true").returncode != 0:
        pytest.skip("no network of its own can be made")
    done = run(ROOT / "docker" / "base_root", BASE)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    chroot = Chroot(tmp_path_factory.mktemp("chroot"))
    try:
        (chroot.root / "debs").mkdir()
        for path in packages.values():
            shutil.copy(path, chroot.root / "debs")
        chroot.run("apt-get", "-q", "update")
        chroot.run("apt-get", "-q", "-y", "install", "--no-install-recommends",
                   *(f"./debs/{path.name}" for path in packages.values()))
        yield chroot
    finally:
        chroot.close()


def installed(debian):
    return {line.split()[0] for line in debian.run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n").splitlines()
            if line.endswith(" installed") and line.split()[0] in NAMES}


@pytest.mark.parametrize("component", COMPONENTS)
def test_unit_is_valid(component, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    name = f"qwenserve-{component}.service"
    text = (PACKAGING / name).read_text()
    (tmp_path / name).write_text(text.replace("=/usr/bin/", f"={server_process.BIN}/"))
    done = run("systemd-analyze", "verify", "--man=no", tmp_path / name)
    assert name not in done.stdout + done.stderr, done.stderr
    exposure = run("systemd-analyze", "security", "--offline=true", "--threshold=25", tmp_path / name)
    assert exposure.returncode == 0, exposure.stdout[-200:]


def test_the_drop_in_of_the_readme_is_valid(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    drop_in, = re.findall(r"^```ini check\n(.*?)^```", (PACKAGING / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    name = "qwenserve-gateway.service"
    (tmp_path / f"{name}.d").mkdir()
    for text, fits in ((drop_in, True), (drop_in.replace("ExecStart=\n", ""), False)):  # two commands: Type=exec has one
        for path, content in ((tmp_path / name, (PACKAGING / name).read_text()), (tmp_path / f"{name}.d/own.conf", text)):
            path.write_text(content.replace("=/usr/bin/", f"={server_process.BIN}/"))
        done = run("systemd-analyze", "verify", "--man=no", tmp_path / name)
        assert (name not in done.stdout + done.stderr) == fits, done.stderr
    words = drop_in.replace("${CREDENTIALS_DIRECTORY}", str(tmp_path)).strip().splitlines()[-1].split("=", 1)[1].split()
    path = tmp_path / "api-keys"
    path.write_text(json.dumps({"sha256": "0" * 64, "tenant": "a"}) + "\n")
    done = run(server_process.BIN / pathlib.Path(words[0]).name, "--config", PACKAGING / "gateway.json", *words[3:],
               "--print-config")
    assert done.returncode == 0 and json.loads(done.stdout)["api-keys"] == str(path), done


@contextlib.contextmanager
def started(debian):
    """The servers as the units start them; only the drain delay is left out."""
    servers = {}
    try:
        for component in COMPONENTS:
            command = unit(component)["Service"]["ExecStart"].split()
            servers[component] = debian.popen(*command, QWENSERVE_DRAIN_DELAY="0", QWENSERVE_LOG_LEVEL="warn")
        yield servers
    finally:
        for server in servers.values():
            server.kill()
            server.wait()


def chat(debian):
    """qwenctl's answer, asked for until the gateway has workers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        done = run(*debian.command("/usr/bin/qwenctl", *QUESTION))
        if done.returncode == 0 or time.monotonic() > deadline:
            return done


def test_installed_services_answer_and_end(debian):
    assert installed(debian) == NAMES
    with started(debian) as servers:
        answer = chat(debian)
        assert answer.returncode == 0 and "gateway" in answer.stdout.lower(), answer
        for server in servers.values():
            server.terminate()
        assert {component: server.wait(PATIENCE) for component, server in servers.items()} == dict.fromkeys(COMPONENTS, 0)


def test_a_changed_configuration_outlives_an_upgrade(debian):
    path = debian.root / "etc/qwenserve/gateway.json"
    changed = path.read_text().replace("50051", "50052")
    path.write_text(changed)
    debian.run("dpkg", "--install", "--force-confold", "--force-unsafe-io", "--recursive", "/debs")
    assert path.read_text() == changed


def test_purge_leaves_nothing(debian):
    """Runs last: after it the packages are gone."""
    debian.run("deb-systemd-helper", "enable", "qwenserve-gateway.service", DPKG_MAINTSCRIPT_PACKAGE="qwenserve-gateway")
    assert (debian.root / "etc/systemd/system/multi-user.target.wants/qwenserve-gateway.service").is_symlink()
    with_packages = debian.paths()
    debian.run("dpkg", "--purge", *NAMES)
    assert not installed(debian)
    left = [path for path in debian.paths() if "qwen" in path and not path.startswith("debs/")]
    assert left == [] and any("etc/qwenserve" in path for path in with_packages)
