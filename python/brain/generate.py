"""Writes the code of `proto/*.proto` into the package, with the protoc that grpcio-tools brings along.

    pip install grpcio-tools && python generate.py

A test says if what is there is not what this makes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
PROTO = HERE.parents[1] / "proto"
INTO = HERE / "src" / "telemetryx_brain" / "_proto"
NAMES = ["events", "brain"]


def generate() -> dict[str, str]:
    """Make the files; their texts by name."""
    from grpc_tools import protoc

    with TemporaryDirectory() as folder:
        sources = [f"{name}.proto" for name in NAMES]
        code = protoc.main(["protoc", f"-I{PROTO}", f"--python_out={folder}", f"--pyi_out={folder}", *sources])
        if code:
            sys.exit(code)
        made = {path.name: path.read_text() for path in sorted(Path(folder).iterdir())}
    # protoc knows of no package around its files.
    return {name: re.sub(r"^import (\w+_pb2)", r"from . import \1", text, flags=re.M) for name, text in made.items()}


if __name__ == "__main__":
    for name, text in generate().items():
        (INTO / name).write_text(text)
        print(INTO / name)
