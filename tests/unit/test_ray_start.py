"""What is made right before Ray starts: its settings, short paths, whose words go where, the code to send."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from search.executors.base import ExecutorError
from search.executors.ray_start import check_answers, copy_code, ray_speaks_on_stderr, set_environment


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A process that has not imported Ray, with a home of its own; what is set is taken back afterwards."""
    for name in ("RAY_AUTH_MODE", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def environment_after(clean: pytest.MonkeyPatch, *, joins_cluster: bool = False) -> dict[str, str]:
    import os

    before = dict(os.environ)
    try:
        set_environment(joins_cluster=joins_cluster)
        return dict(os.environ)
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_with_a_home_others_are_kept_out_by_a_token(clean: pytest.MonkeyPatch) -> None:
    assert environment_after(clean)["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize("home", ["/nonexistent", "/proc"])
def test_without_a_home_to_write_to_there_is_none(clean: pytest.MonkeyPatch, home: str) -> None:
    clean.setenv("HOME", home)
    assert environment_after(clean)["RAY_AUTH_MODE"] == "disabled"


def test_a_cluster_has_a_token_if_there_is_one_in_the_home(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "RAY_AUTH_MODE" not in environment_after(clean, joins_cluster=True)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    assert environment_after(clean, joins_cluster=True)["RAY_AUTH_MODE"] == "token"


def test_what_the_user_has_set_stays(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("RAY_AUTH_MODE", "disabled")
    clean.setenv("RAY_USAGE_STATS_ENABLED", "1")
    after = environment_after(clean)
    assert (after["RAY_AUTH_MODE"], after["RAY_USAGE_STATS_ENABLED"]) == ("disabled", "1")


def test_a_long_temporary_folder_is_not_for_sockets(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long_name = tmp_path / ("x" * 60)
    long_name.mkdir()
    clean.setenv("TMPDIR", str(long_name))
    assert environment_after(clean)["RAY_TMPDIR"] == "/tmp"
    clean.setenv("TMPDIR", "/var/tmp")
    assert "RAY_TMPDIR" not in environment_after(clean)


def test_words_of_rays_threads_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with ray_speaks_on_stderr():
        for name in ("ray_listen_error_messages", "ours"):
            thread = threading.Thread(target=print, args=(f"from {name}",), name=name)
            thread.start()
            thread.join()
        print("from the driver", flush=True)
    said = capsys.readouterr()
    assert said.out == "from ours\nfrom the driver\n"
    assert said.err == "from ray_listen_error_messages\n"


def test_the_code_that_is_sent_runs_by_itself_and_brings_no_studies(tmp_path: Path) -> None:
    copy_code(tmp_path / "code")
    copied = {path.relative_to(tmp_path / "code").as_posix() for path in (tmp_path / "code").rglob("*")}
    assert {"search/evaluate.py", "space/presets/small.yaml", "crossvit_core/model.py"} <= copied
    assert not {name for name in copied if name.startswith(("results/runs", "results/reference"))}
    script = "import search.trial, crossvit_core.cost, results.records; print(search.trial.__file__)"
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "code", capture_output=True, text=True)
    assert run.stdout.strip() == str(tmp_path / "code" / "search" / "trial.py")


def test_a_cluster_that_does_not_answer_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_answers(address)
        check_answers(f"ray://{address}")
    with pytest.raises(ExecutorError, match=rf"nothing answers at the Ray address {address} \(.*refused"):
        check_answers(address)
    for left_to_ray in (None, "auto", "local"):
        check_answers(left_to_ray)
