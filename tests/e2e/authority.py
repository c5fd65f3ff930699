"""Certificates for tests."""

import datetime
import subprocess


class Authority:
    """Signs certificates with openssl."""

    def __init__(self, folder, name):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.cert, self.key = folder / f"{name}.crt", folder / f"{name}.key"
        run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
            "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.cert)

    def issue(self, name, sans, days=10):
        """(certificate, key); with `days` < 0 one that has expired."""
        cert, key, request = (self.folder / f"{name}.{end}" for end in ("crt", "key", "csr"))
        run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
            "-keyout", key, "-out", request)
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={sans}\n")
        if days > 0:
            run("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial",
                "-days", days, "-extfile", extensions, "-out", cert)
        else:
            for file in ("index", "serial"):
                (self.folder / file).write_text("" if file == "index" else "77\n")
            config = self.folder / "ca.cnf"
            config.write_text(f"[ca]\ndefault_ca=d\n[d]\ndatabase={self.folder}/index\nserial={self.folder}/serial\n"
                              f"new_certs_dir={self.folder}\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n")
            begin = datetime.datetime(2020, 1, 1).strftime("%Y%m%d%H%M%SZ")
            end = datetime.datetime(2020, 2, 1).strftime("%Y%m%d%H%M%SZ")
            run("ca", "-batch", "-config", config, "-cert", self.cert, "-keyfile", self.key, "-in", request,
                "-startdate", begin, "-enddate", end, "-extfile", extensions, "-out", cert, "-notext")
        return cert, key


def run(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
