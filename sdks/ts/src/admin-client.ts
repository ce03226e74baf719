import {
  plain,
  type AuditRecord,
  type Backup,
  type ConnectedWorker,
  type DeadLetters,
  type Queue,
  type Redriven,
  type ServerInfo,
  type Tenant,
  type TenantLimits,
  type Topology,
} from "./admin-records.js";
import { pageRequest, there, type PageOptions, type TenantOptions, type TenantPageOptions } from "./base-client.js";
import { CallbackClient } from "./callback-client.js";
import { AuditRecordSchema, AuditService } from "./gen/codeq/v1/audit_service_pb.js";
import { ClusterService, TopologySchema, type RaftStatus } from "./gen/codeq/v1/cluster_service_pb.js";
import {
  ConnectedWorkerSchema,
  ListDeadLettersResponseSchema,
  QueueSchema,
  QueueService,
  RedriveTasksResponseSchema,
} from "./gen/codeq/v1/queue_service_pb.js";
import { BackupSchema, ServerInfoSchema, ServerService } from "./gen/codeq/v1/server_service_pb.js";
import { TaskService } from "./gen/codeq/v1/task_service_pb.js";
import { TaskStatus as WireStatus } from "./gen/codeq/v1/task_pb.js";
import { TenantSchema, TenantService } from "./gen/codeq/v1/tenant_service_pb.js";
import { pages, type Page } from "./paging.js";
import type { Task } from "./records.js";
import { times } from "./requests.js";
import type { CallOptions } from "./unary.js";

/** Options of a list of dead letters. */
export interface DeadLetterOptions extends TenantPageOptions {
  /** Which come first. Default: oldest. */
  readonly orderBy?: "oldest" | "newest" | undefined;
}

/** Which ended tasks of a queue to redrive, and how. */
export interface RedriveOptions extends TenantOptions {
  /** Their status. Default: DLQ. */
  readonly status?: "DLQ" | "FAILED" | "CANCELLED" | undefined;
  /** Text that their error contains. Default: any. */
  readonly errorContains?: string | undefined;
  /** Earliest time of their end, inclusive. Default: no limit. */
  readonly endedFrom?: Date | undefined;
  /** Latest time of their end, exclusive. Default: no limit. */
  readonly endedTo?: Date | undefined;
  /** Their ids, at most 1000. Default: all. */
  readonly taskIds?: readonly string[] | undefined;
  /** Only count them. Default: false. */
  readonly dryRun?: boolean | undefined;
  /** Most tasks of this call, 1 to 10000; not together with `rate`. Default: 1000. */
  readonly limit?: number | undefined;
  /** Tasks per second, 1 to 10000, in the background. Default: at once. */
  readonly rate?: number | undefined;
  /** `nextPageToken` of an earlier call. Default: from the beginning. */
  readonly pageToken?: string | undefined;
}

/** Options of a cleanup. */
export interface CleanupOptions extends TenantOptions {
  /** Most tasks to remove, 1 to 10000. Default: 1000. */
  readonly limit?: number | undefined;
  /** `nextPageToken` of an earlier call. Default: from the beginning. */
  readonly pageToken?: string | undefined;
}

/** Which audit records to list. */
export interface AuditOptions extends TenantPageOptions {
  /** Name of an RPC. Default: all. */
  readonly call?: string | undefined;
  /** Subject of the callers. Default: all. */
  readonly subject?: string | undefined;
  /** Which come first. Default: newest. */
  readonly orderBy?: "oldest" | "newest" | undefined;
  /** Earliest time, inclusive. Default: no limit. */
  readonly from?: Date | undefined;
  /** Latest time, exclusive. Default: no limit. */
  readonly to?: Date | undefined;
}

/** Calls about queues, tenants and servers; a base of `Client`. */
export abstract class AdminClient extends CallbackClient {
  /** Reads a page of queues. */
  async queuesPage(options: TenantPageOptions = {}): Promise<Page<Queue>> {
    const request = pageRequest(options);
    const reply = await this.send(QueueService.method.listQueues, request, options);
    return { items: reply.queues.map((each) => plain<Queue>(QueueSchema, each)), nextPageToken: reply.nextPageToken };
  }

  /** Yields queues by name, page by page. */
  queues(options: TenantPageOptions = {}): AsyncGenerator<Queue, void, undefined> {
    return pages((pageToken) => this.queuesPage({ ...options, pageToken }), options.pageToken);
  }

