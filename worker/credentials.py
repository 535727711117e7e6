"""C2PA content credentials: each finished picture gets a manifest that says how it was made, signed by the operator.

Knows certificates and the C2PA library; nothing of the engine. Never asks the network: no timestamp authority, no
revocation service, and what a client's picture names elsewhere is not fetched.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import c2pa
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image

from worker import __version__
from worker.errors import ConfigurationError, InvalidInput, SigningFailed
from worker.jobs.params import ImageFormat, JobParams, Picture
from worker.jobs.provenance import DigitalSource

logger = logging.getLogger(__name__)

SOFTWARE = {"name": "sd-worker", "version": __version__}
LIBRARY = {
    # Trust is for whoever reads the picture. A manifest that a reader would refuse is noticed here.
    "verify": {"verify_after_sign": True, "verify_trust": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
"""C2PA specification, 13.2 "Digital signatures"."""


class ContentCredentials:
    """Signs with one certificate, from any thread."""

    def __init__(self, context: c2pa.Context) -> None:
        self._context = context

    @classmethod
    def from_files(cls, certificate: Path, key: Path) -> ContentCredentials:
        """The operator's certificate, with what leads to its root behind it, and its private key, both in PEM.

        Signs once on trial. Raises ConfigurationError.
        """
        chain = _read(certificate, "--c2pa-cert")
        private = _private_key(_read(key, "--c2pa-key"))
        try:
            [own, *_] = x509.load_pem_x509_certificates(chain)
        except ValueError:
            raise ConfigurationError("--c2pa-cert holds no certificate in PEM") from None
        if own.public_key() != private.public_key():
            raise ConfigurationError("--c2pa-key is not the key of the first certificate in --c2pa-cert")
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(_algorithm(private), chain, pem, None))
            credentials = cls(c2pa.Context.from_dict(LIBRARY, signer=signer))
            credentials._signed(credentials._builder(DigitalSource.GENERATED), ImageFormat.PNG, _black())
        except c2pa.C2paError as error:
            told = " ".join(str(error).split())
            raise ConfigurationError(f"--c2pa-cert cannot sign content credentials: {told}") from None
        return credentials

    def sign(self, data: bytes, params: JobParams) -> bytes:
        """An encoded picture with its manifest in it; one that begins with a client's names that as its origin.

        Raises SigningFailed, or InvalidInput where the client's picture cannot be named.
        """
        try:
            builder = self._builder(DigitalSource.of(params.task))
            if params.image is not None:
                self._begin_with(builder, params.image)
            return self._signed(builder, params.output.format, data)
        except c2pa.C2paError as error:
            logger.error("a picture cannot be signed: %s", error)
            raise SigningFailed from None

    def _builder(self, source: DigitalSource) -> Any:
        created = source is DigitalSource.GENERATED
        action = {
            "action": "c2pa.created" if created else "c2pa.edited",
            "digitalSourceType": source.value,
            "softwareAgent": SOFTWARE,
        }
        manifest = {
            "claim_generator_info": [SOFTWARE],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        builder = c2pa.Builder(manifest, self._context)
        if not created:
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)  # which puts `c2pa.opened` first
        return builder

    def _begin_with(self, builder: Any, picture: Picture) -> None:
        """The client's picture by its hash, with its own credentials if it has any."""
        origin = {"title": "image", "relationship": "parentOf"}
        try:
            builder.add_ingredient(origin, _media_type(picture.data), io.BytesIO(picture.data))
        except c2pa.C2paError as error:
            logger.info("a client's picture cannot be named in content credentials: %s", error)
            raise InvalidInput("The image is not well formed enough to be named in content credentials") from None

    def _signed(self, builder: Any, format: ImageFormat, data: bytes) -> bytes:
        signed = io.BytesIO()
        builder.sign(format.media_type, io.BytesIO(data), signed)
        return signed.getvalue()


def _black() -> bytes:
    """Some picture to sign on trial."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def _read(file: Path, flag: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        raise ConfigurationError(f"{flag} cannot be read") from None


def _private_key(pem: bytes) -> Any:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigurationError("--c2pa-key is protected by a passphrase, which nobody could enter here") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError("--c2pa-key holds no private key in PEM") from None


def _algorithm(private: object) -> str:
    match private:
        case ec.EllipticCurvePrivateKey() if private.curve.name in CURVES:
            return CURVES[private.curve.name]
        case rsa.RSAPrivateKey():
            return "ps256"
        case ed25519.Ed25519PrivateKey():
            return "ed25519"
    raise ConfigurationError("--c2pa-key is of a kind that C2PA does not allow: it takes ECDSA, RSA and Ed25519")


def _media_type(data: bytes) -> str:
    """Of one of the three that a job may bring."""
    if data.startswith(b"\x89PNG"):
        return ImageFormat.PNG.media_type
    return (ImageFormat.WEBP if data.startswith(b"RIFF") else ImageFormat.JPEG).media_type
