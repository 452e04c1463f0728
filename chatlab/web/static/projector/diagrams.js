/* The diagrams of a send and of a read. Each one shows one request at a time, long enough to be
   seen: a request takes a few milliseconds. The requests that pass meanwhile are counted at each
   box. */

import flowMap from "../lab/flow_map.js";

/** @import { FlowState, Kind, Request, Stage } from "./flow_state.js" */

/**
 * @typedef {object} Plan
 * @property {Kind} kind
 * @property {string} label
 * @property {Record<string, string>} faces - the labels of the transports
 * @property {[stage: Stage, title: string, note: string][]} boxes
 */

const SHOW_FINISHED_MS = 900; // before the next request is shown
const SHOW_UNFINISHED_MS = 6_000; // the same, for a request that does not end

/** @type {Plan} */
const SEND = {
  kind: "send",
  label: "The boxes that a send passes",
  faces: { http: "HTTP POST\n/api/messages/send", socket: "WebSocket event\nsendMessage" },
  boxes: [
    ["request", "Request", ""],
    ["create", "Create message object", "_id and time of day"],
    ["save", "Save to MongoDB", "persistent storage"],
    ["cache_message", "Cache in Redis", "message:{_id}"],
    ["cache_conversation", "Update conversation cache", "messages:{id1}:{id2}"],
    ["emit", "Emit via Socket.IO", "newMessage to both users"],
    ["respond", "Response to client", "200 OK, or the ack"],
  ],
};

/** @type {Plan} */
const READ = {
  kind: "read",
  label: "The boxes that a read passes",
  faces: { http: "HTTP GET\n/api/messages/{id}" },
  boxes: [
    ["request", "Request", ""],
    ["read_cache", "Ask the cache", "messages:{id1}:{id2}"],
    ["read_store", "Query MongoDB", "what the cache lacks"],
    ["respond", "Return messages", ""],
  ],
};

class Diagram {
  #map;
  /** @type {Request | null} */
  #request = null; // the one that is shown
  #shownSince = 0;

  /**
   * @param {HTMLElement} root
   * @param {FlowState} flow
   * @param {Plan} plan
   */
  constructor(root, flow, plan) {
    this.flow = flow;
    this.plan = plan;
    this.#map = flowMap(root, this.#model(), { faces: plan.faces, apart: true, label: plan.label });
  }

  draw() {
    const latest = this.flow.latest[this.plan.kind];
    if (latest && latest !== this.#request && this.#canReplace()) {
      this.#request = latest;
      this.#shownSince = performance.now();
    }
    this.#map.update(this.#model());
  }

  /** Whether the request that is shown has been visible long enough. */
  #canReplace() {
    const now = performance.now();
    if (!this.#request) return true;
    if (this.#request.done)
      return now > Math.max(this.#map.busyUntil, this.#shownSince) + SHOW_FINISHED_MS;
    return now > this.#shownSince + SHOW_UNFINISHED_MS;
  }

  #model() {
    const request = this.#request;
    const passed = this.flow.passed[this.plan.kind];
    const boxes = this.plan.boxes.map(([stage, title, note]) => ({
      stage,
      title,
      note: stage === "respond" && request?.cache ? `X-Cache: ${request.cache}` : note,
      tookMs: request?.took[stage] ?? null,
      skipped: Boolean(request?.done && request.took[stage] === undefined),
      passed: passed[stage] ?? 0,
    }));
    return { trace: request?.trace ?? null, door: request?.door ?? null, boxes };
  }

  close() {
    this.#map.close();
  }
}

/**
 * @param {HTMLElement} root
 * @param {FlowState} flow
 */
export const sendDiagram = (root, flow) => new Diagram(root, flow, SEND);

/**
 * @param {HTMLElement} root
 * @param {FlowState} flow
 */
export const readDiagram = (root, flow) => new Diagram(root, flow, READ);
