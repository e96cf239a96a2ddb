"""Evidence is signed over its exact bytes, with keys and in a form that OpenSSL knows."""

import builtins
import json
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from rfx.core.errors import EnvironmentMissingError, ExitCode, UsageError
from rfx.evidence.signature import private_key, public_key, sign
from rfx.pipeline.gate import gate
from rfx.pipeline.verify import verify
from tests.commands import STANDARD, given, run
from tests.evidences import make_evidence


def write_keys(folder, name="release", kind=None, passphrase=None, ssh=False):
    """A pair of keys as files, the private and the public one."""
    key = kind or ed25519.Ed25519PrivateKey.generate()
    lock = serialization.NoEncryption()
    if passphrase:
        lock = serialization.BestAvailableEncryption(passphrase)
    forms = serialization.PrivateFormat, serialization.PublicFormat, serialization.Encoding
    private, public, coding = forms
    pem = (
        (coding.PEM, private.OpenSSH, coding.OpenSSH, public.OpenSSH)
        if ssh
        else (coding.PEM, private.PKCS8, coding.PEM, public.SubjectPublicKeyInfo)
    )
    (folder / f"{name}.key").write_bytes(key.private_bytes(pem[0], pem[1], lock))
    (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(pem[2], pem[3]))
    return folder / f"{name}.key", folder / f"{name}.pub"


@pytest.fixture
def signed(tmp_path):
    """Evidence with its signature, and the two keys."""
    private, public = write_keys(tmp_path)
    document = tmp_path / "out" / "evidence.json"
    document.parent.mkdir()
    document.write_text(make_evidence().model_dump_json())
    sign(document, private_key(private))
    return document, private, public


@pytest.mark.parametrize("ssh", [False, True])
def test_a_signature_is_checked(tmp_path, ssh):
    private, public = write_keys(tmp_path, ssh=ssh)
    (tmp_path / "evidence.json").write_text(make_evidence().model_dump_json())
    sign(tmp_path / "evidence.json", private_key(private))
    assert gate(tmp_path, verify_key=public).outcome == "pass"
    assert run("gate", tmp_path / "evidence.json", "--verify-key", public).exit_code == 0


