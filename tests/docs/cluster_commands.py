"""Checks commands for a cluster where there is none: helm renders what they would install, and kubectl's
options, files and names of objects are looked up."""

import functools
import pathlib
import re
import subprocess

import yaml

import programs
from doc_blocks import ROOT
from programs import BadCommand

CHART = "helm/qwenserve"
# The newest Kubernetes that the chart's own tests know, with every API that it can use.
RENDER_FOR = ["--kube-version", "1.37.0", "--namespace", "inference"] + [
    word for api in ("cert-manager.io/v1", "gateway.networking.k8s.io/v1", "inference.networking.k8s.io/v1",
                     "keda.sh/v1alpha1", "leaderworkerset.x-k8s.io/v1", "monitoring.coreos.com/v1")
    for word in ("--api-versions", api)]
INSTALLING = ("install", "upgrade", "template", "lint")
# Options of helm install that helm template has as well; the others only say how to wait.
RENDERED_OPTIONS = ("-f", "--values", "--set", "--set-json", "--set-string", "--set-file")
SHORT_KINDS = {"deploy": "deployment", "sts": "statefulset", "svc": "service", "po": "pod", "cm": "configmap",
               "pvc": "persistentvolumeclaim", "lws": "leaderworkerset"}
# Kinds of a cluster that no chart makes.
NODES = {"node", "nodes", "namespace", "ns", "crd", "events"}


def singular(kind):
    kind = kind.split(".")[0].lower()
    kind = SHORT_KINDS.get(kind, kind)
    return {"policies": "policy"}.get(kind, kind[:-1] if kind.endswith("s") and not kind.endswith("ss") else kind)


