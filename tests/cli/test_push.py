"""`spectune push` against a stand-in of the hub's client, as far as the network goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from tests.cli.conftest import RunCli

from spectune.manifest import MANIFEST, verify_manifest, write_manifest


class Hub:
    """What was asked of it, and what it was sent."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.received: dict[str, bytes] = {}
        self.failure = failure

    def create_repo(self, repo_id: str, **options: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.asked.append(("create_repo", {"repo_id": repo_id, **options}))

    def create_branch(self, repo_id: str, **options: Any) -> None:
        self.asked.append(("create_branch", {"repo_id": repo_id, **options}))

    def upload_folder(self, *, folder_path: Path, **options: Any) -> Any:
        self.asked.append(("upload_folder", options))
        self.received = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return huggingface_hub.CommitInfo(
            commit_url="https://huggingface.co/owner/name/commit/1", commit_message="", commit_description="", oid="1"
        )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The client's stand-in, in its place."""
    stand_in = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: stand_in)
    return stand_in


def adapter(directory: Path, base: str | None) -> Path:
    """A directory as a run leaves it; what the weights hold does not matter here."""
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text(
        json.dumps({"peft_type": "ADALORA", "base_model_name_or_path": base})
    )
    (directory / "adapter_model.safetensors").write_bytes(bytes(100))
    (directory / "README.md").write_text("---\ntags: [adalora]\n---\n# A card\n")
    write_manifest(directory, {"seed": 1})
    return directory


@pytest.mark.parametrize(
    ("base", "name", "line"),
    [
        ("/somewhere/model", "starter", "its base is the bundled starter, which PEFT does not know"),
        ("/somewhere/model", "/somewhere/model", "its base is the directory model, which nobody else has"),
        (None, None, "it names no base; give its hub id with --base-model OWNER/NAME"),
    ],
)
def test_a_base_that_nobody_else_has(
    tmp_path: Path, run_cli: RunCli, base: str | None, name: str | None, line: str
) -> None:
    path = adapter(tmp_path / "adapter", base)
    (path / "spectune.json").write_text(json.dumps({"base_name": name}))
    (path / MANIFEST).unlink()
    write_manifest(path, {"seed": 1})
    assert line in run_cli("push", path, "owner/name", "--dry-run").error()


def test_all_files_go_in_one_commit(tmp_path: Path, run_cli: RunCli, hub: Hub) -> None:
    path = adapter(tmp_path / "run" / "adapter", "facebook/bart-base")
    finished = run_cli("push", tmp_path / "run", "owner/name", "--private", "--branch", "dev", "--message", "first")
    assert finished.status == 0, finished.err
    assert finished.out.endswith("sent: https://huggingface.co/owner/name/commit/1\n")
    assert hub.asked == [
        ("create_repo", {"repo_id": "owner/name", "private": True, "exist_ok": True}),
        ("create_branch", {"repo_id": "owner/name", "branch": "dev", "exist_ok": True}),
        ("upload_folder", {"repo_id": "owner/name", "revision": "dev", "commit_message": "first"}),
    ]
    assert hub.received == {entry.name: entry.read_bytes() for entry in path.iterdir()}


def test_a_dry_run_shows_and_sends_nothing(tmp_path: Path, run_cli: RunCli, hub: Hub) -> None:
    path = adapter(tmp_path / "adapter", "facebook/bart-base")
    finished = run_cli("push", path, "owner/name", "--dry-run")
    assert finished.status == 0, finished.err
    assert hub.asked == []
    shown = {line.split()[1]: line.split()[0].replace(",", "") for line in finished.out.splitlines()}
    assert all(shown[entry.name] == str(entry.stat().st_size) for entry in path.iterdir())
    assert "base: facebook/bart-base" in finished.out


def test_another_base_is_written_into_what_is_sent_alone(tmp_path: Path, run_cli: RunCli, hub: Hub) -> None:
    path = adapter(tmp_path / "adapter", str(tmp_path / "my-base"))
    before = {entry.name: entry.read_bytes() for entry in path.iterdir()}
    assert run_cli("push", path, "owner/name", "--base-model", "owner/base").status == 0
    assert {entry.name: entry.read_bytes() for entry in path.iterdir()} == before
    received = tmp_path / "received"
    received.mkdir()
    for name, content in hub.received.items():
        (received / name).write_bytes(content)
    assert verify_manifest(received)["fingerprint"] == {"seed": 1}
    assert json.loads(hub.received["adapter_config.json"])["base_model_name_or_path"] == "owner/base"
    assert hub.received["README.md"] == b"---\nbase_model: owner/base\ntags: [adalora]\n---\n# A card\n"