def test_openssl_checks_it_too(signed):
    document, _, public = signed
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here")
    command = [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin"]
    files = ["-in", document, "-sigfile", document.parent / "evidence.json.sig"]
    assert subprocess.run([*command, *files], capture_output=True, check=False).returncode == 0


def test_what_is_not_signed_altered_or_of_another_key_is_refused(signed, tmp_path):
    document, _, public = signed
    _, other = write_keys(tmp_path, "other")

    def refused(key, word):
        done = run("gate", document, "--verify-key", key, "--json")
        assert done.exit_code == ExitCode.USAGE, done.output
        assert word in json.loads(done.stdout)["error"]["what"]

    refused(other, "not of this evidence and this key")
    text = document.read_text()
    document.write_text(text + " ")  # the same evidence, another byte
    refused(public, "not of this evidence and this key")
    document.write_text(text.replace('"drop":0.5', '"drop":0.4'))
    refused(public, "not of this evidence and this key")
    document.write_text(text)
    assert run("gate", document, "--verify-key", public).exit_code == 0
    signature = document.parent / "evidence.json.sig"
    for data in (b"", b"x" * 64, signature.read_bytes() * 2):
        signature.write_bytes(data)
        refused(public, "not of this evidence and this key")
    signature.unlink()
    refused(public, "not signed")
    with pytest.raises(UsageError, match="A signature is of a file"):
        gate(make_evidence(), verify_key=public)


def test_what_is_compared_with_has_to_be_signed_too(signed, tmp_path):
    """A baseline that anybody could have written would let any regression pass."""
    document, private, public = signed
    (tmp_path / "main").mkdir()
    other = tmp_path / "main" / "evidence.json"
    other.write_text(document.read_text())
    asked = ("gate", document, "--baseline", other, "--verify-key", public)
    refused = run(*asked, "--json")
    assert refused.exit_code == ExitCode.USAGE, refused.output
    assert "not signed" in json.loads(refused.stdout)["error"]["what"]
    sign(other, private_key(private))
    assert run(*asked).exit_code == 0


def test_keys_that_are_none_are_refused(tmp_path):
    private, public = write_keys(tmp_path)
    locked, _ = write_keys(tmp_path, "locked", passphrase=b"secret")
    curve, curve_public = write_keys(tmp_path, "ec", kind=ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "text").write_text("no key")
    for file, said in (
        (tmp_path / "nowhere", "cannot be read"),
        (tmp_path / "text", "no key that can be read"),
        (public, "no key that can be read"),
        (locked, "passphrase"),
        (curve, "another algorithm"),
    ):
        with pytest.raises(UsageError, match=said):
            private_key(file)
    for file in (private, curve_public, tmp_path / "text", tmp_path):
        with pytest.raises(UsageError):
            public_key(file)


def test_a_run_is_signed_measured_again_and_its_files_are_held_against_both(
    trained, warm, tmp_path
):
    """The whole chain that a release goes through, and one byte that is changed at its end."""
    private, public = write_keys(tmp_path)
    out, again = tmp_path / "out", tmp_path / "again"
    limits = {"max_drop": 60, "min_agreement": 0.01}  # of a model whose accuracy is not the matter
    done = run(
        "prune-export", *given(trained, **STANDARD, **limits, flops=0.6, out=out, sign=private)
    )
    assert done.exit_code == 0, done.output
    checked = ("--files", out, "--verify-key", public)
    judged = run("gate", out, *checked)
    assert judged.exit_code == 0, judged.output
    measured = run("verify", out, "--out", again, "--sign", private)
    assert measured.exit_code == 0, measured.output
    judged = run("gate", again, *checked)
    assert judged.exit_code == 0, judged.output
    for folder in (out, again):
        assert (folder / "evidence.json.sig").is_file()
        # No key stands in the evidence.
        assert "release.key" not in (folder / "evidence.json").read_text()
    # The signature is of one document: the other's does not fit it.
    signature = (again / "evidence.json.sig").read_bytes()
    (again / "evidence.json.sig").write_bytes((out / "evidence.json.sig").read_bytes())
    assert run("gate", again, *checked).exit_code == ExitCode.USAGE
    (again / "evidence.json.sig").write_bytes(signature)
    assert run("gate", again, *checked).exit_code == 0
    plan = bytearray((out / "plan.json").read_bytes())
    plan[len(plan) // 2] ^= 1
    (out / "plan.json").write_bytes(plan)
    for evidence in (out, again):
        refused = run("gate", evidence, *checked, "--json")
        assert refused.exit_code == ExitCode.USAGE, refused.output
        assert "plan.json" in json.loads(refused.stdout)["error"]["got"]


def test_a_key_is_looked_at_before_any_work(trained, tmp_path, cache):
    (tmp_path / "text").write_text("no key")
    arguments = given(trained, latency=0.8, out=tmp_path / "out", sign=tmp_path / "text")
    done = run("prune-export", *arguments)
    assert done.exit_code == ExitCode.USAGE and "no private key" in done.output
    assert not (tmp_path / "out").exists() and not cache.exists()


def test_verify_signs_what_it_writes_alone(closed):
    with pytest.raises(UsageError, match="nothing to sign"):
        verify(closed.out, sign="any.key")


def test_without_the_package_its_extra_is_named(signed, monkeypatch):
    document, private, public = signed
    real = builtins.__import__

    def missing(name, *more, **keys):
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *more, **keys)

    monkeypatch.setattr(builtins, "__import__", missing)
    for call in (
        lambda: gate(document, verify_key=public),
        lambda: private_key(private),
    ):
        with pytest.raises(EnvironmentMissingError, match=r"rfx-exporter\[sign\]"):
            call()
