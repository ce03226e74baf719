"""Command completion, which one command sets up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from recording_server import Run


def test_completion_is_set_up_for_the_current_shell(plain_environment: dict[str, str], tmp_path: Path) -> None:
    install = f"{sys.executable} -m codeq_cli.main --install-completion; exit $?"
    home = plain_environment | {"HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", install], env=home, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = subprocess.run(
        ["bash", "-c", "source ~/.bashrc; complete -p codeq"], env=home, capture_output=True, check=True
    )
    assert shown.stdout.endswith(b" codeq\n")


def test_commands_and_options_are_completed(run: Run) -> None:
    def completed(line: str) -> list[str]:
        words = {"_CODEQ_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        return run(**words).stdout.decode().split()

    assert completed("codeq do") == ["doctor"]
    assert completed("codeq task cr") == ["create"]
    assert completed("codeq install --output-") == ["--output-dir"]
