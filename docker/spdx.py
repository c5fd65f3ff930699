"""What an image is made of: the components, their licences, and the SPDX 2.3 document that says so."""

import dataclasses
import datetime
import functools
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import uuid

COMMON_LICENSES = pathlib.Path("/usr/share/common-licenses")


@dataclasses.dataclass
class Component:
    """Something of others that is shipped."""
    name: str
    version: str
    notice: str        # the text of its licence
    purl: str = ""     # as scanners know it
    origin: str = ""   # what it was built from


def debian_package(name):
    fields = dict(zip(("version", "architecture", "source", "source_version"), subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}\n${Architecture}\n${source:Package}\n${source:Version}", name],
        check=True, capture_output=True, text=True).stdout.split("\n")))
    copyright_file = pathlib.Path("/usr/share/doc") / name / "copyright"
    if not copyright_file.exists():
        sys.exit(f"spdx: no {copyright_file}")
    return Component(
        name=name, version=fields["version"], notice=copyright_file.read_text(errors="replace"),
        purl=f"pkg:deb/debian/{name}@{fields['version'].replace('+', '%2B')}?arch={fields['architecture']}",
        origin=f"built from Debian source package {fields['source']} {fields['source_version']}")


def cuda_package(name, cuda, soname):
    """NCCL or cuBLASLt of the toolkit whose file system is `cuda`, installed by NVIDIA's packages or pip's."""
    documents = {"nccl": ["usr/share/doc/libnccl2/copyright", "usr/local/cuda-*.*/dist-info/nvidia_nccl_*/licenses/*"],
                 "cublaslt": ["usr/local/cuda-*.*/EULA.txt", "usr/local/cuda-*.*/dist-info/nvidia_cublas-*/licenses/*"]}
    for pattern in [*documents[name], "NGC-DL-CONTAINER-LICENSE"]:
        for path in sorted(cuda.glob(pattern)):
            folder = re.search(r"nvidia_\w+-([\d.]+)\.dist-info", str(path))
            return Component(name=name, version=folder[1] if folder else soname, origin="NVIDIA CUDA toolkit",
                             notice=path.read_text(errors="replace"))
    sys.exit(f"spdx: no licence of {name} below {cuda}")


def license_names(notice):
    """The short names in a machine-readable copyright file of Debian."""
    return sorted(set(re.findall(r"^License: *(\S.*?) *$", notice, re.MULTILINE)))


def notices(components):
    """All licences, and the standard texts that they refer to."""
    text = ["What this image holds of others, each with its licence.\n"]
    referenced = set()
    for name in sorted(components):
        component = components[name]
        text.append(f"{'=' * 80}\n{name} {component.version}\n{'=' * 80}\n{component.notice.strip()}\n")
        referenced |= {word.rstrip(".-") for word in
                       re.findall(r"/usr/share/common-licenses/([\w.+-]*\w)", component.notice)}
    for name in sorted(referenced):
        if (COMMON_LICENSES / name).exists():
            text.append(f"{'=' * 80}\n/usr/share/common-licenses/{name}\n{'=' * 80}\n"
                        f"{(COMMON_LICENSES / name).read_text()}")
    return "\n".join(text)


def identifier(kind, name):
    return f"SPDXRef-{kind}-" + re.sub(r"[^A-Za-z0-9.-]", "-", name)


@functools.cache
def file_entry(root, path):
    """Of a file that will not change any more; images share layers, and hashing takes a while."""
    content = (root / path).read_bytes()
    return {"SPDXID": identifier("File", path + "-" + hashlib.sha1(path.encode()).hexdigest()[:8]),
            "fileName": "./" + path,
            "checksums": [{"algorithm": "SHA1", "checksumValue": hashlib.sha1(content).hexdigest()},
                          {"algorithm": "SHA256", "checksumValue": hashlib.sha256(content).hexdigest()}],
            "licenseConcluded": "NOASSERTION", "licenseInfoInFiles": ["NOASSERTION"], "copyrightText": "NOASSERTION"}


def verification_code(files):
    """Of a package, as clause 7.9 of SPDX 2.3 computes it."""
    sums = sorted(check["checksumValue"] for entry in files for check in entry["checksums"]
                  if check["algorithm"] == "SHA1")
    return {"packageVerificationCodeValue": hashlib.sha1("".join(sums).encode()).hexdigest()}


def package_entry(component):
    entry = {"SPDXID": identifier("Package", component.name), "name": component.name,
             "versionInfo": component.version, "downloadLocation": "NOASSERTION", "filesAnalyzed": False,
             "licenseConcluded": "NOASSERTION", "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION"}
    names = license_names(component.notice)
    entry["licenseComments"] = "The text is in THIRD_PARTY_NOTICES" + (
        "; its copyright file names: " + ", ".join(names[:40]) if names else "")
    if component.origin:
        entry["sourceInfo"] = component.origin
    if component.purl:
        entry["supplier"] = "Organization: Debian"
        entry["externalRefs"] = [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                                  "referenceLocator": component.purl}]
    return entry


def document(image, version, epoch, components, layers):
    """The JSON text. `layers` have root and files by component; components without files are compiled in."""
    own = Component(name="qwenserve", version=version, notice="")
    top = {**package_entry(own), "SPDXID": "SPDXRef-Image", "name": f"qwenserve-{image}",
           "primaryPackagePurpose": "CONTAINER"}
    own_entry = {**package_entry(own), "primaryPackagePurpose": "APPLICATION"}
    for entry in (top, own_entry):
        del entry["licenseComments"]
    files, relationships = [], [
        {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-Image"}]
    with_files = {}  # name: entries
    for layer in layers:
        for name, paths in sorted(layer.files.items()):
            for path in sorted(paths):
                entry = file_entry(layer.root, path)
                files.append(entry)
                with_files.setdefault(name, []).append(entry)
                relationships.append({"spdxElementId": identifier("Package", name), "relationshipType": "CONTAINS",
                                      "relatedSpdxElement": entry["SPDXID"]})
    packages = {"": top, "qwenserve": own_entry}
    for name, component in sorted({"qwenserve": own, **components}.items()):
        if name != "qwenserve":
            packages[name] = package_entry(component)
        if name in with_files:
            # Of a distribution's package these are the files that are shipped.
            packages[name] |= {"filesAnalyzed": True, "licenseInfoFromFiles": ["NOASSERTION"],
                               "packageVerificationCode": verification_code(with_files[name])}
            relationships.append({"spdxElementId": "SPDXRef-Image", "relationshipType": "CONTAINS",
                                  "relatedSpdxElement": identifier("Package", name)})
        else:
            relationships.append({"spdxElementId": identifier("Package", "qwenserve"),
                                  "relationshipType": "STATIC_LINK",
                                  "relatedSpdxElement": identifier("Package", name)})
    created = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = {"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
            "name": f"qwenserve-{image}-{version}", "packages": list(packages.values()), "files": files,
            "creationInfo": {"created": created, "creators": [f"Tool: qwenserve-collect_root-{version}"]},
            "relationships": relationships}
    # The same content has the same name, other content another.
    digest = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(body, sort_keys=True))
    body["documentNamespace"] = f"urn:uuid:{digest}"
    return json.dumps(body, indent=1, sort_keys=True) + "\n"
