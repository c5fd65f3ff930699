"""What the pages tell users to type works. README.md here says how a block is annotated."""

import json

import pytest
import yaml

import doc_blocks
import live_page
import programs
import schemas
from cluster_commands import ClusterPage
from doc_blocks import PAGES, BadBlock, good_blocks, page_blocks
from programs import BadCommand


def pages_with(language, *modes):
    return [page for page in PAGES if any(b.language == language and b.mode in modes for b in good_blocks(page))]


def blocks_with(language, *modes):
    found = [b for page in PAGES for b in good_blocks(page) if b.language == language and b.mode in modes]
    return [pytest.param(block, id=block.where) for block in found]


def check_manifest(text):
    for document in yaml.safe_load_all(text):
        if document["kind"] != "Issuer":  # of which there is no schema here
            schemas.validate(document, "1.37")


CERTIFICATE = """openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost \\
  -keyout tls.key -out tls.crt"""


def own_ports():
    return dict(zip(live_page.PORTS, live_page.free_ports(len(live_page.PORTS))))


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_is_done_with_it(page):
    page_blocks(page)


@pytest.mark.parametrize("page", pages_with("sh", "run"))
def test_run_against_a_cluster(page, live_ports, tmp_path):
    """In order and in one shell, as a reader would; Python in between too."""
    folder = live_page.Folder(tmp_path, live_ports)
    blocks = []
    for block in page_blocks(page):
        if (block.language, block.mode) == ("sh", "run"):
            blocks.append(block)
        elif (block.language, block.mode) == ("python", "run"):
            name = f"block_{block.line}.py"
            (tmp_path / name).write_text(live_page.at_ports(block.text, live_ports))
            blocks.append(doc_blocks.Block(page, block.line, "sh", "run", {}, f"python {name}\n"))
        elif "file" in block.options:
            (tmp_path / block.options["file"]).write_text(block.text)
    folder.run(live_page.script_of(blocks), page)


@pytest.mark.parametrize("block", blocks_with("sh", "own"))
def test_servers_of_its_own(block, tmp_path):
    live_page.Folder(tmp_path, own_ports()).run(live_page.script_of([block]), block.where)


@pytest.mark.parametrize("block", blocks_with("sh", "serve"))
def test_serve_until_interrupted(block, tmp_path):
    live_page.serve(live_page.Folder(tmp_path, own_ports()), block)


@pytest.mark.parametrize("page", sorted({*pages_with("sh", "cluster"), *pages_with("yaml", "values", "manifest")}))
def test_for_a_cluster(page, helm, kubectl, tmp_path):
    folder = live_page.Folder(tmp_path, own_ports())
    cluster = ClusterPage(helm, kubectl, folder.path)
    for block in page_blocks(page):
        if block.language == "yaml" and block.mode in ("values", "manifest"):
            name = block.options.get("file", f"block_{block.line}.yaml")
            (tmp_path / name).write_text(block.text)
            if block.mode == "values":
                cluster.run(f"helm template values helm/qwenserve --values {name}", block.where)
            else:
                cluster.run(f"kubectl apply -f {name}", block.where)
                check_manifest(block.text)
        elif block.language == "sh" and block.mode == "cluster":
            if "release" in block.options:
                cluster.run("helm install qwenserve helm/qwenserve", block.where)
            if block.options.get("with") == "certificate":
                folder.run(CERTIFICATE, block.where)
            cluster.run(block.text, block.where)
        elif "files" in block.options:  # that commands after it need
            folder.run(block.text, block.where)


@pytest.mark.parametrize("block", blocks_with("sh", "check"))
def test_not_run_but_read(block):
    programs.check_script(block.text, block.where)


@pytest.mark.parametrize("block", [*blocks_with("sh", "run", "own", "serve")])
def test_options_exist(block):
    """Also of what fails for another reason first."""
    programs.check_script(block.text, block.where)


@pytest.mark.parametrize("block", [*blocks_with("yaml", "check"), *blocks_with("json", "check"),
                                   *blocks_with("python", "check")])
def test_is_well_formed(block):
    if block.language == "yaml":
        assert list(yaml.safe_load_all(block.text))
    elif block.language == "json":
        for line in block.text.splitlines() if "lines" in block.options else [block.text]:
            json.loads(line)
    else:
        compile(block.text, block.where, "exec")


