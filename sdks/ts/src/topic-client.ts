import type { MessageInitShape } from "@bufbuild/protobuf";
import { plain } from "./admin-records.js";
import { BaseClient, pageRequest, there, type TenantOptions, type TenantPageOptions } from "./base-client.js";
import { TopicSchema, TopicService, type QueuePolicySchema } from "./gen/codeq/v1/topic_service_pb.js";
import { pages, type Page } from "./paging.js";
import { encode } from "./payloads.js";
import type { QueuePolicy, Topic } from "./topic-records.js";

/** What the server wants to read in every request that deletes a topic. */
const DELETION_POLICY = "Delete";

/** Largest schema of payloads in bytes. */
const SCHEMA_BYTES_MAX = 16_384;

/** Calls about the policies of queues; a base of `Client`. */
export abstract class TopicClient extends BaseClient {
  /** Reads a page of topics. */
  async topicsPage(options: TenantPageOptions = {}): Promise<Page<Topic>> {
    const reply = await this.send(TopicService.method.listTopics, pageRequest(options), options);
    return { items: reply.topics.map((each) => plain<Topic>(TopicSchema, each)), nextPageToken: reply.nextPageToken };
  }

  /** Yields topics by command, page by page. */
  topics(options: TenantPageOptions = {}): AsyncGenerator<Topic, void, undefined> {
    return pages((pageToken) => this.topicsPage({ ...options, pageToken }), options.pageToken);
  }

  /** Reads the policy of a queue. */
  async topic(command: string, options: TenantOptions = {}): Promise<Topic> {
    const request = { command, tenant: options.tenant ?? "" };
    const reply = await this.send(TopicService.method.getTopic, request, options);
    return plain<Topic>(TopicSchema, there(reply.topic, "topic"));
  }

  /** Sets the whole policy of a queue, which need not exist: limits that the policy does not name no longer apply. */
  async putTopic(command: string, policy: QueuePolicy, options: TenantOptions = {}): Promise<Topic> {
    // Values that are undefined are left out when the message is made.
    const { payloadSchema, ...rest } = policy;
    const schema = payloadSchema === undefined ? {} : { payloadSchema: encode(payloadSchema, "payloadSchema", SCHEMA_BYTES_MAX) };
    const stated = { ...rest, ...schema } as MessageInitShape<typeof QueuePolicySchema>;
    const request = { command, policy: stated, tenant: options.tenant ?? "" };
    const reply = await this.send(TopicService.method.putTopic, request, options);
    return plain<Topic>(TopicSchema, there(reply.topic, "topic"));
  }

  /** Removes the policy of a queue; the queue and its tasks stay. Without a policy it does nothing. */
  async deleteTopic(command: string, options: TenantOptions = {}): Promise<void> {
    const request = { command, deletionPolicy: DELETION_POLICY, tenant: options.tenant ?? "" };
    await this.send(TopicService.method.deleteTopic, request, options);
  }
}
