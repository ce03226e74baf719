from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.rpc import code_pb2 as _code_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Principal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRINCIPAL_UNSPECIFIED: _ClassVar[Principal]
    PRINCIPAL_PRODUCER: _ClassVar[Principal]
    PRINCIPAL_WORKER: _ClassVar[Principal]
    PRINCIPAL_ANY: _ClassVar[Principal]
    PRINCIPAL_ADMIN: _ClassVar[Principal]
    PRINCIPAL_OPERATOR: _ClassVar[Principal]
    PRINCIPAL_VIEWER: _ClassVar[Principal]
PRINCIPAL_UNSPECIFIED: Principal
PRINCIPAL_PRODUCER: Principal
PRINCIPAL_WORKER: Principal
PRINCIPAL_ANY: Principal
PRINCIPAL_ADMIN: Principal
PRINCIPAL_OPERATOR: Principal
PRINCIPAL_VIEWER: Principal
ACCESS_FIELD_NUMBER: _ClassVar[int]
access: _descriptor.FieldDescriptor
REST_REPLY_FIELD_NUMBER: _ClassVar[int]
rest_reply: _descriptor.FieldDescriptor
JSON_EMBEDDED_FIELD_NUMBER: _ClassVar[int]
json_embedded: _descriptor.FieldDescriptor
JSON_IGNORED_FIELD_NUMBER: _ClassVar[int]
json_ignored: _descriptor.FieldDescriptor
HTTP_HEADER_FIELD_NUMBER: _ClassVar[int]
http_header: _descriptor.FieldDescriptor
FREE_TEXT_FIELD_NUMBER: _ClassVar[int]
free_text: _descriptor.FieldDescriptor
OMIT_EMPTY_FIELD_NUMBER: _ClassVar[int]
omit_empty: _descriptor.FieldDescriptor
KEPT_FIELD_NUMBER: _ClassVar[int]
kept: _descriptor.FieldDescriptor
IDENTIFIES_REQUEST_FIELD_NUMBER: _ClassVar[int]
identifies_request: _descriptor.FieldDescriptor
CONTENT_FIELD_NUMBER: _ClassVar[int]
content: _descriptor.FieldDescriptor
IN_QUERY_FIELD_NUMBER: _ClassVar[int]
in_query: _descriptor.FieldDescriptor
FORM_FIELD_NUMBER: _ClassVar[int]
form: _descriptor.FieldDescriptor
GRPC_CODE_FIELD_NUMBER: _ClassVar[int]
grpc_code: _descriptor.FieldDescriptor
HTTP_STATUS_FIELD_NUMBER: _ClassVar[int]
http_status: _descriptor.FieldDescriptor
RETRYABLE_FIELD_NUMBER: _ClassVar[int]
retryable: _descriptor.FieldDescriptor

class Access(_message.Message):
    __slots__ = ("principal", "scope", "content")
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    principal: Principal
    scope: str
    content: bool
    def __init__(self, principal: _Optional[_Union[Principal, str]] = ..., scope: _Optional[str] = ..., content: _Optional[bool] = ...) -> None: ...

class RestReply(_message.Message):
    __slots__ = ("status", "empty_status", "status_if_field", "download")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EMPTY_STATUS_FIELD_NUMBER: _ClassVar[int]
    STATUS_IF_FIELD_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    status: int
    empty_status: int
    status_if_field: StatusIfField
    download: Download
    def __init__(self, status: _Optional[int] = ..., empty_status: _Optional[int] = ..., status_if_field: _Optional[_Union[StatusIfField, _Mapping]] = ..., download: _Optional[_Union[Download, _Mapping]] = ...) -> None: ...

class Download(_message.Message):
    __slots__ = ("content_field", "type_field", "name_field")
    CONTENT_FIELD_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_FIELD_NUMBER: _ClassVar[int]
    content_field: str
    type_field: str
    name_field: str
    def __init__(self, content_field: _Optional[str] = ..., type_field: _Optional[str] = ..., name_field: _Optional[str] = ...) -> None: ...

class StatusIfField(_message.Message):
    __slots__ = ("field", "status")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    field: str
    status: int
    def __init__(self, field: _Optional[str] = ..., status: _Optional[int] = ...) -> None: ...
