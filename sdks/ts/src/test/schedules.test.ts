import assert from "node:assert/strict";
import { test } from "node:test";
import { create, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Client } from "../client.js";
import { isCodeqError } from "../errors.js";
import {
  BackfillScheduleRequestSchema,
  BackfillScheduleResponseSchema,
  DeleteScheduleResponseSchema,
  GetScheduleHistoryResponseSchema,
  GetScheduleResponseSchema,
  ListSchedulesRequestSchema,
  ListSchedulesResponseSchema,
  PauseScheduleRequestSchema,
  PauseScheduleResponseSchema,
  PutScheduleRequestSchema,
  PutScheduleResponseSchema,
  RecomputeScheduleResponseSchema,
  ResumeScheduleResponseSchema,
  ScheduleFireKind,
  TriggerScheduleResponseSchema,
  type PutScheduleRequest,
} from "../gen/codeq/v1/schedule_service_pb.js";
import { RawJson } from "../payloads.js";
import type { ScheduleSpec } from "../schedule-records.js";
import { ScriptedServer } from "./scripted-server.js";
import { KeptLogger } from "./support.js";

const BYTES = new TextEncoder();
const START = new Date("2031-02-03T04:05:06.789Z");
const END = new Date("2031-03-03T04:05:06.789Z");

function clientOf(address: string): Client {
  return new Client({ addresses: address, token: "t", timeoutSeconds: 10, logger: new KeptLogger() });
}

test("a definition is sent with every field, and read as it was sent", async () => {
  const sent: PutScheduleRequest[] = [];
  await using server = await ScriptedServer.start({
    PutSchedule: async (call) => {
      const request = await call.read(PutScheduleRequestSchema);
      if (request === undefined) return;
      sent.push(request);
      call.send(PutScheduleResponseSchema, { schedule: { name: request.name, spec: request.spec!, next: ["2031-02-04T06:00:00+01:00"] } });
      call.ok();
    },
  });
  await using client = clientOf(server.address);
  const spec: ScheduleSpec = {
    cron: "0 6 * * *",
    timeZone: "Europe/Berlin",
    command: "REPORT",
    payload: new RawJson('{"n":9007199254740993}'),
    priority: 3,
    maxAttempts: 7,
    delaySeconds: 1,
    expireSeconds: 60,
    overlap: "queueOne",
    misfire: "all",
    misfireMax: 5,
    jitterSeconds: 4,
    startAt: START,
    endAt: END,
    paused: true,
  };
  const wanted: MessageInitShape<typeof PutScheduleRequestSchema> = {
    name: "daily",
    tenant: "shop",
    spec: {
      cron: "0 6 * * *",
      timeZone: "Europe/Berlin",
      command: "REPORT",
      payload: BYTES.encode('{"n":9007199254740993}'),
      priority: 3,
      maxAttempts: 7,
      delaySeconds: 1,
      expireSeconds: 60,
      overlap: "queueOne",
      misfire: "all",
      misfireMax: 5,
      jitterSeconds: 4,
      startAt: timestampFromDate(START),
      endAt: timestampFromDate(END),
      paused: true,
    },
  };
  const schedule = await client.putSchedule("daily", spec, { tenant: "shop" });
  const bytes = (request: PutScheduleRequest | undefined) => request && Buffer.from(toBinary(PutScheduleRequestSchema, request));
  assert.deepEqual(bytes(sent[0]), bytes(create(PutScheduleRequestSchema, wanted)));
  assert.deepEqual(schedule.spec, { every: undefined, at: undefined, ...spec });
  assert.deepEqual(schedule.next, ["2031-02-04T06:00:00+01:00"]);
  await client.putSchedule("daily", schedule.spec, { tenant: "shop" });
  assert.deepEqual(bytes(sent[1]), bytes(sent[0]), "what was read can be put again");
  await client.putSchedule("once", { at: END, command: "REPORT" });
  assert.deepEqual(
    bytes(sent[2]),
    bytes(create(PutScheduleRequestSchema, { name: "once", spec: { at: timestampFromDate(END), command: "REPORT", payload: BYTES.encode("null") } })),
  );
});

