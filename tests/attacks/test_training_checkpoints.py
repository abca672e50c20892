"""Directories that pass for checkpoints of a training run."""

import hashlib
import json
import os
import pickle
import struct

import pytest
import torch

from linkboy import Checkpointer


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpointer(tmp_path).save({"weight": torch.ones(3)}, 1)


def rewrite_manifest(checkpoint, change):
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def replace(checkpoint, name, content):
    """Put another content under `name`, and its true size and hash into the manifest."""

    def change(manifest):
        entry = next(entry for entry in manifest["files"] if entry["name"] == name)
        entry |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    (checkpoint / name).write_bytes(content)
    rewrite_manifest(checkpoint, change)


class Attack:
    def __reduce__(self):
        return os.mkdir, (os.environ["LINKBOY_MARK"],)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("process-0.json", b"[" * 10**6),
        ("process-0.json", b'{"__tensor__": "another"}'),
        ("process-0.json", b"[1, 2"),
        ("process-0.json", b"\xff"),
        ("process-0.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        ("process-0.safetensors", b""),
    ],
    ids=["deep", "unknown tensor", "cut off", "no text", "header of 2**60 bytes", "empty"],
)
def test_files_with_a_true_hash_and_a_false_content_are_one_sentence(checkpoint, refusal, name, content):
    replace(checkpoint, name, content)
    text = refusal(lambda: Checkpointer(checkpoint.parent).load(checkpoint))
    assert text.startswith(
        f"{checkpoint} is not a checkpoint: its files agree with its manifest, but are not what a Checkpointer writes ("
    )


@pytest.mark.parametrize("name", ["process-0.json", "process-0.safetensors"])
def test_a_pickle_under_either_name_is_never_executed(tmp_path, monkeypatch, checkpoint, refusal, name):
    mark = tmp_path / "mark"
    monkeypatch.setenv("LINKBOY_MARK", str(mark))
    content = pickle.dumps(Attack())
    replace(checkpoint, name, content)
    assert refusal(lambda: Checkpointer(checkpoint.parent).load(checkpoint))
    assert not mark.exists()
    pickle.loads(content)  # the attack is a real one
    assert mark.exists()


def set_first(key, value):
    return lambda manifest: manifest["files"][0].update({key: value})


@pytest.mark.parametrize(
    "change",
    [
        set_first("name", "../../../../etc/passwd"),
        set_first("name", "/etc/passwd"),
        set_first("name", ".."),
        set_first("name", "a\0b"),
        set_first("name", ["process-0.json"]),
        set_first("size", "12"),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest.update(files=[3, 4]),
        lambda manifest: manifest.update(world_size=10**18),
        lambda manifest: manifest.update(world_size=-1),
        lambda manifest: manifest["files"].append(manifest["files"][0]),
    ],
    ids=["up", "absolute", "parent", "nul", "list", "size", "none", "numbers", "10**18", "negative", "twice"],
)
def test_a_manifest_lists_the_files_of_each_process_and_no_others(checkpoint, refusal, change):
    rewrite_manifest(checkpoint, change)
    checkpointer = Checkpointer(checkpoint.parent)
    assert refusal(lambda: checkpointer.load(checkpoint)) == (
        f"{checkpoint} is not a whole checkpoint: manifest.json does not list two files of each process"
    )
    assert checkpointer.latest() is None


def test_a_manifest_that_is_deep_or_a_terabyte_long_is_unreadable(checkpoint, refusal):
    path = checkpoint / "manifest.json"
    for damage in (lambda: path.write_text("[" * 10**6), lambda: os.truncate(path, 2**40)):
        damage()
        text = refusal(lambda: Checkpointer(checkpoint.parent).load(checkpoint))
        assert text == f"{checkpoint} is not a whole checkpoint: manifest.json is unreadable"


def test_a_link_to_what_has_no_end_is_not_followed_to_it(checkpoint, refusal):
    (checkpoint / "process-0.json").unlink()
    (checkpoint / "process-0.json").symlink_to("/dev/zero")
    text = refusal(lambda: Checkpointer(checkpoint.parent).load(checkpoint))
    assert text == f"{checkpoint} is not a whole checkpoint: process-0.json is missing"
