// A bare gRPC call that creates a task: @grpc/grpc-js with messages of protobuf-es, and nothing else.
import { create, toBinary, fromBinary } from "../../../sdks/ts/node_modules/@bufbuild/protobuf/dist/esm/index.js";
import { CreateTaskRequestSchema, CreateTaskResponseSchema } from "../../../sdks/ts/dist/gen/codeq/v1/task_service_pb.js";

/** Returns a function that creates a task by a bare call, and one that disconnects. */
export function bareCreates(grpc, server, payload) {
  const client = new grpc.Client(server.producerAddress, grpc.credentials.createInsecure());
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${server.token}`);
  const serialize = (message) => Buffer.from(toBinary(CreateTaskRequestSchema, message));
  const deserialize = (data) => fromBinary(CreateTaskResponseSchema, data);
  const create_ = () =>
    new Promise((resolve, reject) => {
      const spec = { command: "LONE", payload: Buffer.from(JSON.stringify(payload)) };
      const request = create(CreateTaskRequestSchema, { spec });
      client.makeUnaryRequest("/codeq.v1.TaskService/CreateTask", serialize, deserialize, request, metadata, (error, reply) => {
        if (error) reject(error);
        else resolve(reply.task.id);
      });
    });
  return { create: create_, close: () => client.close() };
}
