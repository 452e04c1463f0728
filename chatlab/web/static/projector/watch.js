/* The flow, as the service tells it. */

import { io } from "../vendor/socket.io.esm.min.js";

const AGAIN = 1_000; // ms until we knock again where the service itself closed the door

/** Hear every flow event; `hears` has `event`, `connected`, `lost`, `ended`. Call what is returned to stop. */
export function watch(token, hears) {
  const path = new URL("socket.io", document.baseURI).pathname;
  const socket = io(`${document.location.origin}/flow`, { path, transports: ["websocket"], auth: { token }, forceNew: true, reconnectionDelayMax: 3000 });
  let again;
  const knock = () => (again = setTimeout(() => socket.connect(), AGAIN));
  socket.on("flow", hears.event);
  socket.on("connect", hears.connected);
  socket.on("disconnect", (reason) => {
    hears.lost();
    if (reason === "io server disconnect") knock();
  });
  socket.on("connect_error", (error) => {
    hears.lost();
    if (error.data?.code === "unauthenticated") hears.ended();
    else if (!socket.active) knock();
  });
  return () => {
    clearTimeout(again);
    socket.off();
    socket.disconnect();
  };
}