  /** Reads a page of the workers that are connected by streams; callers that claim with single calls are not. */
  async workersPage(options: TenantPageOptions = {}): Promise<Page<ConnectedWorker>> {
    const request = pageRequest(options);
    const reply = await this.send(QueueService.method.listWorkers, request, options);
    const items = reply.workers.map((each) => plain<ConnectedWorker>(ConnectedWorkerSchema, each));
    return { items, nextPageToken: reply.nextPageToken };
  }

  /** Yields the connected workers, longest connected first, page by page. */
  workers(options: TenantPageOptions = {}): AsyncGenerator<ConnectedWorker, void, undefined> {
    return pages((pageToken) => this.workersPage({ ...options, pageToken }), options.pageToken);
  }

  /** Reads a queue. */
  async queue(command: string, options: TenantOptions = {}): Promise<Queue> {
    const reply = await this.send(QueueService.method.getQueue, of(command, options), options);
    return plain<Queue>(QueueSchema, there(reply.queue, "queue"));
  }

  /** Stops all deliveries from a queue, which is created if it does not exist. Leased tasks carry on. */
  async pauseQueue(command: string, options: TenantOptions = {}): Promise<Queue> {
    const reply = await this.send(QueueService.method.pauseQueue, of(command, options), options);
    return plain<Queue>(QueueSchema, there(reply.queue, "queue"));
  }

  /** Resumes the deliveries of a queue. */
  async resumeQueue(command: string, options: TenantOptions = {}): Promise<Queue> {
    const reply = await this.send(QueueService.method.resumeQueue, of(command, options), options);
    return plain<Queue>(QueueSchema, there(reply.queue, "queue"));
  }

  /** Cancels every task that waits in a queue now, in the background. */
  async purgeQueue(command: string, options: TenantOptions = {}): Promise<Queue> {
    const reply = await this.send(QueueService.method.purgeQueue, of(command, options), options);
    return plain<Queue>(QueueSchema, there(reply.queue, "queue"));
  }

  /** Reads a page of dead letters; the first one groups them by error. */
  async deadLettersPage(command: string, options: DeadLetterOptions = {}): Promise<DeadLetters> {
    const request = { ...pageRequest(options), command, orderBy: options.orderBy ?? "" };
    const reply = await this.send(QueueService.method.listDeadLetters, request, options);
    return plain<DeadLetters>(ListDeadLettersResponseSchema, reply);
  }

  /** Yields the dead letters of a queue, page by page. */
  deadLetters(command: string, options: DeadLetterOptions = {}): AsyncGenerator<Task, void, undefined> {
    const read = async (pageToken: string): Promise<Page<Task>> => {
      const { tasks, nextPageToken } = await this.deadLettersPage(command, { ...options, pageToken });
      return { items: tasks, nextPageToken };
    };
    return pages(read, options.pageToken);
  }

  /** Moves ended tasks back to the tail of their queue. Without a rate, repeat the call with its token until that is empty. */
  async redriveQueue(command: string, options: RedriveOptions = {}): Promise<Redriven> {
    const { status = "DLQ", errorContains = "", endedFrom, endedTo, taskIds = [], dryRun = false } = options;
    const { limit = 0, rate = 0, pageToken = "", tenant = "" } = options;
    const filters = { status: WireStatus[status], errorContains, taskIds: [...taskIds], ...times({ endedFrom, endedTo }) };
    const request = { command, tenant, ...filters, dryRun, limit, rate, pageToken };
    const reply = await this.send(QueueService.method.redriveTasks, request, options);
    return plain<Redriven>(RedriveTasksResponseSchema, reply);
  }

  /** Removes tasks that ended before a time; repeat it with the token until that is empty. */
  async cleanup(before: Date, options: CleanupOptions = {}): Promise<{ deleted: number; nextPageToken: string }> {
    const { limit = 0, pageToken = "", tenant = "" } = options;
    const request = { ...times({ before }), limit, pageToken, tenant };
    const reply = await this.send(TaskService.method.cleanupTasks, request, options);
    return { deleted: reply.deleted, nextPageToken: reply.nextPageToken };
  }

  /** Reads what a tenant uses, and its limits. */
  async usage(options: TenantOptions = {}): Promise<Tenant> {
    const request = { tenant: options.tenant ?? "" };
    const reply = await this.send(TenantService.method.getUsage, request, options);
    return plain<Tenant>(TenantSchema, there(reply.tenant, "tenant"));
  }

