"""Reads our signed documents with other people's code: cbor2 for the CBOR, pycose for the COSE signatures.

usage: verify_envelope.py V1_FOLDER

For every envelope of protocol/test-data/v1 (those whose reading names a role): the signature holds under the key of
keys.json and the external_aad spelled out here, it does not hold under another key, another role or another payload,
and the payload reads as NAME.json says. It knows nothing of our own code. Prints one line per envelope; the exit code
is 1 at the first thing that does not hold.
"""

import hashlib
import json
import pathlib
import sys
import uuid

import cbor2
from pycose.algorithms import EdDSA
from pycose.headers import KID, Algorithm
from pycose.keys import OKPKey
from pycose.keys.curves import Ed25519
from pycose.messages import Sign1Message


class Refused(Exception):
    """Something does not hold."""


def need(holds: bool, what: str) -> None:
    if not holds:
        raise Refused(what)


def key_id(public: bytes) -> bytes:
    """SHA-256 of the key's SubjectPublicKeyInfo (RFC 8410)."""
    return hashlib.sha256(bytes.fromhex("302a300506032b6570032100") + public).digest()


def holds(signature: list, payload: bytes, public: bytes, role: str, schema: str) -> bool:
    message = Sign1Message.from_cose_obj(list(signature), allow_unknown_attributes=False)
    message.key = OKPKey(crv=Ed25519, x=public)
    message.external_aad = cbor2.dumps(["flotilla", role, schema])
    return message.verify_signature(detached_payload=payload)


def verify(name: str, folder: pathlib.Path, keys: dict) -> int:
    """Verifies one envelope; the number of its signatures."""
    expected = json.loads((folder / f"{name}.json").read_text())
    payload, signatures = cbor2.loads((folder / f"{name}.cbor").read_bytes())
    need(expected["digest"] == f"sha256:{hashlib.sha256(payload).hexdigest()}", "the digest is the payload's")
    role, schema = expected["role"], expected["schema"]
    for signature, signer in zip(signatures, expected["signers"], strict=True):
        public = keys[signer]
        parsed = Sign1Message.from_cose_obj(list(signature), allow_unknown_attributes=False)
        need(parsed.phdr[Algorithm] is EdDSA, "alg is EdDSA and protected")
        need(parsed.phdr[KID] == key_id(public), "kid is the key's own id")
        need(not parsed.uhdr, "nothing is unprotected")
        need(signature[2] is None, "the payload is detached")
        need(holds(signature, payload, public, role, schema), "the signature holds")
        other = next(key for id_, key in keys.items() if id_ != signer)
        need(not holds(signature, payload, other, role, schema), "another key's signature does not hold")
        need(not holds(signature, payload, public, "root" if role != "root" else "director", schema), "role is bound")
        need(not holds(signature, payload, public, role, schema + "x"), "layout is bound")
        need(not holds(signature, payload + b"\0", public, role, schema), "the payload is bound")
    same(cbor2.loads(payload), expected["document"], name)
    return len(signatures)


def same(value, reading, path: str) -> None:
    """The CBOR value reads as the JSON says: byte strings stand there as digest, UUID, hex or list of numbers."""
    if isinstance(value, bytes):
        forms = [f"sha256:{value.hex()}", value.hex(), list(value)]
        if len(value) == 16:
            forms.append(str(uuid.UUID(bytes=value)))
        need(reading in forms, f"{path}: {value.hex()} is {reading}")
    elif isinstance(value, dict):
        need(isinstance(reading, dict) and value.keys() == reading.keys(), f"{path}: fields {list(value)}")
        for field, inner in value.items():
            same(inner, reading[field], f"{path}.{field}")
    elif isinstance(value, list):
        need(isinstance(reading, list) and len(value) == len(reading), f"{path}: {len(value)} items")
        for index, inner in enumerate(value):
            same(inner, reading[index], f"{path}[{index}]")
    else:
        need(type(value) is type(reading) and value == reading, f"{path}: {value!r} is {reading!r}")


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = pathlib.Path(sys.argv[1])
    keys = {key["id"]: bytes.fromhex(key["ed25519"]) for key in json.loads((folder / "keys.json").read_text()).values()}
    for id_, public in keys.items():
        need(id_ == f"sha256:{key_id(public).hex()}", "a key's id is the digest of its SubjectPublicKeyInfo")
    readings = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    names = [name for name, reading in readings.items() if "signers" in reading]
    need(len(names) > 0, f"envelopes stand in {folder}")
    for name in names:
        try:
            print(f"verified {name}: {verify(name, folder, keys)} signature(s)")
        except Refused as why:
            print(f"refused {name}: {why}", file=sys.stderr)
            return 1
    vectors = [line.split("\t") for line in (folder / "external-aad.txt").read_text().splitlines()]
    for role, schema, aad in vectors:
        need(cbor2.dumps(["flotilla", role, schema]).hex() == aad, f"external_aad of {role} and {schema}")
    print(f"verified external_aad: {len(vectors)} vectors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
