// An Express, Mongoose, ioredis and Socket.IO server of the usual kind with the same diagram.
// Where usual servers differ, it takes the faster way: an index that fits the query, lean reads, a
// cached list of limited length, and tokens that are kept in memory after the first use. Like usual
// servers it does not validate, count or limit requests. It is as durable as chatlab.
// Settings: PORT, MONGO_URL, REDIS_URL, DATABASE, CACHE (on or off). It exits when its standard
// input is closed.

import { createServer } from "node:http";
import express from "express";
import Redis from "ioredis";
import mongoose from "mongoose";
import { Server } from "socket.io";

const TTL = 5; // seconds
const LIMIT = 50; // messages of a conversation that are read and cached
const { PORT, MONGO_URL, REDIS_URL, DATABASE, CACHE = "on" } = process.env;
const caching = CACHE === "on";

// --- MongoDB and Redis ------------------------------------------------------------------------

const messageSchema = new mongoose.Schema(
  {
    conversation: { type: String, required: true },
    senderId: { type: String, required: true },
    receiverId: { type: String, required: true },
    text: { type: String, required: true, trim: true, maxlength: 4000 },
    clientId: String,
    reactions: { type: Map, of: [String], default: {} },
  },
  { timestamps: true, writeConcern: { w: "majority", j: true } },
);
messageSchema.index({ conversation: 1, createdAt: -1 });
const Message = mongoose.model("Message", messageSchema);
const Token = mongoose.model("Token", new mongoose.Schema({ _id: String, userId: String }));

const url = new URL(REDIS_URL);
const redis =
  url.protocol === "unix:"
    ? new Redis({
        path: decodeURIComponent(url.pathname),
        db: Number(url.searchParams.get("db") ?? 0),
      })
    : new Redis(REDIS_URL);

const usersByToken = new Map();

async function userOf(token) {
  if (!usersByToken.has(token)) {
    const found = token && (await Token.findById(token).lean());
    if (!found) return null;
    usersByToken.set(token, found.userId);
  }
  return usersByToken.get(token);
}

const keyOf = (a, b) => `messages:${[a, b].sort().join(":")}`;

// --- the diagram ------------------------------------------------------------------------------

async function send(senderId, { receiverId, text, clientId }) {
  const key = keyOf(senderId, receiverId);
  const message = new Message({ conversation: key, senderId, receiverId, text, clientId });
  await message.save();
  const plain = message.toJSON({ flattenMaps: true });
  if (caching) {
    await redis.setex(`message:${message.id}`, TTL, JSON.stringify(plain));
    const cached = await redis.get(key);
    const messages = cached ? JSON.parse(cached) : [];
    messages.push(plain);
    await redis.setex(key, TTL, JSON.stringify(messages.slice(-LIMIT)));
  }
  io.to(receiverId).to(senderId).emit("newMessage", plain);
  return plain;
}

async function read(userId, otherId) {
  const key = keyOf(userId, otherId);
  const cached = caching && (await redis.get(key));
  if (cached) return JSON.parse(cached);
  const messages = await Message.find({ conversation: key })
    .sort({ createdAt: -1 })
    .limit(LIMIT)
    .lean();
  messages.reverse();
  if (caching) await redis.setex(key, TTL, JSON.stringify(messages));
  return messages;
}

// --- the transports ---------------------------------------------------------------------------

const app = express();
app.disable("x-powered-by");
app.use(express.json());

async function authenticate(request, response, next) {
  request.userId = await userOf(request.headers.authorization?.replace(/^Bearer /, ""));
  if (!request.userId) return response.status(401).json({ error: "unauthorized" });
  next();
}

app.get("/healthz", (_request, response) => response.json({ status: "ok" }));
app.post("/api/messages/send", authenticate, async (request, response) => {
  response.json(await send(request.userId, request.body));
});
app.get("/api/messages/:userId", authenticate, async (request, response) => {
  response.json(await read(request.userId, request.params.userId));
});

const server = createServer(app);
const io = new Server(server, { transports: ["websocket"] });
io.use(async (socket, next) => {
  socket.data.userId = await userOf(socket.handshake.auth.token);
  next(socket.data.userId ? undefined : new Error("unauthorized"));
});
io.on("connection", (socket) => {
  socket.join(socket.data.userId);
  socket.on("sendMessage", async (payload, acknowledge) => {
    acknowledge({ ok: true, message: await send(socket.data.userId, payload) });
  });
});

await mongoose.connect(MONGO_URL, { dbName: DATABASE });
await Message.init(); // creates the index
server.listen(Number(PORT), "127.0.0.1");
process.stdin.on("end", () => process.exit(0)).resume();
