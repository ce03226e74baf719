import { plain } from "./admin-records.js";
import { pageRequest, there, type PageOptions, type TenantOptions, type TenantPageOptions } from "./base-client.js";
import {
  CreateSubscriptionResponseSchema,
  HeartbeatSubscriptionResponseSchema,
  SubscriptionSchema,
  SubscriptionService,
} from "./gen/codeq/v1/subscription_service_pb.js";
import { pages, type Page } from "./paging.js";
import { ScheduleClient } from "./schedule-client.js";
import type { DeliveryMode, Subscribed, Subscription } from "./subscription-records.js";
import type { CallOptions } from "./unary.js";

/** What to signal to a URL, and how. */
export interface SubscriptionOptions extends CallOptions {
  /** Commands whose work is signalled, at most 256. Default: every command that the token allows. */
  readonly eventTypes?: readonly string[] | undefined;
  /** Seconds until the subscription ends without a heartbeat, 10 to 86400. Default: 300. */
  readonly ttlSeconds?: number | undefined;
  /** How it shares signals with other subscriptions. Default: fanout, where each gets every one. */
  readonly deliveryMode?: DeliveryMode | undefined;
  /** Name of the group, at most 128 characters; needed for `group`, and only then allowed. */
  readonly groupId?: string | undefined;
  /** Shortest time between two signals of one command in seconds, at most 3600. Default: the server's, 5; 0: none. */
  readonly minIntervalSeconds?: number | undefined;
}

/** Calls about subscriptions; a base of `Client`. */
export abstract class SubscriptionClient extends ScheduleClient {
  /** Has a URL get a signal when work becomes ready, until the time to live ends; for workers. */
  async createSubscription(callbackUrl: string, options: SubscriptionOptions = {}): Promise<Subscribed> {
    const { eventTypes = [], deliveryMode = "", groupId = "", ttlSeconds, minIntervalSeconds } = options;
    const request = {
      callbackUrl,
      eventTypes: [...eventTypes],
      deliveryMode,
      groupId,
      ...(ttlSeconds === undefined ? {} : { ttlSeconds }),
      ...(minIntervalSeconds === undefined ? {} : { minIntervalSeconds }),
    };
    const reply = await this.send(SubscriptionService.method.createSubscription, request, options);
    return plain<Subscribed>(CreateSubscriptionResponseSchema, reply);
  }

  /** Makes a subscription last for its time to live from now on, or for a new one of 10 to 86400 s; for workers. */
  async heartbeatSubscription(id: string, ttlSeconds?: number, options: CallOptions = {}): Promise<Subscribed> {
    const request = { id, ...(ttlSeconds === undefined ? {} : { ttlSeconds }) };
    const reply = await this.send(SubscriptionService.method.heartbeatSubscription, request, options);
    return plain<Subscribed>(HeartbeatSubscriptionResponseSchema, reply);
  }

  /** Reads a subscription; for workers. */
  async subscription(id: string, options: CallOptions = {}): Promise<Subscription> {
    const reply = await this.send(SubscriptionService.method.getSubscription, { id }, options);
    return plain<Subscription>(SubscriptionSchema, there(reply.subscription, "subscription"));
  }

  /** Reads a page of the subscriptions that a worker's token may see. */
  async subscriptionsPage(options: PageOptions = {}): Promise<Page<Subscription>> {
    const { pageSize = 0, pageToken = "" } = options;
    const reply = await this.send(SubscriptionService.method.listSubscriptions, { pageSize, pageToken }, options);
    const items = reply.subscriptions.map((each) => plain<Subscription>(SubscriptionSchema, each));
    return { items, nextPageToken: reply.nextPageToken };
  }

  /** Yields the subscriptions that a worker's token may see, page by page. */
  subscriptions(options: PageOptions = {}): AsyncGenerator<Subscription, void, undefined> {
    return pages((pageToken) => this.subscriptionsPage({ ...options, pageToken }), options.pageToken);
  }

  /** Ends a subscription; for workers. */
  async deleteSubscription(id: string, options: CallOptions = {}): Promise<void> {
    await this.send(SubscriptionService.method.deleteSubscription, { id }, options);
  }

  /** Reads a page of all subscriptions of a tenant; for administrators. */
  async tenantSubscriptionsPage(options: TenantPageOptions = {}): Promise<Page<Subscription>> {
    const reply = await this.send(SubscriptionService.method.listTenantSubscriptions, pageRequest(options), options);
    const items = reply.subscriptions.map((each) => plain<Subscription>(SubscriptionSchema, each));
    return { items, nextPageToken: reply.nextPageToken };
  }

  /** Yields all subscriptions of a tenant, page by page; for administrators. */
  tenantSubscriptions(options: TenantPageOptions = {}): AsyncGenerator<Subscription, void, undefined> {
    return pages((pageToken) => this.tenantSubscriptionsPage({ ...options, pageToken }), options.pageToken);
  }

  /** Ends a subscription of a tenant, whoever made it; for administrators. */
  async removeTenantSubscription(id: string, options: TenantOptions = {}): Promise<void> {
    const request = { id, tenant: options.tenant ?? "" };
    await this.send(SubscriptionService.method.removeTenantSubscription, request, options);
  }
}
