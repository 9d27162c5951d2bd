"""The command, as a process of its own; and the generated code."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from support import Client, batch, event

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "telemetryx_brain"]


def test_it_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    module = tmp_path / "mine.py"
    module.write_text(
        "from telemetryx_brain import Finding, brain\n"
        "@brain\ndef f(events): return [Finding('seen', cause=e) for e in events]\n"
    )
    (tmp_path / "token").write_text("s3cret\n")
    command = [*COMMAND, "--listen", "127.0.0.1:0", "--module", str(module), "--token-file", str(tmp_path / "token")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            ready = re.search(r"ready on 127\.0\.0\.1:(\d+)", process.stderr.readline())
            assert ready
            with grpc.insecure_channel(f"127.0.0.1:{ready[1]}") as channel:
                client = Client(channel, "s3cret")
                client.hello()
                assert len(client.ask(batch([event(1), event(2)])).done.findings) == 2
                process.send_signal(signal.SIGTERM)
                assert client.rest() == []
            assert process.wait(20) == 0
            assert process.stderr.read().rstrip().endswith("stopped")
        finally:
            process.kill()


def test_a_function_that_does_not_return_does_not_hold_up_the_end(tmp_path: Path) -> None:
    module = tmp_path / "mine.py"
    module.write_text(
        "import threading\nfrom telemetryx_brain import brain\n"
        "@brain\ndef f(events):\n    print('at work', flush=True)\n    threading.Event().wait()\n"
    )
    command = [*COMMAND, "--listen", "127.0.0.1:0", "--module", str(module), "--grace", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            ready = re.search(r"ready on 127\.0\.0\.1:(\d+)", process.stderr.readline())
            assert ready
            with grpc.insecure_channel(f"127.0.0.1:{ready[1]}") as channel:
                client = Client(channel)
                client.hello()
                client.send(batch([event(1)]))
                assert process.stdout.readline() == "at work\n"
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 1
            assert "has not returned within 0.2 s" in process.stderr.read()
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--module", "/no/such.py"], "there is no file /no/such.py"),
        (["--module", "no_such_module_anywhere"], "No module named"),
        (["--tls-cert", "x.pem"], "go together"),
        (["--client-ca", "x.pem"], "needs --tls-cert"),
        (["--token-file", "/no/such"], "/no/such"),
        (["--max-in-flight", "0"], "--max-in-flight"),
        (["--window", "5"], "min_samples"),
        (["--listen", "nowhere"], "cannot listen on nowhere"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(arguments: list[str], words: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("telemetryx-brain: ")
    assert words in last
    assert "Traceback" not in done.stderr


def test_the_generated_code_is_that_of_the_contract() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.generate().items():
        assert (module.INTO / name).read_text() == text, "run python/brain/generate.py"
