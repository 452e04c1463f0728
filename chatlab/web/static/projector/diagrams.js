/* The two ways through the diagram, as the seed draws them, each showing one message at a time: what really takes a few milliseconds is
   shown long enough to be seen, and what passes meanwhile is counted at each box. */

import { flowMap } from "../lab/flow_map.js";

const HOLD = 900; // ms that a finished way stays lit before another takes its place
const STUCK = 6_000; // ms after which a way that does not end gives its place

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
    ["emit", "Emit via Socket.IO", "newMessage to both people"],
    ["respond", "Response to client", "200 OK, or the ack"],
  ],
};

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

export const sendDiagram = (root, story) => new Diagram(root, story, SEND);
export const readDiagram = (root, story) => new Diagram(root, story, READ);

class Diagram {
  #map;
  #way = null;
  #since = 0;

  constructor(root, story, plan) {
    Object.assign(this, { story, plan });
    this.#map = flowMap(root, this.#model(), { faces: plan.faces, apart: true, label: plan.label });
  }

  draw() {
    const latest = this.story.latest[this.plan.kind];
    if (latest && latest !== this.#way && this.#free()) {
      this.#way = latest;
      this.#since = performance.now();
    }
    this.#map.update(this.#model());
  }

  /** What this diagram says of the way it shows, once it is done. */
  get shown() {
    return this.#way;
  }

  #free() {
    const now = performance.now();
    if (!this.#way) return true;
    return this.#way.done ? now > Math.max(this.#map.busyUntil, this.#since) + HOLD : now > this.#since + STUCK;
  }

  #model() {
    const way = this.#way;
    const passed = this.story.passed[this.plan.kind];
    const boxes = this.plan.boxes.map(([stage, title, note]) => ({
      stage,
      title,
      note: stage === "respond" && way?.cache ? `X-Cache: ${way.cache}` : note,
      tookMs: way?.took[stage] ?? null,
      skipped: Boolean(way?.done && way.took[stage] === undefined),
      passed: passed[stage] ?? 0,
    }));
    return { trace: way?.trace ?? null, door: way?.door ?? null, boxes };
  }

  close() {
    this.#map.close();
  }
}
