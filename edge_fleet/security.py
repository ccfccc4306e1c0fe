"""Who may use a worker: a token, and TLS wherever there is a network in between.

A server on the loopback address is reached by this machine only. On any other address it needs both a token
and a certificate, which `fleet.py keys` makes. The scheduler trusts exactly that certificate.
"""

from __future__ import annotations

import datetime
import hmac
import ipaddress
import os
import re
import secrets
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from amco_jax.errors import InputError
from amco_jax.extras import load_package

TOKEN, CERTIFICATE, KEY = "token", "certificate.pem", "key.pem"
NAME = "amco-fleet"
"""The name that the certificate is for; it does not depend on the hosts of the workers"""
_DAYS = 365


class Keys(NamedTuple):
    """What servers and clients of one fleet share."""

    token: str
    certificate: bytes | None = None
    """PEM; None without TLS"""
    key: bytes | None = None
    """PEM, private, for servers alone"""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call that presents the token."""
        return (("authorization", f"Bearer {self.token}"),)

    def admits(self, metadata: Sequence[tuple[str, str | bytes]]) -> bool:
        """Whether a call's metadata present the token; the time that this takes reveals nothing about it."""
        presented = dict(metadata).get("authorization", "")
        presented = presented if isinstance(presented, bytes) else presented.encode()
        return hmac.compare_digest(presented, f"Bearer {self.token}".encode())


def new_token() -> str:
    """A random token of 256 bits."""
    return secrets.token_hex(32)


class Address(NamedTuple):
    """Where a server is."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """An address from host:port.

    Raises:
      InputError: it is not of that form.
    """
    found = re.fullmatch(r"\[([0-9a-fA-F:.]+)\]:(\d{1,5})|([\w.-]+):(\d{1,5})", text)
    host, port = ("", -1) if found is None else (found[1] or found[3], int(found[2] or found[4]))
    if not 0 <= port <= 65535:
        raise InputError(f"address: {text!r}; legal: host:port")
    return Address(host, port)


def check_exposure(address: Address, keys: Keys | None) -> None:
    """Raise InputError if other machines could reach the address without a token and TLS."""
    if not address.loopback and (keys is None or keys.certificate is None):
        raise InputError(
            f"address: {address} without keys; legal: 127.0.0.1, or --keys DIR from `fleet.py keys DIR`"
        )


def new_keys() -> Keys:
    """A new token, certificate and private key.

    Raises:
      InputError: `cryptography` is not installed.
    """
    x509 = load_package("cryptography.x509")
    ec = load_package("cryptography.hazmat.primitives.asymmetric.ec")
    hashes = load_package("cryptography.hazmat.primitives.hashes")
    serialization = load_package("cryptography.hazmat.primitives.serialization")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )  # fmt: skip
    return Keys(new_token(), certificate.public_bytes(pem), private)


def make_keys(directory: Path) -> list[Path]:
    """Make a token, a certificate and its private key, and return their paths.

    Raises:
      InputError: the directory holds keys already or cannot be written, or `cryptography` is not installed.
    """
    keys = new_keys()
    files = {TOKEN: keys.token.encode(), CERTIFICATE: keys.certificate or b"", KEY: keys.key or b""}
    if any((directory / file).exists() for file in files):
        raise InputError(f"keys: {directory} holds keys already; legal: another directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            # Created private, rather than made so afterwards.
            handle = os.open(directory / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
    except OSError as error:
        raise InputError(f"keys: {directory} cannot be written: {error.strerror or error}") from error
    return [directory / file for file in files]


def read_keys(directory: Path, server: bool) -> Keys:
    """The keys that `make_keys` has written; a client needs no private key.

    Raises:
      InputError: a file is missing or unreadable, or the private key is not that of the certificate.
    """
    try:
        token = (directory / TOKEN).read_text("ascii").strip()
        certificate = (directory / CERTIFICATE).read_bytes()
        key = (directory / KEY).read_bytes() if server else None
        # gRPC does not say what is wrong with them. The password keeps OpenSSL from asking for one.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(cadata=certificate.decode("ascii"))
        if server:
            context.load_cert_chain(directory / CERTIFICATE, directory / KEY, password="")
    except (OSError, ValueError) as error:
        raise InputError(
            f"keys: {directory} cannot be read: {getattr(error, 'strerror', None) or error}; "
            "legal: a directory made by `fleet.py keys`"
        ) from error
    if not token:
        raise InputError(f"keys: {directory / TOKEN} is empty; make new keys with `fleet.py keys`")
    return Keys(token, certificate, key)
