"""Certificate authorities of a test, and what they sign, by the openssl program."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

# What `openssl ca` keeps of what it has signed, and takes over from requests.
CONFIG = """
[ca]
default_ca = all
[all]
database = {folder}/index.txt
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
copy_extensions = copy
[any]
commonName = supplied
"""
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Pair(NamedTuple):
    """Files of a certificate and of its key."""

    cert: Path
    key: Path


class Authority:
    """A CA with its files in a folder of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.cert, self._key = folder / "ca.pem", folder / "ca.key"
        (folder / "index.txt").touch()
        (folder / "ca.cnf").write_text(CONFIG.format(folder=folder))
        files = ("-keyout", self._key, "-out", self.cert)
        _openssl("req", "-x509", *NEW_KEY, "-subj", f"/CN={name}", "-days", "30", *files)

    def issue(
        self,
        name: str,
        names: str = "IP:127.0.0.1,DNS:localhost",
        *,
        valid: tuple[str, str] = ("20200101000000Z", "20490101000000Z"),
        usage: str = "",
    ) -> Pair:
        """A certificate for names (as of subjectAltName), valid from and to times of ASN.1."""
        made = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request = self.folder / f"{name}.csr"
        extensions = [f"subjectAltName={names}", *([f"extendedKeyUsage={usage}"] if usage else [])]
        added = [word for each in extensions for word in ("-addext", each)]
        files = ("-keyout", made.key, "-out", request)
        _openssl("req", *NEW_KEY, "-subj", f"/CN={name}", *added, *files)
        signed_by = ("-config", self.folder / "ca.cnf", "-cert", self.cert, "-keyfile", self._key)
        times = ("-startdate", valid[0], "-enddate", valid[1])
        _openssl(
            *("ca", "-batch", "-notext", *signed_by, *times, "-in", request, "-out", made.cert)
        )
        return made


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=30)
