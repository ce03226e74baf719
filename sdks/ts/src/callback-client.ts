import { plain } from "./admin-records.js";
import { pageRequest, there, type TenantOptions, type TenantPageOptions } from "./base-client.js";
import type { Callback, CallbackState, Callbacks, CallbacksRetried, WebhookAnswer, WebhookSecrets } from "./callback-records.js";
import {
  CallbackSchema,
  CallbackState as WireState,
  ListCallbacksResponseSchema,
  RetryCallbacksResponseSchema,
  TestWebhookResponseSchema,
  WebhookSecretsSchema,
  WebhookService,
} from "./gen/codeq/v1/webhook_service_pb.js";
import { pages, type Page } from "./paging.js";
import { times } from "./requests.js";
import { SubscriptionClient } from "./subscription-client.js";
import type { CallOptions } from "./unary.js";

/** Which callbacks of a command to list. */
export interface CallbackOptions extends TenantPageOptions {
  /** Their state. Default: every state but DELIVERED. */
  readonly state?: CallbackState | undefined;
}

/** Which callbacks of a command to retry. */
export interface RetryCallbacksOptions extends TenantOptions {
  /** Earliest time of their task's end, inclusive. Default: no limit. */
  readonly from?: Date | undefined;
  /** Latest time of their task's end, exclusive. Default: no limit. */
  readonly to?: Date | undefined;
  /** `nextPageToken` of an earlier call. Default: from the beginning. */
  readonly pageToken?: string | undefined;
}

/** Options of a call about the secrets of an endpoint. */
export interface EndpointOptions extends TenantOptions {
  /** URL without query and fragment. Default: all endpoints without secrets of their own. */
  readonly endpoint?: string | undefined;
}

/** Calls about callbacks: the reports of ended tasks to their webhooks; a base of `Client`. */
export abstract class CallbackClient extends SubscriptionClient {
  /** Reads the callbacks of a task, oldest first: one for each of its last ten ends. */
  async taskCallbacks(taskId: string, options: CallOptions = {}): Promise<Callback[]> {
    const reply = await this.send(WebhookService.method.listTaskCallbacks, { taskId }, options);
    return reply.callbacks.map((each) => plain<Callback>(CallbackSchema, each));
  }

  /** Reads a page of the callbacks of a command that are not delivered. */
  async callbacksPage(command: string, options: CallbackOptions = {}): Promise<Callbacks> {
    const state = WireState[options.state ?? "UNSPECIFIED"];
    const request = { ...pageRequest(options), command, state };
    const reply = await this.send(WebhookService.method.listCallbacks, request, options);
    return plain<Callbacks>(ListCallbacksResponseSchema, reply);
  }

  /** Yields the callbacks of a command that are not delivered, page by page. */
  callbacks(command: string, options: CallbackOptions = {}): AsyncGenerator<Callback, void, undefined> {
    const read = async (pageToken: string): Promise<Page<Callback>> => {
      const { callbacks, nextPageToken } = await this.callbacksPage(command, { ...options, pageToken });
      return { items: callbacks, nextPageToken };
    };
    return pages(read, options.pageToken);
  }

  /** Attempts the callbacks of a task at once that were given up or wait; returns their number. */
  async retryTaskCallbacks(taskId: string, options: TenantOptions = {}): Promise<bigint> {
    const request = { taskId, tenant: options.tenant ?? "" };
    const reply = await this.send(WebhookService.method.retryTaskCallbacks, request, options);
    return reply.retried;
  }

  /** Attempts the callbacks of a command at once that were given up; repeat it with the token until that is empty. */
  async retryCallbacks(command: string, options: RetryCallbacksOptions = {}): Promise<CallbacksRetried> {
    const { from, to, pageToken = "", tenant = "" } = options;
    const request = { command, ...times({ from, to }), pageToken, tenant };
    const reply = await this.send(WebhookService.method.retryCallbacks, request, options);
    return plain<CallbacksRetried>(RetryCallbacksResponseSchema, reply);
  }

  /** Sets the one or two secrets, newest first, that sign requests to an endpoint. */
  async putWebhookSecrets(secrets: readonly string[], options: EndpointOptions = {}): Promise<WebhookSecrets> {
    const { endpoint = "", tenant = "" } = options;
    const request = { endpoint, secrets: [...secrets], tenant };
    const reply = await this.send(WebhookService.method.putWebhookSecrets, request, options);
    return plain<WebhookSecrets>(WebhookSecretsSchema, there(reply.secrets, "secrets"));
  }

  /** Reads which endpoints have secrets, with fingerprints of the secrets. */
  async webhookSecrets(options: TenantOptions = {}): Promise<WebhookSecrets[]> {
    const request = { tenant: options.tenant ?? "" };
    const reply = await this.send(WebhookService.method.getWebhookSecrets, request, options);
    return reply.endpoints.map((each) => plain<WebhookSecrets>(WebhookSecretsSchema, each));
  }

  /** Removes the secrets of an endpoint. */
  async deleteWebhookSecrets(options: EndpointOptions = {}): Promise<void> {
    const { endpoint = "", tenant = "" } = options;
    await this.send(WebhookService.method.deleteWebhookSecrets, { endpoint, tenant }, options);
  }

  /** Has the tenant's callbacks to a host, such as `hooks.example.com:443`, wait; returns the paused hosts. */
  async pauseWebhooks(host: string, options: TenantOptions = {}): Promise<string[]> {
    const request = { host, tenant: options.tenant ?? "" };
    const reply = await this.send(WebhookService.method.pauseWebhooks, request, options);
    return reply.pausedHosts;
  }

  /** Delivers the callbacks to a host again; returns the hosts that are still paused. */
  async resumeWebhooks(host: string, options: TenantOptions = {}): Promise<string[]> {
    const request = { host, tenant: options.tenant ?? "" };
    const reply = await this.send(WebhookService.method.resumeWebhooks, request, options);
    return reply.pausedHosts;
  }

  /** Sends one callback of a task that does not exist to a URL, and returns the answer. */
  async testWebhook(url: string, options: TenantOptions = {}): Promise<WebhookAnswer> {
    const request = { url, tenant: options.tenant ?? "" };
    const reply = await this.send(WebhookService.method.testWebhook, request, options);
    return plain<WebhookAnswer>(TestWebhookResponseSchema, reply);
  }
}
