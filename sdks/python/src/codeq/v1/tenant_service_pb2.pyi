from buf.validate import validate_pb2 as _validate_pb2
from codeq.options.v1 import options_pb2 as _options_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RateLimit(_message.Message):
    __slots__ = ("requests_per_minute", "burst_size")
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    BURST_SIZE_FIELD_NUMBER: _ClassVar[int]
    requests_per_minute: int
    burst_size: int
    def __init__(self, requests_per_minute: _Optional[int] = ..., burst_size: _Optional[int] = ...) -> None: ...

class TenantLimits(_message.Message):
    __slots__ = ("producer", "worker", "admin", "producer_token", "worker_token", "admin_token", "waiting_tasks_max", "stored_bytes_max", "leases_max", "queues_max", "streams_max", "new_queues_per_minute")
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WORKER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ADMIN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WAITING_TASKS_MAX_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    LEASES_MAX_FIELD_NUMBER: _ClassVar[int]
    QUEUES_MAX_FIELD_NUMBER: _ClassVar[int]
    STREAMS_MAX_FIELD_NUMBER: _ClassVar[int]
    NEW_QUEUES_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    producer: RateLimit
    worker: RateLimit
    admin: RateLimit
    producer_token: RateLimit
    worker_token: RateLimit
    admin_token: RateLimit
    waiting_tasks_max: int
    stored_bytes_max: int
    leases_max: int
    queues_max: int
    streams_max: int
    new_queues_per_minute: int
    def __init__(self, producer: _Optional[_Union[RateLimit, _Mapping]] = ..., worker: _Optional[_Union[RateLimit, _Mapping]] = ..., admin: _Optional[_Union[RateLimit, _Mapping]] = ..., producer_token: _Optional[_Union[RateLimit, _Mapping]] = ..., worker_token: _Optional[_Union[RateLimit, _Mapping]] = ..., admin_token: _Optional[_Union[RateLimit, _Mapping]] = ..., waiting_tasks_max: _Optional[int] = ..., stored_bytes_max: _Optional[int] = ..., leases_max: _Optional[int] = ..., queues_max: _Optional[int] = ..., streams_max: _Optional[int] = ..., new_queues_per_minute: _Optional[int] = ...) -> None: ...

class TenantUsage(_message.Message):
    __slots__ = ("waiting_tasks", "leases", "stored_bytes", "queues", "streams", "created_total", "delivered_total", "completed_total", "failed_total", "accepted_bytes_total", "rate_limited_total", "quota_refused_total")
    WAITING_TASKS_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    CREATED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FAILED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    RATE_LIMITED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    QUOTA_REFUSED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    waiting_tasks: int
    leases: int
    stored_bytes: int
    queues: int
    streams: int
    created_total: int
    delivered_total: int
    completed_total: int
    failed_total: int
    accepted_bytes_total: int
    rate_limited_total: int
    quota_refused_total: int
    def __init__(self, waiting_tasks: _Optional[int] = ..., leases: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., queues: _Optional[int] = ..., streams: _Optional[int] = ..., created_total: _Optional[int] = ..., delivered_total: _Optional[int] = ..., completed_total: _Optional[int] = ..., failed_total: _Optional[int] = ..., accepted_bytes_total: _Optional[int] = ..., rate_limited_total: _Optional[int] = ..., quota_refused_total: _Optional[int] = ...) -> None: ...

class Tenant(_message.Message):
    __slots__ = ("name", "limits", "effective", "usage")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    limits: TenantLimits
    effective: TenantLimits
    usage: TenantUsage
    def __init__(self, name: _Optional[str] = ..., limits: _Optional[_Union[TenantLimits, _Mapping]] = ..., effective: _Optional[_Union[TenantLimits, _Mapping]] = ..., usage: _Optional[_Union[TenantUsage, _Mapping]] = ...) -> None: ...

class ListTenantsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTenantsResponse(_message.Message):
    __slots__ = ("tenants", "next_page_token")
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenants: _containers.RepeatedCompositeFieldContainer[Tenant]
    next_page_token: str
    def __init__(self, tenants: _Optional[_Iterable[_Union[Tenant, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetTenantRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetTenantResponse(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ...) -> None: ...

class UpdateTenantRequest(_message.Message):
    __slots__ = ("name", "limits", "inherit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    INHERIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    limits: TenantLimits
    inherit: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., limits: _Optional[_Union[TenantLimits, _Mapping]] = ..., inherit: _Optional[_Iterable[str]] = ...) -> None: ...

class UpdateTenantResponse(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ...) -> None: ...

class GetUsageRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class GetUsageResponse(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ...) -> None: ...