class ClusterPage:
    """What the commands of a page have put into the cluster so far. `folder`: where they are run."""

    def __init__(self, helm, kubectl, folder):
        self.helm, self.kubectl, self.folder = helm, kubectl, pathlib.Path(folder)
        self.objects = {}  # {(kind, name)}: document
        self.releases = set()

    def add(self, documents):
        for document in documents:
            if document:
                self.objects[singular(document["kind"]), document["metadata"]["name"]] = document

    def run(self, text, where):
        """BadCommand for the first command that could not work."""
        syntax = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        if syntax.returncode:
            raise BadCommand(f"{where}: {syntax.stderr}")
        for words in programs.commands(text):
            if words[0] == "helm":
                self.run_helm(words[1:], where)
            elif words[0] in ("kubectl", "k"):  # the second is an alias in the runbooks
                self.run_kubectl(words[1:], where)
            else:
                programs.check_options(words, where)

    @functools.cache
    def help_of(self, program, *verbs):
        done = subprocess.run([program, *verbs, "--help"], capture_output=True, text=True)
        # kubectl's own global options are told by `kubectl options` alone.
        extra = programs.output(program, "options") if program == self.kubectl else ""
        return frozenset(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", done.stdout + extra)) | {"-h", "--help"}

    def check_known(self, program, verbs, words, where):
        known = self.help_of(program, *verbs)
        for word in words:
            option = word.split("=", 1)[0]
            if re.match(r"--?[A-Za-z]", word) and option not in known:
                raise BadCommand(f"{where}: {pathlib.Path(program).name} {' '.join(verbs)} has no option {option}")

    def run_helm(self, words, where):
        verb, rest = words[0], words[1:]
        helped = subprocess.run([self.helm, verb, "--help"], capture_output=True, text=True)
        if helped.returncode:
            raise BadCommand(f"{where}: helm has no command {verb}")
        self.check_known(self.helm, (verb,), rest, where)
        if verb in INSTALLING:
            self.render(verb, rest, where)
        elif verb == "package":
            self.must(subprocess.run([self.helm, "package", *rest], cwd=self.folder, capture_output=True, text=True), where)
        elif verb in ("test", "rollback", "history", "status", "uninstall", "get") and rest:
            name = [word for word in rest if not word.startswith("-")][1 if verb == "get" else 0]
            if name not in self.releases:
                raise BadCommand(f"{where}: no command before has installed {name}")

    def render(self, verb, rest, where):
        options, plain = [], []
        words = iter(rest)
        for word in words:
            name = word.split("=", 1)[0]
            if name in RENDERED_OPTIONS:
                options += [word] if "=" in word else [word, next(words)]
            elif name in ("--namespace", "-n", "--timeout", "--version", "--kube-version", "--api-versions"):
                if "=" not in word:
                    next(words)
            elif not word.startswith("-"):
                plain.append(word)
        chart = plain[-1]
        if chart != CHART and not chart.startswith("oci://"):
            raise BadCommand(f"{where}: {chart} is not {CHART}")
        release = plain[0] if len(plain) > 1 else "qwenserve"
        command = [self.helm, "template", release, CHART, *RENDER_FOR, *options]
        done = self.must(subprocess.run(command, cwd=self.folder, capture_output=True, text=True), where)
        self.releases.add(release)
        self.add(yaml.safe_load_all(done.stdout))

    def must(self, done, where):
        if done.returncode:
            raise BadCommand(f"{where}: {done.stderr or done.stdout}")
        return done

    def run_kubectl(self, words, where):
        if "--" in words:
            inner = words[words.index("--") + 1:]
            words = words[:words.index("--")]
            if inner[0] not in ("sh", "ls", "cat", "nslookup"):
                programs.check_options(inner, where)
        plain = [word for word in without_values(words) if not word.startswith("-")]
        verb, rest = plain[0], plain[1:]
        verbs = (verb, rest[0]) if verb in ("rollout", "create", "set", "config", "top", "auth") and rest else (verb,)
        if verbs == ("create", "secret"):
            verbs = ("create", "secret", rest[1])
        if subprocess.run([self.kubectl, *verbs, "--help"], capture_output=True).returncode:
            raise BadCommand(f"{where}: kubectl has no command {' '.join(verbs)}")
        self.check_known(self.kubectl, verbs, words, where)
        self.check_files(words, where)
        if verb == "create" and len(verbs) > 1:
            self.create([word for word in words], where)
        elif verb == "apply":
            return
        elif verb == "config":
            return
        else:
            self.check_names(verb, rest[len(verbs) - 1:], where)

    def create(self, words, where):
        """kubectl makes the object without a cluster, from the files that it names."""
        if words[1] == "-f":
            return
        done = subprocess.run([self.kubectl, *words, "--dry-run=client", "-o", "yaml"], cwd=self.folder,
                              capture_output=True, text=True)
        self.add(yaml.safe_load_all(self.must(done, where).stdout))

    def check_files(self, words, where):
        for flag, path in zip(words, words[1:]):
            if flag not in ("-f", "--filename", "-k", "--kustomize") or words[0] == "logs" or path == "-":
                continue
            full = self.folder / path
            if not full.exists():
                raise BadCommand(f"{where}: there is no {path}")
            if flag in ("-k", "--kustomize"):
                done = subprocess.run([self.kubectl, "kustomize", path], cwd=self.folder, capture_output=True, text=True)
                self.add(yaml.safe_load_all(self.must(done, where).stdout))
            else:
                self.add(yaml.safe_load_all(full.read_text()))

    def check_names(self, verb, rest, where):
        """Names as KIND/NAME, KIND NAME, or of a pod where a command takes nothing else."""
        names = [word for word in rest if not re.match(r"\d+(:\d+)?$", word)]
        pairs = [word.split("/", 1) for word in names if "/" in word]
        bare = [word for word in names if "/" not in word]
        if verb in ("logs", "exec", "port-forward", "debug", "attach", "cp"):
            pairs += [("pod", word) for word in bare]
        elif verb in ("rollout", "scale", "describe", "get", "delete", "wait", "top", "label", "annotate") and len(bare) > 1:
            pairs += [(bare[0], word) for word in bare[1:]]
        for kind, name in pairs:
            if singular(kind) not in {singular(node) for node in NODES} and not self.exists(singular(kind), name):
                raise BadCommand(f"{where}: nothing on this page makes {kind}/{name}")

    def exists(self, kind, name):
        if name.startswith("$") or name.isupper() or (kind, name) in self.objects:
            return True
        if kind == "pod":  # of a set: its name and a number; of a LeaderWorkerSet: two numbers
            owner = re.sub(r"-\d+$", "", name)
            return any((of, owner) in self.objects or (of, re.sub(r"-\d+$", "", owner)) in self.objects
                       for of in ("statefulset", "leaderworkerset"))
        if kind == "secret":  # that cert-manager writes
            return any(document["kind"] == "Certificate" and document["spec"]["secretName"] == name
                       for document in self.objects.values())
        return False


VALUE_OPTIONS = {"-n", "--namespace", "-l", "--selector", "-c", "--container", "-f", "--filename", "-k", "--kustomize",
                 "-o", "--output", "--image", "--target", "--tail", "--since", "--timeout", "--for", "--replicas",
                 "--from-file", "--from-literal", "--cert", "--key", "--profile", "--context", "--field-selector",
                 "--sort-by", "--to-revision", "--grace-period", "--copy-to", "--port"}


def without_values(words):
    """Words that are no value of the option before."""
    result, before = [], ""
    for word in words:
        if before not in VALUE_OPTIONS:
            result.append(word)
        before = word
    return result
