import type { MessageInitShape } from "@bufbuild/protobuf";
import { plain } from "./admin-records.js";
import { pageRequest, there, type TenantOptions, type TenantPageOptions } from "./base-client.js";
import {
  BackfillScheduleResponseSchema,
  RecomputeScheduleResponseSchema,
  ScheduleFireSchema,
  ScheduleSchema,
  ScheduleService,
  type ScheduleSpecSchema,
} from "./gen/codeq/v1/schedule_service_pb.js";
import { pages, type Page } from "./paging.js";
import { encode } from "./payloads.js";
import { times } from "./requests.js";
import type { Backfilled, Recomputed, Schedule, ScheduleFire, ScheduleSpec } from "./schedule-records.js";
import { TopicClient } from "./topic-client.js";

/** Largest payload of a schedule in bytes. */
const PAYLOAD_BYTES_MAX = 65_536;

/** Calls about schedules; a base of `Client`. */
export abstract class ScheduleClient extends TopicClient {
  /** Reads a page of schedules, without their next instants. */
  async schedulesPage(options: TenantPageOptions = {}): Promise<Page<Schedule>> {
    const reply = await this.send(ScheduleService.method.listSchedules, pageRequest(options), options);
    const items = reply.schedules.map((each) => plain<Schedule>(ScheduleSchema, each));
    return { items, nextPageToken: reply.nextPageToken };
  }

  /** Yields schedules by name, page by page, without their next instants. */
  schedules(options: TenantPageOptions = {}): AsyncGenerator<Schedule, void, undefined> {
    return pages((pageToken) => this.schedulesPage({ ...options, pageToken }), options.pageToken);
  }

  /** Reads a schedule. */
  async schedule(name: string, options: TenantOptions = {}): Promise<Schedule> {
    const reply = await this.send(ScheduleService.method.getSchedule, of(name, options), options);
    return plain<Schedule>(ScheduleSchema, there(reply.schedule, "schedule"));
  }

  /** Creates a schedule or replaces its definition; one that equals the stored one changes nothing. */
  async putSchedule(name: string, spec: ScheduleSpec, options: TenantOptions = {}): Promise<Schedule> {
    const request = { ...of(name, options), spec: specOf(spec) };
    const reply = await this.send(ScheduleService.method.putSchedule, request, options);
    return plain<Schedule>(ScheduleSchema, there(reply.schedule, "schedule"));
  }

  /** Removes a schedule and its history; its tasks stay. */
  async deleteSchedule(name: string, options: TenantOptions = {}): Promise<void> {
    await this.send(ScheduleService.method.deleteSchedule, of(name, options), options);
  }

  /** Stops a schedule from firing until it is resumed. */
  async pauseSchedule(name: string, options: TenantOptions = {}): Promise<Schedule> {
    const reply = await this.send(ScheduleService.method.pauseSchedule, of(name, options), options);
    return plain<Schedule>(ScheduleSchema, there(reply.schedule, "schedule"));
  }

  /** Lets a schedule fire again; `misfire` of its definition says what happens to the instants of the pause. */
  async resumeSchedule(name: string, options: TenantOptions = {}): Promise<Schedule> {
    const reply = await this.send(ScheduleService.method.resumeSchedule, of(name, options), options);
    return plain<Schedule>(ScheduleSchema, there(reply.schedule, "schedule"));
  }

  /** Creates a task of a schedule now, even if the schedule is paused. Each call creates one. */
  async triggerSchedule(name: string, options: TenantOptions = {}): Promise<ScheduleFire> {
    const reply = await this.send(ScheduleService.method.triggerSchedule, of(name, options), options);
    return plain<ScheduleFire>(ScheduleFireSchema, there(reply.fire, "fire"));
  }

  /** Creates the tasks of the past instants from a time, inclusive, to a time, exclusive: at most 1000. */
  async backfillSchedule(name: string, from: Date, to: Date, options: TenantOptions = {}): Promise<Backfilled> {
    const request = { ...of(name, options), ...times({ from, to }) };
    const reply = await this.send(ScheduleService.method.backfillSchedule, request, options);
    return plain<Backfilled>(BackfillScheduleResponseSchema, reply);
  }

  /** Reads the last 100 tasks that a schedule created, the latest first. */
  async scheduleHistory(name: string, options: TenantOptions = {}): Promise<ScheduleFire[]> {
    const reply = await this.send(ScheduleService.method.getScheduleHistory, of(name, options), options);
    return reply.fires.map((each) => plain<ScheduleFire>(ScheduleFireSchema, each));
  }

  /** Computes the stored instants of a schedule again, with the server's present data of time zones. */
  async recomputeSchedule(name: string, options: TenantOptions = {}): Promise<Recomputed> {
    const reply = await this.send(ScheduleService.method.recomputeSchedule, of(name, options), options);
    return plain<Recomputed>(RecomputeScheduleResponseSchema, reply);
  }
}

function of(name: string, options: TenantOptions): { name: string; tenant: string } {
  return { name, tenant: options.tenant ?? "" };
}

function specOf(spec: ScheduleSpec): MessageInitShape<typeof ScheduleSpecSchema> {
  const { at, startAt, endAt, payload, ...rest } = spec;
  const data = encode(payload, "payload", PAYLOAD_BYTES_MAX);
  // Values that are undefined are left out when the message is made.
  return { ...(rest as MessageInitShape<typeof ScheduleSpecSchema>), payload: data, ...times({ at, startAt, endAt }) };
}
