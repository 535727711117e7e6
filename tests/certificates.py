"""A certificate authority of our own and what it signs, by the profile that C2PA asks for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

USES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip


@dataclass(frozen=True)
class Signer:
    """The two files of an operator, and the root that a reader may trust."""

    cert: Path
    key: Path
    root: str


class Authority:
    """Signs certificates for content credentials."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._root = self._sign(_name("root"), self._key, (-1, 30), "key_cert_sign", None)

    def write_signer(
        self,
        folder: Path,
        key: Any = None,
        days: tuple[int, int] = (-1, 30),
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.EMAIL_PROTECTION,
        passphrase: bytes | None = None,
    ) -> Signer:
        """A chain and its key in `folder`, valid from and to so many days from now."""
        folder.mkdir(parents=True, exist_ok=True)
        key = key or ec.generate_private_key(ec.SECP256R1())
        own = self._sign(_name("operator"), key, days, "digital_signature", usage)
        (folder / "chain.pem").write_bytes(_pem(own) + _pem(self._root))
        (folder / "key.pem").write_bytes(pem_of_key(key, passphrase))
        return Signer(folder / "chain.pem", folder / "key.pem", _pem(self._root).decode())

    def _sign(
        self, subject: x509.Name, key: Any, days: tuple[int, int], use: str, usage: x509.ObjectIdentifier | None
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(_name("root"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=usage is None, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**dict.fromkeys(USES, False) | {use: True}), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if usage is not None:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
            builder = builder.add_extension(issuer, critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def pem_of_key(key: Any, passphrase: bytes | None = None) -> bytes:
    """In PKCS #8."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    pem: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return pem


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _name(common: str) -> x509.Name:
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Pictures Ltd")
    return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, common)])
