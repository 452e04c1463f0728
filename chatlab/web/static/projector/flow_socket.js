/* The stage events of the service, from the Socket.IO namespace `/flow`. */

import { io } from "../vendor/socket.io.esm.min.js";

/** @import { StageEvent } from "./tape.js" */

/**
 * @typedef {object} Handlers
 * @property {(event: StageEvent) => void} event
 * @property {() => void} connected
 * @property {() => void} lost
 * @property {() => void} ended - the session is not valid any more
 */

const RECONNECT_DELAY_MS = 1_000; // after the service itself has closed or refused the connection

/**
 * Receive every stage event. Returns a function that stops.
 *
 * @param {string} token - or the key of the page
 * @param {Handlers} handlers
 */
export function watchFlow(token, handlers) {
  const path = new URL("socket.io", document.baseURI).pathname;
  const socket = io(`${document.location.origin}/flow`, {
    path,
    transports: ["websocket"],
    auth: { token },
    forceNew: true,
    reconnectionDelayMax: 3000,
  });
  let timer = 0;
  const reconnectLater = () => (timer = setTimeout(() => socket.connect(), RECONNECT_DELAY_MS));
  socket.on("flow", handlers.event);
  socket.on("connect", handlers.connected);
  socket.on("disconnect", (reason) => {
    handlers.lost();
    if (reason === "io server disconnect") reconnectLater();
  });
  socket.on("connect_error", (error) => {
    handlers.lost();
    if (error.data?.code === "unauthenticated") handlers.ended();
    else if (!socket.active) reconnectLater();
  });
  return () => {
    clearTimeout(timer);
    socket.off();
    socket.disconnect();
  };
}
