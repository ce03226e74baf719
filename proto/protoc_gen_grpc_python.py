"""A protoc plugin around the gRPC Python generator that grpcio-tools carries and ships no plugin for.

Reads a CodeGeneratorRequest from standard input, lets grpc_tools.protoc write *_pb2_grpc.py from its descriptors,
and writes the files as a CodeGeneratorResponse to standard output.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

from google.protobuf.compiler import plugin_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc


def generate(request: plugin_pb2.CodeGeneratorRequest) -> plugin_pb2.CodeGeneratorResponse:
    """Returns the *_pb2_grpc.py files of the request's files that define services."""
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    wanted = {f.name for f in request.proto_file if f.service} & set(request.file_to_generate)
    if not wanted:
        return response
    with tempfile.TemporaryDirectory() as folder:
        descriptors = pathlib.Path(folder, "in.binpb")
        descriptors.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        out = pathlib.Path(folder, "out")
        out.mkdir()
        status = protoc.main(
            ["protoc", f"--descriptor_set_in={descriptors}", f"--grpc_python_out={out}", *sorted(wanted)]
        )
        if status:
            response.error = f"grpc_tools.protoc ended with {status}"
        for path in sorted(p for p in out.rglob("*.py")):
            response.file.add(name=path.relative_to(out).as_posix(), content=path.read_text())
    return response


if __name__ == "__main__":
    reply = generate(plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(reply.SerializeToString())
