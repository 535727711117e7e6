"""Content credentials, as the library's own reader finds them in the finished picture."""

from __future__ import annotations

import io
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image

from tests.certificates import Authority, Signer, pem_of_key
from tests.fakes import PNG, make_params, paint
from worker.credentials import ContentCredentials
from worker.engine.encoding import encode_image
from worker.errors import ConfigurationError, InvalidInput, SigningFailed
from worker.jobs.params import ImageFormat, JobParams, Picture, Task
from worker.jobs.provenance import DigitalSource

PICTURE = paint(seed=9, width=48, height=32)
ACTIONS = "c2pa.actions.v2"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def signer(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return authority.write_signer(tmp_path_factory.mktemp("signer"))


@pytest.fixture(scope="module")
def credentials(signer: Signer) -> ContentCredentials:
    return ContentCredentials.from_files(signer.cert, signer.key)


def encoded(format: ImageFormat = ImageFormat.PNG, params: JobParams | None = None) -> bytes:
    source = DigitalSource.of(params.task if params else Task.TEXT_TO_IMAGE)
    return encode_image(PICTURE, replace(PNG, format=format), source, None)


def asked(task: Task, format: ImageFormat, image: bytes = b"") -> JobParams:
    picture = Picture(48, 32, len(image), image) if task.takes_image else None
    return make_params(task=task, output=replace(PNG, format=format), image=picture)


def read(data: bytes, format: ImageFormat, signer: Signer) -> tuple[str | None, dict[str, Any]]:
    """What a reader that trusts the authority says of it, and the manifest."""
    trust = {"verify": {"verify_trust": True, "remote_manifest_fetch": False}, "trust": {"trust_anchors": signer.root}}
    with c2pa.Context.from_dict(trust) as context:
        reader = c2pa.Reader(format.media_type, io.BytesIO(data), context=context)
        manifest = reader.get_active_manifest()
        assert manifest is not None
        return reader.get_validation_state(), manifest


def actions_of(manifest: dict[str, Any]) -> list[tuple[str, str | None]]:
    [assertion] = [one for one in manifest["assertions"] if one["label"] == ACTIONS]
    return [(action["action"], action.get("digitalSourceType")) for action in assertion["data"]["actions"]]


@pytest.mark.parametrize("format", list(ImageFormat))
def test_a_generated_picture_says_so(credentials: ContentCredentials, signer: Signer, format: ImageFormat) -> None:
    params = asked(Task.TEXT_TO_IMAGE, format)
    before = encoded(format, params)
    signed = credentials.sign(before, params)
    state, manifest = read(signed, format, signer)
    assert state == "Trusted"
    assert actions_of(manifest) == [("c2pa.created", DigitalSource.GENERATED.value)]
    assert manifest["claim_generator_info"][0]["name"] == "sd-worker"
    assert manifest["signature_info"]["common_name"] == "operator"
    assert "ingredients" not in manifest
    pixels, its_pixels = (np.asarray(Image.open(io.BytesIO(data))) for data in (before, signed))
    assert np.array_equal(pixels, its_pixels)
    assert Image.open(io.BytesIO(signed)).info["xmp"] == Image.open(io.BytesIO(before)).info["xmp"]


@pytest.mark.parametrize("format", list(ImageFormat))
@pytest.mark.parametrize("task", [Task.IMAGE_TO_IMAGE, Task.INPAINTING])
def test_an_edited_picture_names_what_it_began_with(
    credentials: ContentCredentials, signer: Signer, task: Task, format: ImageFormat
) -> None:
    params = asked(task, format, encoded(format))
    state, manifest = read(credentials.sign(encoded(format, params), params), format, signer)
    assert state == "Trusted"
    assert actions_of(manifest) == [("c2pa.opened", None), ("c2pa.edited", DigitalSource.COMPOSITE.value)]
    [origin] = manifest["ingredients"]
    assert (origin["relationship"], origin["format"]) == ("parentOf", format.media_type)


def test_what_the_clients_picture_says_of_itself_is_kept(credentials: ContentCredentials, signer: Signer) -> None:
    first = credentials.sign(encoded(), asked(Task.TEXT_TO_IMAGE, ImageFormat.PNG))
    params = asked(Task.INPAINTING, ImageFormat.JPEG, first)
    _, manifest = read(credentials.sign(encoded(ImageFormat.JPEG, params), params), ImageFormat.JPEG, signer)
    _, its_manifest = read(first, ImageFormat.PNG, signer)
    assert manifest["ingredients"][0]["active_manifest"] == its_manifest["label"]


def test_a_picture_that_was_changed_afterwards_is_told(credentials: ContentCredentials, signer: Signer) -> None:
    signed = bytearray(credentials.sign(encoded(), asked(Task.TEXT_TO_IMAGE, ImageFormat.PNG)))
    signed[signed.index(b"IDAT") + 40] ^= 1
    assert read(bytes(signed), ImageFormat.PNG, signer)[0] == "Invalid"


def test_a_reader_without_the_root_finds_it_sound_but_not_trusted(credentials: ContentCredentials) -> None:
    signed = credentials.sign(encoded(), asked(Task.TEXT_TO_IMAGE, ImageFormat.PNG))
    assert c2pa.Reader("image/png", io.BytesIO(signed)).get_validation_state() == "Valid"


def test_nothing_that_a_clients_picture_names_elsewhere_is_fetched(
    credentials: ContentCredentials, signer: Signer
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        builder = credentials._builder(DigitalSource.GENERATED)
        builder.set_no_embed()
        builder.set_remote_url(f"http://127.0.0.1:{elsewhere.getsockname()[1]}/manifest.c2pa")
        image = credentials._signed(builder, ImageFormat.PNG, encoded())
        assert b"manifest.c2pa" in image
        params = asked(Task.IMAGE_TO_IMAGE, ImageFormat.PNG, image)
        state, _ = read(credentials.sign(encoded(params=params), params), ImageFormat.PNG, signer)
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert state == "Trusted"


@pytest.mark.parametrize("damage", ["manifest", "something behind"])
def test_a_clients_damaged_credentials_do_not_fail_the_job(
    credentials: ContentCredentials, signer: Signer, damage: str
) -> None:
    image = bytearray(credentials.sign(encoded(ImageFormat.JPEG), asked(Task.TEXT_TO_IMAGE, ImageFormat.JPEG)))
    if damage == "manifest":
        at = image.index(b"jumb")
        image[at + 4 : at + 60] = b"\xff" * 56
    else:
        image += b"something"
    params = asked(Task.IMAGE_TO_IMAGE, ImageFormat.PNG, bytes(image))
    state, manifest = read(credentials.sign(encoded(params=params), params), ImageFormat.PNG, signer)
    assert state == "Trusted"
    assert len(manifest["ingredients"]) == 1


def test_a_clients_picture_that_cannot_be_named_fails_its_own_job(credentials: ContentCredentials) -> None:
    params = asked(Task.IMAGE_TO_IMAGE, ImageFormat.PNG, encoded(ImageFormat.JPEG)[:60])
    with pytest.raises(InvalidInput):
        credentials.sign(encoded(params=params), params)


def test_what_cannot_be_signed_is_told_without_the_librarys_words(credentials: ContentCredentials) -> None:
    with pytest.raises(SigningFailed) as failed:
        credentials.sign(b"no picture", asked(Task.TEXT_TO_IMAGE, ImageFormat.PNG))
    assert failed.value.detail == SigningFailed.title()


def test_many_threads_may_sign(credentials: ContentCredentials, signer: Signer) -> None:
    params = asked(Task.TEXT_TO_IMAGE, ImageFormat.PNG)
    with ThreadPoolExecutor(4) as pool:
        signed = list(pool.map(lambda _: credentials.sign(encoded(), params), range(24)))
    assert {read(data, ImageFormat.PNG, signer)[0] for data in signed} == {"Trusted"}


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["P-384", "P-521", "RSA", "Ed25519"],
)
def test_the_kinds_of_keys_that_c2pa_allows(authority: Authority, tmp_path: Path, key: Any) -> None:
    signer = authority.write_signer(tmp_path, key)
    signed = ContentCredentials.from_files(signer.cert, signer.key).sign(encoded(), make_params())
    assert read(signed, ImageFormat.PNG, signer)[0] == "Trusted"


def refused(cert: Path, key: Path) -> str:
    with pytest.raises(ConfigurationError) as told:
        ContentCredentials.from_files(cert, key)
    assert "\n" not in told.value.detail
    return told.value.detail


def test_files_that_are_none(signer: Signer, tmp_path: Path) -> None:
    nothing, text = tmp_path / "nothing", tmp_path / "text"
    text.write_text("hello")
    assert refused(nothing, signer.key) == "--c2pa-cert cannot be read"
    assert refused(signer.cert, nothing) == "--c2pa-key cannot be read"
    assert refused(text, signer.key) == "--c2pa-cert holds no certificate in PEM"
    assert refused(signer.cert, text) == "--c2pa-key holds no private key in PEM"
    assert refused(signer.cert, signer.cert) == "--c2pa-key holds no private key in PEM"


def test_keys_that_do_not_serve(authority: Authority, signer: Signer, tmp_path: Path) -> None:
    other = authority.write_signer(tmp_path / "other")
    assert refused(signer.cert, other.key) == "--c2pa-key is not the key of the first certificate in --c2pa-cert"
    locked = authority.write_signer(tmp_path / "locked", passphrase=b"secret")
    assert refused(locked.cert, locked.key).startswith("--c2pa-key is protected by a passphrase")
    curve = authority.write_signer(tmp_path / "curve", ec.generate_private_key(ec.SECP256K1()))
    assert refused(curve.cert, curve.key).startswith("--c2pa-key is of a kind that C2PA does not allow")
    (tmp_path / "exchange.pem").write_bytes(pem_of_key(x25519.X25519PrivateKey.generate()))
    assert refused(signer.cert, tmp_path / "exchange.pem").startswith("--c2pa-key is not the key of")


def test_certificates_that_c2pa_does_not_allow(authority: Authority, tmp_path: Path) -> None:
    begun = "--c2pa-cert cannot sign content credentials: "
    old = authority.write_signer(tmp_path / "old", days=(-9, -2))
    assert refused(old.cert, old.key) == f"{begun}Signature: the certificate was not valid at time of signing"
    server = authority.write_signer(tmp_path / "server", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    assert refused(server.cert, server.key) == f"{begun}Signature: the certificate is invalid"
