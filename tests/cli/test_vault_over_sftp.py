"""The program with its vault on an SSH server: from the user's own keys, then by a policy with relative files."""

import shutil

import pytest

from support.sftp import ssh_server

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path):
    with ssh_server(tmp_path / "server") as running:
        yield running


def test_a_vault_on_an_ssh_server_is_founded_written_proven_and_restored(server, bare):
    project = bare
    home = project.folder / "home"
    (home / ".ssh").mkdir(parents=True)
    shutil.copy(server.options["known_hosts"], home / ".ssh")
    shutil.copy(server.options["key_file"], home / ".ssh" / "id_ed25519")
    project.environ["HOME"] = str(home)
    store = server.url + "/leads"
    ran = project.run(
        "init", "--yes", "--store", store, "--key-file", "vault.key", "--sqlite", "dev.db", "--files", "uploads"
    )
    assert ran.code == 0, ran.err
    assert project.run("backup").code == 0

    # Another machine, where the policy tells all.
    shutil.move(home / ".ssh" / "id_ed25519", project.folder / "backup_key")
    shutil.move(home / ".ssh" / "known_hosts", project.folder / "hosts")
    assert project.run("list").code == 6
    project.rewrite(f'"{store}"', f'"{store}"\noptions = {{ key_file = "backup_key", known_hosts = "hosts" }}')
    ran = project.run("verify", "production@latest")
    assert ran.code == 0, ran.err
    assert "can be written, and overwrites nothing" in project.run("doctor").out
    ran = project.run("restore", "production@latest", "--to", "restored")
    assert ran.code == 0, ran.err
    assert "an offer" in "".join(path.read_text() for path in (project.folder / "restored").rglob("offer.txt"))
    assert project.run("prune").code == 0
    assert project.run("check", "--data").code == 0
    assert list((server.store / "leads" / ".tmp").iterdir()) == []
