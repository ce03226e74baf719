import { create, fromBinary } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { TaskSchema, type Task as WireTask } from "./gen/codeq/v1/task_pb.js";
import { WorkResponseSchema, type WorkResponse } from "./gen/codeq/v1/worker_service_pb.js";

/** A delivered task, and the bytes that it costs of the worker's window. */
export interface Delivered {
  readonly message: WireTask;
  readonly bytes: number;
}

/** A message of the server. */
export interface WorkerMessage {
  readonly tasks: readonly Delivered[];
  readonly settled: number;
  /** Everything else; `tasks` and `settled` are empty in it. */
  readonly rest: WorkResponse;
}

const NOTHING: WorkResponse = create(WorkResponseSchema);

const TASKS = (2 << 3) | 2;
const SETTLED = 3 << 3;

/** Reads a message: the two common fields by hand, since deliveries need their size, and the rest by protobuf-es. */
export function readWorkerMessage(data: Uint8Array): WorkerMessage {
  const reader = new BinaryReader(data);
  const tasks: Delivered[] = [];
  const others: Uint8Array[] = [];
  let settled = 0;
  while (reader.pos < reader.len) {
    const start = reader.pos;
    const tag = reader.uint32();
    if (tag === TASKS) {
      const bytes = reader.bytes();
      tasks.push({ message: fromBinary(TaskSchema, bytes), bytes: bytes.length });
    } else if (tag === SETTLED) {
      settled = reader.uint32();
    } else {
      reader.skip(tag & 7, tag >>> 3);
      others.push(data.subarray(start, reader.pos));
    }
  }
  const rest = others.length === 0 ? NOTHING : fromBinary(WorkResponseSchema, Buffer.concat(others));
  return { tasks, settled, rest };
}
