// Compares what transports cost a client: CPU per frame of a producer's stream, and per unary call, against a real
// server. It is why the SDK has its own transport on node:http2. Prints one JSON line for each transport.
//
//   node bench/sdks/ts/transports.mjs [--frames 20000] [--calls 6000]
import { createRequire } from "node:module";
import { parseArgs } from "node:util";
import { Producer } from "../../../sdks/ts/dist/index.js";
import { startTestServer } from "../../../sdks/ts/dist/testing.js";
import { Channel } from "../../../sdks/ts/dist/transport.js";
import { framed } from "../../../sdks/ts/dist/grpc.js";
import { create, fromBinary, toBinary } from "../../../sdks/ts/node_modules/@bufbuild/protobuf/dist/esm/index.js";
import { createGrpcTransport } from "../../../sdks/ts/node_modules/@connectrpc/connect-node/dist/esm/index.js";
import { createClient } from "../../../sdks/ts/node_modules/@connectrpc/connect/dist/esm/index.js";
import { ProduceRequestSchema, ProduceResponseSchema, ProducerService } from "../../../sdks/ts/dist/gen/codeq/v1/producer_service_pb.js";
import { GetTaskRequestSchema, GetTaskResponseSchema, TaskService } from "../../../sdks/ts/dist/gen/codeq/v1/task_service_pb.js";

const require = createRequire(new URL("../../../sdks/ts/package.json", import.meta.url));
const grpc = require("@grpc/grpc-js");

const { values } = parseArgs({ options: { frames: { type: "string", default: "20000" }, calls: { type: "string", default: "6000" } } });
const FRAMES = Number(values.frames);
const CALLS = Number(values.calls);
const WINDOW = 64;
const CONCURRENT = 32;
const PRODUCE = "/codeq.v1.ProducerService/Produce";
const GET_TASK = "/codeq.v1.TaskService/GetTask";

const HELLO = create(ProduceRequestSchema, { hello: {} });
const FRAME = create(ProduceRequestSchema, { tasks: [{ command: "BENCH", payload: Buffer.from('{"orderId":"42"}') }] });

/** Keeps WINDOW frames in flight until FRAMES are acked. `send` sends a message; `acks` is called with each response. */
function pump(send, end) {
  let sent = 0;
  let acked = 0;
  return (response) => {
    acked += response.acks.length;
    while (sent < FRAMES && sent - acked < WINDOW) {
      sent += 1;
      send(FRAME);
    }
    if (acked === FRAMES) end();
  };
}

const TRANSPORTS = {
  "node:http2 (the SDK's)": {
    async frames(server) {
      const channel = new Channel(server.producerAddress, undefined);
      const metadata = { authorization: `Bearer ${server.token}` };
      await new Promise((resolve, reject) => {
        let take;
        const handler = { message: (data) => take(fromBinary(ProduceResponseSchema, data)), ended: (error) => (error ? reject(error) : resolve()) };
        channel.call(PRODUCE, metadata, handler).then((call) => {
          take = pump((message) => call.write(framed([toBinary(ProduceRequestSchema, message)])), () => call.end());
          call.write(framed([toBinary(ProduceRequestSchema, HELLO)]));
        }, reject);
      });
      channel.close();
    },
    calls(server) {
      const channel = new Channel(server.producerAddress, undefined);
      const metadata = { authorization: `Bearer ${server.token}` };
      const call = async (taskId) => {
        const request = toBinary(GetTaskRequestSchema, create(GetTaskRequestSchema, { taskId }));
        return fromBinary(GetTaskResponseSchema, await channel.unary(GET_TASK, request, metadata, 30_000));
      };
      return { call, close: () => channel.close() };
    },
  },
  "@grpc/grpc-js": {
    async frames(server) {
      const client = new grpc.Client(server.producerAddress, grpc.credentials.createInsecure());
      const serialize = (message) => Buffer.from(toBinary(ProduceRequestSchema, message));
      const deserialize = (data) => fromBinary(ProduceResponseSchema, data);
      const stream = client.makeBidiStreamRequest(PRODUCE, serialize, deserialize, bearer(server));
      await new Promise((resolve, reject) => {
        stream.on("data", pump((message) => stream.write(message), () => stream.end()));
        stream.on("end", resolve);
        stream.on("error", reject);
        stream.write(HELLO);
      });
      client.close();
    },
    calls(server) {
      const client = new grpc.Client(server.producerAddress, grpc.credentials.createInsecure());
      const metadata = bearer(server);
      const serialize = (message) => Buffer.from(toBinary(GetTaskRequestSchema, message));
      const deserialize = (data) => fromBinary(GetTaskResponseSchema, data);
      const call = (taskId) =>
        new Promise((resolve, reject) => {
          const request = create(GetTaskRequestSchema, { taskId });
          client.makeUnaryRequest(GET_TASK, serialize, deserialize, request, metadata, (error, reply) => (error ? reject(error) : resolve(reply)));
        });
      return { call, close: () => client.close() };
    },
  },
  "@connectrpc/connect-node": {
    async frames(server) {
      const transport = createGrpcTransport({ baseUrl: `http://${server.producerAddress}` });
      const client = createClient(ProducerService, transport);
      const queue = [HELLO];
      let wake;
      let isOver = false;
      const take = pump(
        (message) => {
          queue.push(message);
          wake?.();
        },
        () => {
          isOver = true;
          wake?.();
        },
      );
      async function* requests() {
        for (;;) {
          while (queue.length > 0) yield queue.shift();
          if (isOver) return;
          await new Promise((resolve) => (wake = resolve));
        }
      }
      for await (const response of client.produce(requests(), { headers: { authorization: `Bearer ${server.token}` } })) take(response);
    },
    calls(server) {
      const client = createClient(TaskService, createGrpcTransport({ baseUrl: `http://${server.producerAddress}` }));
      const options = { headers: { authorization: `Bearer ${server.token}` } };
      return { call: (taskId) => client.getTask({ taskId }, options), close: () => undefined };
    },
  },
};

function bearer(server) {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${server.token}`);
  return metadata;
}

async function measured(count, work) {
  const cpu = process.cpuUsage();
  const begun = performance.now();
  await work();
  const used = process.cpuUsage(cpu);
  const perSecond = Math.round(count / ((performance.now() - begun) / 1000));
  return { cpuUs: Math.round(((used.user + used.system) / count) * 10) / 10, perSecond };
}

async function getTasks(transport, server, taskId, count) {
  const { call, close } = transport.calls(server);
  let left = count;
  await Promise.all(
    Array.from({ length: CONCURRENT }, async () => {
      while (left > 0) {
        left -= 1;
        await call(taskId);
      }
    }),
  );
  close();
}

const server = await startTestServer();
try {
  const producer = new Producer({ addresses: server.producerAddress, token: server.token });
  const taskId = await producer.create("READ", { orderId: "42" });
  await producer.close();
  for (const [name, transport] of Object.entries(TRANSPORTS)) {
    await getTasks(transport, server, taskId, 1000); // warm up
    const frames = await measured(FRAMES, () => transport.frames(server));
    const calls = await measured(CALLS, () => getTasks(transport, server, taskId, CALLS));
    console.log(JSON.stringify({
      bench: "sdk-ts-transports", transport: name, frame_cpu_us: frames.cpuUs, frames_per_s: frames.perSecond,
      call_cpu_us: calls.cpuUs, calls_per_s: calls.perSecond,
    }));
  }
} finally {
  await server.stop();
}
process.exit(0);