test("a definition that cannot be sent is refused, and its field named", async () => {
  await using server = await ScriptedServer.start();
  await using client = clientOf(server.address);
  const refused: [string, string, object][] = [
    ["at", "INVALID_ARGUMENT", { at: new Date("x") }],
    ["payload", "INVALID_ARGUMENT", { payload: 1n }],
    ["payload", "TOO_LARGE", { payload: "x".repeat(65_536) }],
    ["jitterSeconds", "INVALID_ARGUMENT", { jitterSeconds: 0.5 }],
  ];
  for (const [field, reason, spec] of refused) {
    await assert.rejects(
      client.putSchedule("daily", { command: "A", ...spec }),
      (error) => isCodeqError(error) && error.reason === reason && error.violations[0]?.field === field,
      field,
    );
  }
  assert.equal(server.count("PutSchedule"), 0);
});

test("schedules are read, paused, resumed, listed and deleted", async () => {
  const schedule = { name: "daily", spec: { every: "90s", payload: new Uint8Array() }, firedTotal: 2n ** 60n };
  let paused: (string | undefined)[] = [];
  await using server = await ScriptedServer.start({
    GetSchedule: (call) => {
      call.send(GetScheduleResponseSchema, { schedule });
      call.ok();
    },
    PauseSchedule: async (call) => {
      const request = await call.read(PauseScheduleRequestSchema);
      paused = [request?.name, request?.tenant];
      call.send(PauseScheduleResponseSchema, { schedule: { ...schedule, spec: { ...schedule.spec, paused: true } } });
      call.ok();
    },
    ResumeSchedule: (call) => {
      call.send(ResumeScheduleResponseSchema, { schedule });
      call.ok();
    },
    DeleteSchedule: (call) => {
      call.send(DeleteScheduleResponseSchema, {});
      call.ok();
    },
    ListSchedules: async (call) => {
      const request = await call.read(ListSchedulesRequestSchema);
      const schedules = [{ ...schedule, name: `${request?.tenant}${request?.pageToken}` }];
      call.send(ListSchedulesResponseSchema, { schedules, nextPageToken: request?.pageToken === "" ? "next" : "" });
      call.ok();
    },
  });
  await using client = clientOf(server.address);
  const read = await client.schedule("daily");
  assert.deepEqual([read.spec.every, read.spec.payload.text, read.firedTotal, read.queuedAt], ["90s", "null", 2n ** 60n, undefined]);
  assert.equal((await client.pauseSchedule("daily", { tenant: "shop" })).spec.paused, true);
  assert.deepEqual(paused, ["daily", "shop"]);
  assert.equal((await client.resumeSchedule("daily")).spec.paused, false);
  const names: string[] = [];
  for await (const { name } of client.schedules({ tenant: "shop" })) names.push(name);
  assert.deepEqual(names, ["shop", "shopnext"]);
  assert.equal(await client.deleteSchedule("daily"), undefined);
});

test("fires are triggered, backfilled and listed with the reason for each", async () => {
  let range: unknown[] = [];
  await using server = await ScriptedServer.start({
    TriggerSchedule: (call) => {
      call.send(TriggerScheduleResponseSchema, { fire: { taskId: "a", kind: ScheduleFireKind.TRIGGER, firedAt: timestampFromDate(START) } });
      call.ok();
    },
    BackfillSchedule: async (call) => {
      const request = await call.read(BackfillScheduleRequestSchema);
      range = [request?.name, request?.from, request?.to];
      call.send(BackfillScheduleResponseSchema, { fires: [{ taskId: "b", kind: ScheduleFireKind.BACKFILL }], duplicates: 2 });
      call.ok();
    },
    GetScheduleHistory: (call) => {
      call.send(GetScheduleHistoryResponseSchema, { fires: [{ taskId: "c", kind: ScheduleFireKind.INSTANT }, { taskId: "d" }] });
      call.ok();
    },
    RecomputeSchedule: (call) => {
      call.send(RecomputeScheduleResponseSchema, { moved: true, before: ["x"], after: ["y"], tzdataVersion: "2031a" });
      call.ok();
    },
  });
  await using client = clientOf(server.address);
  assert.deepEqual(await client.triggerSchedule("daily"), { taskId: "a", kind: "TRIGGER", firedAt: START, scheduledAt: undefined });
  const filled = await client.backfillSchedule("daily", START, END);
  assert.deepEqual([filled.fires[0]?.taskId, filled.fires[0]?.kind, filled.duplicates], ["b", "BACKFILL", 2]);
  assert.deepEqual(range, ["daily", timestampFromDate(START), timestampFromDate(END)]);
  assert.deepEqual((await client.scheduleHistory("daily")).map(({ taskId, kind }) => [taskId, kind]), [["c", "INSTANT"], ["d", undefined]]);
  const moved = { moved: true, before: ["x"], after: ["y"], tzdataVersion: "2031a" };
  assert.deepEqual(await client.recomputeSchedule("daily"), moved);
});