def test_the_directory_of_a_base_is_named_nowhere_in_what_is_sent(tmp_path: Path, run_cli: RunCli, hub: Hub) -> None:
    base = str(tmp_path / "my-base")
    path = adapter(tmp_path / "adapter", base)
    config = {"peft_type": "ADALORA", "base_model_name_or_path": base, "revision": "abc123"}
    (path / "adapter_config.json").write_text(json.dumps(config))
    (path / "spectune.json").write_text(json.dumps({"task": "text2text", "base_name": base}))
    (path / "README.md").write_text(f"---\ntags: []\n---\n```yaml\nmodel_name_or_path: {base}\nother: {base}-2\n```\n")
    (path / MANIFEST).unlink()
    write_manifest(path)
    assert run_cli("push", path, "owner/name", "--base-model", "owner/base").status == 0
    assert json.loads(hub.received["spectune.json"]) == {"task": "text2text", "base_name": "owner/base"}
    assert json.loads(hub.received["adapter_config.json"])["revision"] is None, "a commit of another repository"
    card = hub.received["README.md"].decode()
    assert card == (
        f"---\nbase_model: owner/base\ntags: []\n---\n```yaml\nmodel_name_or_path: owner/base\nother: {base}-2\n```\n"
    )


def test_a_base_of_the_hub_is_not_renamed(tmp_path: Path, run_cli: RunCli, hub: Hub) -> None:
    path = adapter(tmp_path / "adapter", "google/t5-small")
    line = run_cli("push", path, "owner/name", "--base-model", "owner/copy").error()
    assert line == "its base is google/t5-small on the hub, so leave out --base-model owner/copy"
    assert run_cli("push", path, "owner/name", "--base-model", "google/t5-small").status == 0


def test_what_the_manifest_does_not_know_is_not_sent(tmp_path: Path, run_cli: RunCli, hub: Hub) -> None:
    path = adapter(tmp_path / "adapter", "facebook/bart-base")
    (path / ".env").write_text("TOKEN=secret")
    (path / "notes").mkdir()
    (path / "notes" / "draft.txt").write_text("not for others")
    finished = run_cli("push", path, "owner/name")
    assert finished.status == 0, finished.err
    assert set(hub.received) == {"README.md", "adapter_config.json", "adapter_model.safetensors", MANIFEST}
    assert "left out, unknown to the manifest: .env, notes/draft.txt\n" in finished.out
    (path / "adapter_model.bin").write_bytes(b"pickle")
    line = run_cli("push", path, "owner/name").error()
    assert "holds adapter_model.bin, which its manifest.json does not know and a loader reads" in line


def test_a_base_that_nobody_else_has_is_refused(tmp_path: Path, run_cli: RunCli, hub: Hub) -> None:
    path = adapter(tmp_path / "adapter", str(tmp_path / "my-base"))
    line = run_cli("push", path, "owner/name").error()
    assert line.startswith("its base is the directory my-base, which nobody else has")
    assert "--base-model OWNER/NAME" in line
    assert hub.asked == []


def test_what_is_damaged_or_not_ours_is_not_sent(tmp_path: Path, run_cli: RunCli, hub: Hub) -> None:
    path = adapter(tmp_path / "adapter", "facebook/bart-base")
    (path / "adapter_model.safetensors").write_bytes(bytes(99))
    assert "is damaged: it differs from its SHA-256" in run_cli("push", path, "owner/name").error()
    (path / MANIFEST).unlink()
    assert "holds no manifest.json" in run_cli("push", path, "owner/name").error()
    assert "there is no directory" in run_cli("push", tmp_path / "nothing", "owner/name").error()
    assert "write owner/name" in run_cli("push", path, "name").error()
    assert hub.asked == []


def test_a_hub_that_refuses_or_is_away_is_one_line(tmp_path: Path, run_cli: RunCli, hub: Hub) -> None:
    path = adapter(tmp_path / "adapter", "facebook/bart-base")
    troubles: dict[Exception, str] = {
        errors.OfflineModeIsEnabled("offline"): "HF_HUB_OFFLINE is set",
        errors.LocalTokenNotFoundError("no token"): "run `hf auth login`",
        ConnectionError("name resolution failed\nmore"): "name resolution failed; nothing was changed there",
    }
    for trouble, line in troubles.items():
        hub.failure = trouble
        assert line in run_cli("push", path, "owner/name").error()