# What the checks above would miss if they did not work.

@pytest.mark.parametrize("text, told", [
    ("```sh\nls\n```\n", "says what is done"), ("```\nls\n```\n", "no language"), ("```sh check\nls\n```\n", "why it is not run"),
    ("```fish run\nls\n```\n", "fish"), ("```sh run\nls\n", "no end"), ("Text\n\n    ls\n", "indented code"),
])
def test_a_bad_block_is_told(text, told):
    with pytest.raises(BadBlock, match=told):
        doc_blocks.blocks_of("page.md", text)


def test_blocks_are_found():
    text = "a\n```sh run exit=4\nx\n```\n- b\n\n    more of b\n\n  ```yaml values file=v.yaml\n  a: 1\n  ```\n"
    first, second = doc_blocks.blocks_of("page.md", text)
    assert (first.where, first.mode, first.options, first.text) == ("page.md:3", "run", {"exit": "4"}, "x\n")
    assert (second.language, second.options, second.text) == ("yaml", {"file": "v.yaml"}, "a: 1\n")


@pytest.mark.parametrize("script, told", [
    ("qwenctl chat --massage x", "no option --massage"), ("qwenctl chatter", "no command chatter"),
    ("build/bin/qwenserve-gateway --tokens 1 &", "no option --tokens"), ("tools/test --fool", "no option --fool"),
    ("cat k8s/none.yaml", "there is no k8s/none.yaml"), ("nosuchprogram x", "no program of ours"),
    ("if true; then", "syntax error"), ("a=$(true) && tools/nothing", "no program of ours"),
    ('test "$(qwenctl chat --massage x)" = y', "no option --massage"),
])
def test_a_bad_command_is_told(script, told):
    with pytest.raises(BadCommand, match=told):
        programs.check_script(script + "\n", "page.md:1")


def test_a_failing_block_is_told(live_ports, tmp_path):
    folder = live_page.Folder(tmp_path, live_ports)
    good, bad = (doc_blocks.Block("page.md", line, "sh", "run", {}, text) for line, text in (
        (1, "qwenctl models\n"), (5, "qwenctl chat --model nothing --message x\n")))
    folder.run(live_page.script_of([good]), "page.md")
    with pytest.raises(AssertionError, match="(?s)status 4.*=== page.md:5\n(?!.*===)"):
        folder.run(live_page.script_of([good, bad]), "page.md")


def test_curl_fails_with_the_server(live_ports, tmp_path):
    folder = live_page.Folder(tmp_path, live_ports)
    folder.run("curl -sS http://127.0.0.1:8080/v1/models", "page.md")
    with pytest.raises(AssertionError):
        folder.run("curl -sS http://127.0.0.1:8080/v1/nothing", "page.md")


@pytest.mark.parametrize("script, told", [
    ("helm install qwenserve helm/qwenserve --set nonsense=1", "additional properties"),
    ("helm install qwenserve helm/qwenserve --values none.yaml", "none.yaml"),
    ("helm instal qwenserve helm/qwenserve", "no command instal"),
    ("helm install qwenserve helm/qwenserve --waitt", "no option --waitt"),
    ("helm rollback other", "no command before has installed other"),
    ("kubectl logs qwenserve-generator-demo-0 --followw", "no option --followw"),
    ("kubectl rollout status deployment/other", "nothing on this page makes deployment/other"),
    ("kubectl get pods other-0", "nothing on this page makes pods/other-0"),
    ("kubectl exec deployment/qwenserve-gateway -- qwenctl chat --massage x", "no option --massage"),
    ("kubectl apply -f none.yaml", "there is no none.yaml"),
    ("kubectl create secret generic keys --from-file=none", "none"),
])
def test_a_bad_command_for_a_cluster_is_told(script, told, helm, kubectl, tmp_path):
    live_page.Folder(tmp_path, own_ports())
    cluster = ClusterPage(helm, kubectl, tmp_path)
    cluster.run("helm install qwenserve helm/qwenserve\nkubectl logs qwenserve-generator-demo-0\n"
                "kubectl rollout status deployment/qwenserve-gateway\n", "page.md:1")
    with pytest.raises(BadCommand, match=told):
        cluster.run(script + "\n", "page.md:9")
