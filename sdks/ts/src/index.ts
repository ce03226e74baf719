/** The SDK of codeq: create tasks, work on them, and manage them. */
export type { BatchOptions, CreateAllOptions, CreateOptions, ProducerOptions } from "./producer.js";
export { Producer } from "./producer.js";
export type { CreateResult } from "./producer-frames.js";
export type { NewTask, TaskOptions } from "./new-tasks.js";
export type { WorkerOptions } from "./worker.js";
export { Worker } from "./worker.js";
export type { WorkerStats } from "./worker-tasks.js";
export type { Handler, HandlerContext, HandlerOptions } from "./worker-handlers.js";
export type {
  ClaimOptions,
  LeaseOf,
  ListOptions,
  SingleBatchOptions,
  SingleCreateOptions,
  WaitOptions,
} from "./client.js";
export { Client } from "./client.js";
export type { ClientOptions, PageOptions, TenantOptions, TenantPageOptions } from "./base-client.js";
export type { AuditOptions, CleanupOptions, DeadLetterOptions, RedriveOptions } from "./admin-client.js";
export { AdminClient } from "./admin-client.js";
export type { CallbackOptions, EndpointOptions, RetryCallbacksOptions } from "./callback-client.js";
export type { SubscriptionOptions } from "./subscription-client.js";
export type { Page } from "./paging.js";
export type { CallOptions } from "./unary.js";
export type * from "./admin-records.js";
export type * from "./callback-records.js";
export type * from "./schedule-records.js";
export type * from "./subscription-records.js";
export type * from "./topic-records.js";
export type { Artifact, Attempt, AttemptEnd, StopKind, TaskStatus } from "./records.js";
export { DeliveredTask, Task, TaskResult, TaskStopped } from "./records.js";
export type { NewArtifact, Outcome } from "./outcomes.js";
export { Abandon, Completed, Failed, Nack, NonRetryable, ParkKey, RetryAfter, Snooze } from "./outcomes.js";
export type { ClientReason, ErrorDetails, FieldViolation, Reason } from "./errors.js";
export { CodeqError, isCodeqError } from "./errors.js";
export type { ServerReason } from "./reasons.js";
export { REASONS } from "./reasons.js";
export { RawJson } from "./payloads.js";
export type { ConnectionOptions, Token } from "./endpoint.js";
export type { Tls, TlsFiles } from "./tls.js";
export type { Logger } from "./logger.js";
export type { EndKind, Metrics, Middleware, Telemetry, TraceContext } from "./hooks.js";
export type { SchemaIssue, SchemaResult, StandardSchema } from "./schema.js";
export type { Defaults } from "./defaults.js";
export { defaults } from "./defaults.js";
export type { WebhookHeaders } from "./webhooks.js";
export { WEBHOOK_TOLERANCE_SECONDS, WebhookRejected, verifyWebhook } from "./webhooks.js";
export { PROTOCOL, SDK_NAME, VERSION } from "./version.js";