  /** Reads a page of tenants; for operators. */
  async tenantsPage(options: PageOptions = {}): Promise<Page<Tenant>> {
    const { pageSize = 0, pageToken = "" } = options;
    const reply = await this.send(TenantService.method.listTenants, { pageSize, pageToken }, options);
    return { items: reply.tenants.map((each) => plain<Tenant>(TenantSchema, each)), nextPageToken: reply.nextPageToken };
  }

  /** Yields tenants, page by page; for operators. */
  tenants(options: PageOptions = {}): AsyncGenerator<Tenant, void, undefined> {
    return pages((pageToken) => this.tenantsPage({ ...options, pageToken }), options.pageToken);
  }

  /** Reads a tenant, or with `_default` the limits of all tenants without limits of their own; for operators. */
  async tenant(name: string, options: CallOptions = {}): Promise<Tenant> {
    const reply = await this.send(TenantService.method.getTenant, { name }, options);
    return plain<Tenant>(TenantSchema, there(reply.tenant, "tenant"));
  }

  /** Changes limits of a tenant; undefined ones stay, and those named in `inherit` are inherited from now on. For operators. */
  async updateTenant(
    name: string,
    limits: TenantLimits = {},
    options: CallOptions & { readonly inherit?: readonly (keyof TenantLimits)[] } = {},
  ): Promise<Tenant> {
    const given = Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined));
    const request = { name, limits: given, inherit: [...(options.inherit ?? [])] };
    const reply = await this.send(TenantService.method.updateTenant, request, options);
    return plain<Tenant>(TenantSchema, there(reply.tenant, "tenant"));
  }

  /** Reads a page of audit records. */
  async auditPage(options: AuditOptions = {}): Promise<Page<AuditRecord>> {
    const { call = "", subject = "", orderBy = "", from, to } = options;
    const request = { ...pageRequest(options), call, subject, orderBy, ...times({ from, to }) };
    const reply = await this.send(AuditService.method.listAuditRecords, request, options);
    const items = reply.records.map((each) => plain<AuditRecord>(AuditRecordSchema, each));
    return { items, nextPageToken: reply.nextPageToken };
  }

  /** Yields audit records, page by page. */
  audit(options: AuditOptions = {}): AsyncGenerator<AuditRecord, void, undefined> {
    return pages((pageToken) => this.auditPage({ ...options, pageToken }), options.pageToken);
  }

  /** Reads the server's version, mode and limits. */
  async serverInfo(options: CallOptions = {}): Promise<ServerInfo> {
    const reply = await this.send(ServerService.method.getServerInfo, {}, options);
    return plain<ServerInfo>(ServerInfoSchema, there(reply.server, "server"));
  }

  /** Makes a backup on the server; for operators. */
  async backUp(name: string, options: CallOptions = {}): Promise<Backup> {
    const reply = await this.send(ServerService.method.backUp, { name }, options);
    return plain<Backup>(BackupSchema, there(reply.backup, "backup"));
  }

  /** Reads the members of the cluster. */
  async topology(options: CallOptions = {}): Promise<Topology> {
    const reply = await this.send(ClusterService.method.getTopology, {}, options);
    return plain<Topology>(TopologySchema, there(reply.topology, "topology"));
  }

  /** Reads the state of replication, as generated messages. */
  async raftStatus(options: CallOptions = {}): Promise<RaftStatus> {
    const reply = await this.send(ClusterService.method.getRaftStatus, {}, options);
    return there(reply.status, "status");
  }

  /** Adds a node to the cluster; for operators. */
  async addMember(
    id: string,
    raftAddr: string,
    options: CallOptions & { readonly replace?: boolean } = {},
  ): Promise<RaftStatus> {
    const request = { id, raftAddr, replace: options.replace ?? false };
    const reply = await this.send(ClusterService.method.addMember, request, options);
    return there(reply.status, "status");
  }

  /** Removes a member from the cluster; for operators. */
  async removeMember(id: string, options: CallOptions = {}): Promise<RaftStatus> {
    const reply = await this.send(ClusterService.method.removeMember, { id }, options);
    return there(reply.status, "status");
  }

  /** Makes another voter the leader; for operators. Default: the one with the most complete log. */
  async transferLeadership(id = "", options: CallOptions = {}): Promise<RaftStatus> {
    const reply = await this.send(ClusterService.method.transferLeadership, { id }, options);
    return there(reply.status, "status");
  }
}

function of(command: string, options: TenantOptions): { command: string; tenant: string } {
  return { command, tenant: options.tenant ?? "" };
}
