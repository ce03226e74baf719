"""The protos of calls as a server of another version would describe them."""

from __future__ import annotations

from codeq_gateway.reflection import CALL_FILE
from google.protobuf import descriptor_pb2, descriptor_pool

Files = dict[str, descriptor_pb2.FileDescriptorProto]


def files_of_calls() -> Files:
    """Returns the files of calls and of error reasons by name, each before those that it imports, to be changed."""
    files: Files = {}
    pending = [descriptor_pool.Default().FindFileByName(name) for name in (CALL_FILE, "codeq/v1/error.proto")]
    while pending:
        described = pending.pop()
        described.CopyToProto(files.setdefault(described.name, descriptor_pb2.FileDescriptorProto()))
        pending += described.dependencies
    return files


def pool_of(files: Files) -> descriptor_pool.DescriptorPool:
    """Returns a pool with the files."""
    pool = descriptor_pool.DescriptorPool()
    for content in reversed(files.values()):
        pool.AddSerializedFile(content.SerializeToString())
    return pool
